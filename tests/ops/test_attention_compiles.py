"""The kernels compiled for devices that are not there: that they lower and fit, and what memory they need."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from astrojax.ops.attention import attention
from astrojax.parallel.ahead import compile_ahead
from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.parallel.topology import devices_of


def compiled(topology, op, *, b=2, t=1024, n=8, k=2, h=128, dtype=jnp.bfloat16, devices=1, tensor=1, backward=True):
    """``op(query, key, value, segment_ids)`` compiled for ``topology``, with its gradients."""
    mesh = make_mesh(MeshConfig(tensor=tensor), list(devices_of(topology, devices)))
    batch = ("data", "fsdp")

    def array(shape, dtype, spec):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    heads = [array((b, t, heads, h), dtype, P(batch, None, "tensor", None)) for heads in (n, k, k)]
    segments = array((b, t), jnp.int32, P(batch, None))

    def total(query, key, value, segment_ids):
        return jnp.sum(op(query, key, value, segment_ids).astype(jnp.float32))

    program = jax.grad(total, argnums=(0, 1, 2)) if backward else op
    with jax.set_mesh(mesh):
        return compile_ahead(jax.jit(program).trace(*heads, segments))


def kernels(program, target):
    return program.as_text().count(f'custom_call_target="{target}"')


GPU_HEADS = {  # By dtype: sm_86 takes the narrowest tiles, sm_90 has none of its own for float32.
    "rtx-a5000": {"bfloat16": (64, 68, 128, 256), "float16": (80,), "float32": (64, 128, 256)},
    "h200": {"bfloat16": (64, 68, 128, 256), "float32": (128,)},
}


@pytest.mark.parametrize(
    ("topology", "h", "dtype"),
    [(topology, h, dtype) for topology, heads in GPU_HEADS.items() for dtype, hs in heads.items() for h in hs],
)
def test_forward_and_backward_compile_for_gpus(topology, h, dtype):
    """``auto`` takes the kernels, and XLA refuses a kernel that wants more shared memory than the device has."""

    def op(query, key, value, segment_ids):
        return attention(query, key, value, causal=True, window=300, prefix=5, segment_ids=segment_ids)

    assert kernels(compiled(topology, op, h=h, dtype=dtype), "__gpu$xla.gpu.triton") == 3


@pytest.mark.parametrize(
    ("topology", "h", "dtype"),
    [
        ("tpu-v6e", 128, "bfloat16"),
        ("tpu-v6e", 68, "bfloat16"),
        ("tpu-v6e", 128, "float32"),
        ("tpu-v5e", 128, "bfloat16"),
    ],
)
def test_forward_and_backward_compile_for_tpus(topology, h, dtype):
    def op(query, key, value, segment_ids):
        return attention(query, key, value, causal=True, window=300, segment_ids=segment_ids)

    assert kernels(compiled(topology, op, h=h, dtype=dtype), "tpu_custom_call") == 3


@pytest.mark.parametrize(
    ("topology", "target"), [("rtx-a5000", "__gpu$xla.gpu.triton"), ("tpu-v6e", "tpu_custom_call")]
)
@pytest.mark.parametrize("tensor", [1, 2])
def test_two_devices_share_batch_or_heads_and_send_nothing(topology, target, tensor):
    def op(query, key, value, segment_ids):
        return attention(query, key, value, causal=True, segment_ids=segment_ids)

    program = compiled(topology, op, devices=2, tensor=tensor)
    assert kernels(program, target) == 3
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in program.as_text()


def test_what_the_kernel_does_not_take_goes_in_chunks():
    def op(query, key, value, segment_ids):
        return attention(query, key, value, mask=jnp.tri(1024, dtype=bool))

    program = compiled("rtx-a5000", op)
    assert kernels(program, "__gpu$xla.gpu.triton") == 0
    assert program.memory_analysis().temp_size_in_bytes < 2 * 8 * 1024 * 1024 * 4  # The scores of all pairs.


@pytest.mark.slow
def test_memory_is_a_fraction_of_what_xla_needs():
    """Forward and backward at 8,192 tokens, on one A5000: the promise is 40 %, the expectation 5 %."""

    def ours(query, key, value, segment_ids):
        return attention(query, key, value, causal=True)

    def xla(query, key, value, segment_ids):
        return jax.nn.dot_product_attention(query, key, value, is_causal=True, implementation="xla")

    needed = {
        op: compiled("rtx-a5000", op, t=8192, n=32, k=8).memory_analysis().temp_size_in_bytes for op in (ours, xla)
    }
    assert needed[ours] < 0.05 * needed[xla]


def test_keys_are_not_repeated():
    def op(query, key, value, segment_ids):
        return attention(query, key, value, causal=True)

    program = compiled("rtx-a5000", op, t=4096, n=32, k=1, backward=False)
    logsum = 2 * 32 * 4096 * 4
    assert program.memory_analysis().temp_size_in_bytes < 1.1 * logsum
