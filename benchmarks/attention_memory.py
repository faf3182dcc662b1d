"""What the compiler says causal attention needs besides its arguments, for a GPU that need not be there.

python -m benchmarks.attention_memory

Forward and backward at batch 2, 32 query and 8 key/value heads of 128, bfloat16, beside
``jax.nn.dot_product_attention(implementation="xla")``.
"""

import argparse
import os
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="rtx-a5000")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    flags = parser.parse_args()

    from astrojax.parallel.topology import prepare_environment

    prepare_environment(flags.topology, 1)
    if "jax" in sys.modules:
        raise SystemExit("JAX was imported too early")
    os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
    import jax

    from astrojax.ops.attention import attention
    from benchmarks.record import save_result

    sides = {
        "astrojax": lambda q, k, v: attention(q, k, v, causal=True),
        "xla": lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="xla"),
    }
    rows = []
    print("| tokens | astrojax | XLA | ratio |\n| --- | --- | --- | --- |")
    for length in flags.lengths:
        needed = {name: temporary_bytes(flags.topology, side, length) for name, side in sides.items()}
        ratio = needed["astrojax"] / needed["xla"]
        sizes = " | ".join(f"{size / 2**20:,.0f} MiB" for size in needed.values())
        print(f"| {length:,} | {sizes} | {ratio:.1%} |", flush=True)
        rows.append({"length": length, "temporary_bytes": needed, "astrojax_over_xla": ratio})
    versions = {"jax": jax.__version__}
    print("written to", save_result("attention_memory", {"topology": flags.topology, "rows": rows}, versions))


def temporary_bytes(topology: str, side, length: int) -> int:
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from astrojax.parallel.ahead import compile_ahead
    from astrojax.parallel.mesh import MeshConfig, make_mesh
    from astrojax.parallel.topology import devices_of

    mesh = make_mesh(MeshConfig(), list(devices_of(topology, 1)))
    arrays = [
        jax.ShapeDtypeStruct((2, length, heads, 128), jnp.bfloat16, sharding=NamedSharding(mesh, P(*[None] * 4)))
        for heads in (32, 8, 8)
    ]

    def total(query, key, value):
        return jnp.sum(side(query, key, value).astype(jnp.float32))

    with jax.set_mesh(mesh):
        program = compile_ahead(jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(*arrays))
    return program.memory_analysis().temp_size_in_bytes


if __name__ == "__main__":
    main()
