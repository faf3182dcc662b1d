"""The loss of a large vocabulary without its logits: they exist for one chunk of tokens at a time.

For ``N`` tokens and ``V`` words the logits are ``N x V``: 2 GiB in float32 for 16,384 tokens of a 32,000-word
vocabulary, more than everything else the last layer needs. Here each chunk's gradient is taken while its logits are at
hand (the loss is the root of the backward pass, so the gradient is known up to one scalar), which also saves computing
them a second time.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    hidden: Float[Array, "b t d"],
    head: Float[Array, "d v"],
    targets: Int[Array, "b t"],
    weights: Float[Array, "b t"],
    *,
    chunk_tokens: int = 4096,
) -> Float[Array, ""]:
    """The weighted sum over tokens of ``-log softmax(hidden @ head)[target]``, in nats, accumulated in float32.

    Args:
        hidden: outputs of the last layer.
        head: unembedding matrix, in the dtype to compute in.
        targets: the token to predict at each position.
        weights: weight of each position; 0 leaves it out.
        chunk_tokens: about how many tokens' logits exist at a time.
    """
    return _cross_entropy(hidden, head, targets, weights, chunk_tokens)


def token_log_likelihood(
    hidden: Float[Array, "b t d"], head: Float[Array, "d v"], targets: Int[Array, "b t"], *, chunk_tokens: int = 4096
) -> Float[Array, "b t"]:
    """``log softmax(hidden @ head)[target]`` of every position, in nats."""

    def chunk(_, xs):
        logits_btv, log_z_bt = _logits(xs[0], head)
        return None, _pick(logits_btv, xs[1]) - log_z_bt

    _, out_cbt = jax.lax.scan(chunk, None, _split((hidden, targets), chunk_tokens))
    return _join(out_cbt, jax.typeof(targets).sharding.spec)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _cross_entropy(hidden, head, targets, weights, chunk_tokens):
    return -jnp.sum(token_log_likelihood(hidden, head, targets, chunk_tokens=chunk_tokens) * weights)


def _forward(hidden, head, targets, weights, chunk_tokens):
    spec = jax.typeof(head).sharding.spec
    # Where the head was gathered from other devices its gradient stays a partial sum here, to be added up once.
    head_spec = jax.P(*spec.partitions, unreduced=spec.reduced)

    def chunk(carry, xs):
        loss, head_grad_dv = carry
        hidden_btd, targets_bt, weights_bt = xs
        logits_btv, log_z_bt = _logits(hidden_btd, head)
        nll_bt = log_z_bt - _pick(logits_btv, targets_bt)
        hit_btv = targets_bt[..., None] == jnp.arange(head.shape[1])
        grad_btv = weights_bt[..., None] * (jnp.exp(logits_btv - log_z_bt[..., None]) - hit_btv)
        grad_btv = grad_btv.astype(head.dtype)
        hidden_grad_btd = jnp.einsum("btv,dv->btd", grad_btv, head, out_sharding=jax.typeof(hidden_btd).sharding)
        head_grad_dv += jnp.einsum(
            "btd,btv->dv", hidden_btd, grad_btv, preferred_element_type=jnp.float32, out_sharding=head_spec
        )
        return (loss + jnp.sum(nll_bt * weights_bt), head_grad_dv), (hidden_grad_btd, nll_bt)

    zero = (jnp.float32(0), jnp.zeros(head.shape, jnp.float32, out_sharding=head_spec))
    (loss, head_grad_dv), (hidden_grad, nll) = jax.lax.scan(
        chunk, zero, _split((hidden, targets, weights), chunk_tokens)
    )
    hidden_grad_btd = _join(hidden_grad, jax.typeof(hidden).sharding.spec)
    nll_bt = _join(nll, jax.typeof(targets).sharding.spec)
    return loss, (hidden_grad_btd, head_grad_dv.astype(head.dtype), nll_bt)


def _backward(chunk_tokens, residuals, loss_grad):
    hidden_grad_btd, head_grad_dv, nll_bt = residuals
    partial = jax.typeof(head_grad_dv).sharding.spec.unreduced
    head_scale = jax.sharding.reshard(loss_grad.astype(head_grad_dv.dtype), jax.P(reduced=partial))
    return (
        hidden_grad_btd * loss_grad.astype(hidden_grad_btd.dtype),
        head_grad_dv * head_scale,
        None,
        nll_bt * loss_grad,
    )


_cross_entropy.defvjp(_forward, _backward)


def _logits(hidden_btd, head_dv):
    logits_btv = jnp.einsum("btd,dv->btv", hidden_btd, head_dv, preferred_element_type=jnp.float32)
    return logits_btv, jax.nn.logsumexp(logits_btv, axis=-1)


def _pick(logits_btv, targets_bt):
    """The target's logit, as a masked sum: it stays local where the vocabulary is split over devices."""
    hit_btv = targets_bt[..., None] == jnp.arange(logits_btv.shape[-1])
    return jnp.sum(jnp.where(hit_btv, logits_btv, 0), axis=-1)


def _split(arrays, chunk_tokens):
    """Cuts ``[b, t, ...]`` into ``[chunks, b, t / chunks, ...]``: along t, since b may be split over devices."""
    b, t = arrays[0].shape[:2]
    chunks = next(n for n in range(1, t + 1) if t % n == 0 and (b * t // n <= chunk_tokens or n == t))

    def split(x):
        spec = jax.typeof(x).sharding.spec
        x = jnp.reshape(x, (b, chunks, t // chunks, *x.shape[2:]), out_sharding=jax.P(spec[0], None, *spec[1:]))
        return jnp.moveaxis(x, 1, 0)

    return jax.tree.map(split, arrays)


def _join(chunks_cbt, spec):
    c, b, t = chunks_cbt.shape[:3]
    return jnp.reshape(jnp.moveaxis(chunks_cbt, 0, 1), (b, c * t, *chunks_cbt.shape[3:]), out_sharding=jax.P(*spec))
