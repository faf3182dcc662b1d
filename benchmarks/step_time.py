"""Training speed of the default preset beside the same model in Hugging Face transformers on PyTorch.

python -m benchmarks.step_time        # needs: pip install torch transformers

One process, one set of weights, the same batches of real text, float32, AdamW, clipping at 1.0. The sides take turns
of several steps, so that a change in the machine's speed meets all; the first step of a turn, in which a side finds its
memory and caches taken by the other, is not timed. The ratio is the median over the turns. The losses are compared
first: the benchmark stops if the models are not the same.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

from astrojax.parallel.host import restart_with_huge_pages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12, help="turns of each side")
    parser.add_argument("--steps", type=int, default=10, help="timed steps per turn")
    parser.add_argument("--compile", action="store_true", help="also compile the PyTorch model (needs a C++ compiler)")
    flags = parser.parse_args()

    import jax
    import torch
    import transformers

    from astrojax.config import load_config
    from astrojax.parallel.mesh import make_mesh
    from astrojax.tasks import make_task
    from astrojax.train.loop import prepare
    from benchmarks.record import save_result

    config = load_config("configs/llm.py")
    task = make_task(config)
    with tempfile.TemporaryDirectory() as folder:
        prepare(task, Path(folder))
        batches = itertools.islice(iter(task.training_data()), 64)
        # Windows of one document only: the plain Hugging Face model does not separate packed documents.
        batches = [b for b in batches if b["segment_ids"].max() == 1][:8]
    tokens = config.train.batch_size * config.data.seq_len
    mesh = make_mesh(config.mesh)
    ours = AstrojaxSide(task, mesh, batches)
    sides = {"astrojax": ours, "transformers": TorchSide(config, ours.params_on_host(), batches, compiled=False)}
    if flags.compile:
        sides["transformers_compiled"] = TorchSide(config, ours.params_on_host(), batches, compiled=True)
    losses = {name: float(side.step(0)) for name, side in sides.items()}
    print("first loss:", {name: round(loss, 5) for name, loss in losses.items()})
    if max(losses.values()) - min(losses.values()) > 1e-4 * losses["astrojax"]:
        raise SystemExit("the models differ: their first losses are not the same")
    seconds = {name: [] for name in sides}
    for _ in range(flags.rounds):
        for name, side in sides.items():
            float(side.step(0))
            began = time.perf_counter()
            for step in range(flags.steps):
                loss = side.step(step % len(batches))
            float(loss)
            seconds[name].append((time.perf_counter() - began) / flags.steps)
    figures = {"tokens_per_step": tokens, "precision": "float32", "first_losses": losses}
    for name in sides:
        rate = tokens / statistics.median(seconds[name])
        ratio = statistics.median(t / o for t, o in zip(seconds[name], seconds["astrojax"], strict=True))
        figures[name] = {"tokens_per_second": round(rate), "seconds_over_astrojax": round(ratio, 3)}
        print(f"{name:>22}: {rate:8,.0f} tokens/s   time over astrojax's {ratio:.2f}")
    versions = {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    print("written to", save_result("step_time", figures, versions))


class AstrojaxSide:
    """The product's own step on the product's own state."""

    def __init__(self, task, mesh, batches):
        import jax

        from astrojax.parallel.sharding import put_batch
        from astrojax.train.optimizers import make_optimizer, make_schedule
        from astrojax.train.step import init_state, make_train_step

        config = task.config
        self.mesh, self.batches = mesh, [put_batch(b, mesh) for b in batches]
        with jax.set_mesh(mesh):
            optimizer = make_optimizer(config.optimizer, config.train.steps)
            schedule = make_schedule(config.optimizer, config.train.steps)
            self.state = jax.jit(lambda: init_state(task, optimizer, 0))()
            self.train_step = jax.jit(make_train_step(task, optimizer, schedule), donate_argnums=0)

    def params_on_host(self):
        import jax

        return jax.device_get(self.state.params)

    def step(self, index: int):
        import jax

        with jax.set_mesh(self.mesh):
            self.state, metrics = self.train_step(self.state, self.batches[index])
        return metrics["loss"]


class TorchSide:
    """``LlamaForCausalLM`` with the same weights, stepped the way its users step it."""

    def __init__(self, config, params, batches, *, compiled: bool):
        import torch
        import transformers

        m, o = config.model, config.optimizer
        self.model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=m.vocab_size,
                hidden_size=m.d_model,
                intermediate_size=m.d_ff,
                num_hidden_layers=m.num_layers,
                num_attention_heads=m.num_heads,
                num_key_value_heads=m.num_kv_heads,
                head_dim=m.head_dim,
                rms_norm_eps=m.norm_eps,
                rope_theta=m.rope_theta,
                tie_word_embeddings=False,
                max_position_embeddings=config.data.seq_len,
                use_cache=False,
            )
        )
        self.model.load_state_dict(llama_weights(params, m.num_layers))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=o.peak_lr / o.warmup_steps,
            betas=(o.b1, o.b2),
            eps=o.eps,
            weight_decay=o.weight_decay,
            fused=True,
        )
        self.clip_norm = o.clip_norm
        self.forward = torch.compile(self.model) if compiled else self.model
        self.batches = [tuple(torch.from_numpy(b[name]).long() for name in ("tokens", "targets")) for b in batches]

    def step(self, index: int):
        import torch

        tokens, targets = self.batches[index]
        logits = self.forward(input_ids=tokens).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def llama_weights(params, num_layers: int) -> dict:
    """Our parameters under Hugging Face's names: transposed, never permuted."""
    import torch

    def tensor(array):
        return torch.from_numpy(array.copy())

    blocks = params["blocks"]
    weights = {
        "model.embed_tokens.weight": tensor(params["embed_vd"]),
        "model.norm.weight": tensor(params["final_norm_d"]),
        "lm_head.weight": tensor(params["head_dv"].T),
    }
    for i in range(num_layers):
        prefix = f"model.layers.{i}"
        for theirs, ours in (("q", "q_do"), ("k", "k_do"), ("v", "v_do"), ("o", "o_od")):
            weights[f"{prefix}.self_attn.{theirs}_proj.weight"] = tensor(blocks["attention"][ours][i].T)
        for theirs, ours in (("gate", "gate_df"), ("up", "up_df"), ("down", "down_fd")):
            weights[f"{prefix}.mlp.{theirs}_proj.weight"] = tensor(blocks["mlp"][ours][i].T)
        weights[f"{prefix}.input_layernorm.weight"] = tensor(blocks["attention_norm_d"][i])
        weights[f"{prefix}.post_attention_layernorm.weight"] = tensor(blocks["mlp_norm_d"][i])
    return weights


if __name__ == "__main__":
    restart_with_huge_pages()
    main()
