"""Running a kernel on each device's part of a batch and of the heads."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from astrojax.ops.attention.call import Call


def split_refusal(call: Call) -> str | None:
    """Why the call cannot be cut into one call per device: only batch and heads may be split, the same for queries and
    keys."""
    specs = {name: jax.typeof(getattr(call, name)).sharding.spec for name in ("query", "key", "value")}
    for name, (_, seq, _, head_dim) in specs.items():
        if seq is not None or head_dim is not None:
            axis = "seq" if seq is not None else "head_dim"
            return f"the {axis} axis of {name} is split over mesh axis {seq or head_dim}"
    if len({(batch, heads) for batch, _, heads, _ in specs.values()}) > 1:
        return f"query, key and value are split differently: {', '.join(str(spec) for spec in specs.values())}"
    return None


def on_shards(kernel: Callable, query: jax.Array, arguments: Any, results: tuple[str, ...]) -> Any:
    """Calls ``kernel(*arguments)`` on every device with what it holds of the arguments.

    Args:
        kernel: takes and returns arrays whose batch and heads are one device's.
        query: ``[b, t, n, h]``, split as everything is.
        arguments: arrays ``[b, ...]`` split as the batch is, None, or tuples of them.
        results: the axes of each result, such as ``"btnh"``; ``b`` and ``n`` are split.
    """
    batch, _, heads, _ = jax.typeof(query).sharding.spec
    return jax.shard_map(
        kernel,
        in_specs=jax.tree.map(lambda x: jax.typeof(x).sharding.spec, arguments),
        out_specs=tuple(P(*({"b": batch, "n": heads}.get(axis) for axis in axes)) for axes in results),
        check_vma=False,
    )(*arguments)
