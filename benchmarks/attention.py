"""Causal grouped-query attention, forwards and with its gradient, beside what a JAX user would take instead.

python -m benchmarks.attention                      # on a GPU
python -m benchmarks.attention --lengths 1024 2048 --batch-tokens 2048 --name attention_cpu

Sides: astrojax (what ``auto`` takes here), ``jax.nn.dot_product_attention`` by XLA and by cuDNN, tokamax where it is
installed, and the Triton kernel JAX ships, which knows no groups and is given repeated keys. One process; the sides
take turns, the first call of a turn is not timed, ratios are medians over the turns. FLOPs are those of the pairs a
causal query reads: 2 products of 2 b n h t^2 / 2 forwards, 3.5 times that with the gradient.

Errors are those of the output and of the gradient of the queries against float64 in rows drawn at random, divided by
the greatest number there.
"""

import argparse
import statistics
import time
import warnings

QUERY_HEADS, GROUP = 32, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--head-dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--batch-tokens", type=int, default=16384, help="batch times length")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--calls", type=int, default=5, help="timed calls per turn")
    parser.add_argument("--name", default="attention", help="of the file of results")
    flags = parser.parse_args()

    import jax
    import jax.numpy as jnp

    from astrojax.parallel.mesh import MeshConfig, make_mesh
    from benchmarks.record import save_result

    device = jax.devices()[0]
    dtype = jnp.float32 if device.platform == "cpu" else jnp.bfloat16
    rows, found = [], sides()
    with jax.set_mesh(make_mesh(MeshConfig(), [device])):
        for head_dim in flags.head_dims:
            for length in flags.lengths:
                arrays = draw(max(flags.batch_tokens // length, 1), length, head_dim, dtype)
                for backward in (False, True):
                    rows += compare(found, arrays, backward, flags.rounds, flags.calls)
    versions = {"jax": jax.__version__}
    device = None if device.platform == "cpu" else device.device_kind
    print("written to", save_result(flags.name, {"dtype": jnp.dtype(dtype).name, "rows": rows}, versions, device))


def sides() -> dict:
    """Each side as ``(query, key, value) -> out``."""
    import jax

    from astrojax.ops.attention import attention

    def with_jax(implementation):
        return lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=implementation)

    found = {"astrojax": lambda q, k, v: attention(q, k, v, causal=True), "xla": with_jax("xla")}
    if jax.default_backend() != "gpu":
        return found
    found["cudnn"] = with_jax("cudnn")
    try:
        import tokamax

        found["tokamax"] = lambda q, k, v: tokamax.dot_product_attention(q, k, v, is_causal=True)
    except ImportError:
        print("tokamax is not installed: its side is left out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from jax.experimental.pallas.ops.gpu import attention as bundled

    def with_bundled(q, k, v):
        k, v = (jax.numpy.repeat(x, GROUP, axis=2) for x in (k, v))
        return bundled.mha(q, k, v, None, sm_scale=q.shape[-1] ** -0.5, causal=True)

    found["bundled_triton"] = with_bundled
    return found


def draw(batch: int, length: int, head_dim: int, dtype):
    """Query, key, value and the gradient of the output."""
    import jax

    keys = jax.random.split(jax.random.key(0), 4)
    heads = (QUERY_HEADS, QUERY_HEADS // GROUP, QUERY_HEADS // GROUP, QUERY_HEADS)
    return [jax.random.normal(key, (batch, length, n, head_dim), dtype) for key, n in zip(keys, heads, strict=True)]


def compare(found: dict, arrays, backward: bool, rounds: int, calls: int) -> list[dict]:
    """Times every side on the same arrays. A side that refuses or runs out of memory is reported so."""
    import jax

    batch, length, heads, head_dim = arrays[0].shape
    label = "forward+backward" if backward else "forward"
    flops = 2 * batch * heads * head_dim * length**2 * (3.5 if backward else 1)
    compiled, failures, results = {}, {}, {}
    for name, side in found.items():
        try:
            compiled[name] = jax.jit(program(side, backward)).lower(*arrays).compile()
            results[name] = jax.block_until_ready(compiled[name](*arrays))
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            compiled.pop(name, None)
    seconds = {name: [] for name in compiled}
    for _ in range(rounds):
        for name, run in compiled.items():
            jax.block_until_ready(run(*arrays))
            began = time.perf_counter()
            for _ in range(calls):
                result = run(*arrays)
            jax.block_until_ready(result)
            seconds[name].append((time.perf_counter() - began) / calls)
    rows = []
    print(f"\n{label}, {batch} x {length} tokens, {heads} heads of {head_dim}")
    for name, spent in seconds.items():
        row = {
            "pass": label,
            "batch": batch,
            "length": length,
            "head_dim": head_dim,
            "side": name,
            "seconds": statistics.median(spent),
            "tflops_per_second": flops / statistics.median(spent) / 1e12,
            "seconds_over_astrojax": statistics.median(
                s / o for s, o in zip(spent, seconds.get("astrojax", spent), strict=True)
            ),
            "temporary_bytes": compiled[name].memory_analysis().temp_size_in_bytes,
            "error": error_in_rows(arrays, results[name], backward),
        }
        rows.append(row)
        print(
            f"  {name:>15} {row['seconds'] * 1e3:10.3f} ms {row['tflops_per_second']:8.2f} TFLOP/s"
            f"  time over astrojax's {row['seconds_over_astrojax']:6.2f}  temporaries"
            f" {row['temporary_bytes'] / 2**20:9.1f} MiB  error {row['error']:.1e}",
            flush=True,
        )
    for name, reason in failures.items():
        print(f"  {name:>15} {reason}")
        rows.append({"pass": label, "length": length, "head_dim": head_dim, "side": name, "failed": reason})
    return rows


def program(side, backward: bool):
    """``(query, key, value, out_grad) -> (out,)``, or with the gradients ``(out, dq, dk, dv)``."""
    import jax

    def run(query, key, value, out_grad):
        if not backward:
            return (side(query, key, value),)
        out, pull = jax.vjp(side, query, key, value)
        return out, *pull(out_grad)

    return run


def error_in_rows(arrays, results, backward: bool, count: int = 64) -> float:
    """The greatest error of the output, and of the gradient of the queries, in ``count`` rows, relative to float64."""
    import numpy as np

    query, key, value, out_grad = map(np.asarray, arrays)
    rng = np.random.default_rng(0)
    b, t, n = (rng.integers(0, size, count) for size in query.shape[:3])
    errors = []
    exact = {"out": [], "query_grad": []}
    for i, row, head in zip(b, t, n, strict=True):
        k, v = (np.asarray(x[i, : row + 1, head // GROUP], np.float64) for x in (key, value))
        q, do = (np.asarray(x[i, row, head], np.float64) for x in (query, out_grad))
        scores = k @ q / np.sqrt(len(q))
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        exact["out"].append(weights @ v)
        scores_grad = weights * (v @ do - exact["out"][-1] @ do)
        exact["query_grad"].append(scores_grad @ k / np.sqrt(len(q)))
    for expected, got in zip(exact.values(), results[: 2 if backward else 1], strict=False):
        got = np.asarray(got)[b, t, n].astype(np.float64)
        errors.append(np.abs(got - expected).max() / np.abs(expected).max())
    return float(max(errors))


if __name__ == "__main__":
    from astrojax.parallel.host import restart_with_huge_pages

    restart_with_huge_pages()
    main()
