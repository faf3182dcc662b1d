"""Fused attention for NVIDIA GPUs from Ampere on, in Pallas on Triton.

The scores exist for one tile of queries and keys at a time. The forward pass keeps a running maximum and sum
(Milakov and Gimelshein 2018) and leaves the logarithm of the sum, from which the backward pass computes the weights
again (Dao 2023, FlashAttention-2, algorithms 1 and 2): once for each tile of keys, which gathers its gradients from
all queries of its group, and once for each tile of queries.

A head need not have a width that is a power of two: it is cut into one or two parts that have one, so that 68 columns
cost 80 and not 128. Exponentials and logarithms are to base 2, as the hardware has them.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from astrojax.ops.attention.call import Call
from astrojax.ops.attention.shards import on_shards, split_refusal
from astrojax.ops.attention.tiles import Tile, Tiles, tiles_for
from astrojax.ops.attention.visibility import Layout, Reach, count_visible, visible
from astrojax.ops.attention.visits import END, FULL_END, FULL_START, PREFIX_END, START, key_visits, query_visits
from astrojax.ops.gpu import AMPERE, below_ampere, compute_capability

MAX_HEAD_DIM = 256

# The running maximum of a row that has read nothing: below any score, and finite, so that differences are numbers.
_NOTHING = -1e30


def refusal(call: Call) -> str | None:
    """Why the kernels cannot take the call, if they cannot."""
    if call.mask is not None:
        return "it takes no mask"
    if call.query.shape[3] > MAX_HEAD_DIM:
        return f"head_dim={call.query.shape[3]} is over {MAX_HEAD_DIM}"
    if not call.interpret and (reason := below_ampere()):
        return reason
    return split_refusal(call)


def attention(call: Call) -> Float[Array, "b t n h"]:
    """See :func:`astrojax.ops.attention.attention`."""
    capability = AMPERE if call.interpret else compute_capability()
    tiles = tiles_for(capability, _padded(call.query.shape[3]), call.query.dtype.itemsize)
    build = _Build(call.reach, call.scale, tiles, call.interpret)
    return _attention(build, call.query, call.key, call.value, call.layout)


def head_parts(head_dim: int) -> tuple[tuple[int, int], ...]:
    """``(first column, width)`` of the one or two parts a head is padded to; widths are powers of two from 16 on.

    A second part is taken only where it makes the head narrower: 68 is 64 and 16, 100 is 128.
    """
    whole = max(16, pl.next_power_of_2(head_dim))
    half = whole // 2
    rest = max(16, pl.next_power_of_2(max(head_dim - half, 1)))
    return ((0, whole),) if half < 16 or half + rest >= whole else ((0, half), (half, rest))


def _padded(head_dim: int) -> int:
    return sum(width for _, width in head_parts(head_dim))


class _Build(NamedTuple):
    """What the kernels are built for, besides the shapes of their arguments."""

    reach: Reach
    scale: float
    tiles: Tiles
    interpret: bool

    @property
    def scale_to_base_2(self) -> float:
        """The factor on scores whose exponential is taken to base 2."""
        return self.scale * math.log2(math.e)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(build: _Build, query, key, value, layout: Layout):
    return _attention_forward(build, query, key, value, layout)[0]


def _attention_forward(build, query, key, value, layout):
    arguments = (query, key, value, layout)
    out, logsum = on_shards(functools.partial(_forward, build), query, arguments, ("btnh", "bnt"))
    return out, (query, key, value, layout, out, logsum)


def _attention_backward(build, residuals, out_grad):
    query, key, value, layout, out, logsum = residuals
    # What the gradient of the softmax subtracts from every column.
    delta_bnt = jnp.einsum("btnh,btnh->bnt", out_grad, out, preferred_element_type=jnp.float32)
    arguments = (query, key, value, layout, out_grad, logsum, delta_bnt)
    grads = on_shards(functools.partial(_backward, build), query, arguments, ("btnh", "bsnh", "bsnh"))
    return *grads, None


_attention.defvjp(_attention_forward, _attention_backward)


def _forward(build: _Build, query, key, value, layout: Layout):
    """One device's part: ``(out [b, t, n, h], logsum [b, n, t])``."""
    dims = _Dims.of(query, key)
    call = _KernelCall(build, dims, build.tiles.forward)
    logsum = jax.ShapeDtypeStruct((dims.b, dims.n, dims.t), jnp.float32)
    return call(
        _forward_kernel,
        call.inputs(query, key, value, layout),
        (call.per_head(query), call.per_query(logsum)),
        products=2,
    )


def _backward(build: _Build, query, key, value, layout: Layout, out_grad, logsum, delta):
    """One device's part: the gradients with respect to query, key and value."""
    dims = _Dims.of(query, key)
    arguments = (query, key, value, layout, out_grad, logsum, delta)
    call = _KernelCall(build, dims, build.tiles.backward_keys, by_key=True)
    key_grad, value_grad = call(
        _backward_keys_kernel, call.inputs(*arguments), (call.per_key_head(key), call.per_key_head(value)), products=4
    )
    call = _KernelCall(build, dims, build.tiles.backward_queries)
    (query_grad,) = call(_backward_queries_kernel, call.inputs(*arguments), (call.per_head(query),), products=3)
    return query_grad, key_grad, value_grad


class _Dims(NamedTuple):
    """Sizes of one device's part, in the letters of the glossary; ``g`` query heads share a key head."""

    b: int
    t: int
    s: int
    n: int
    k: int
    h: int

    @classmethod
    def of(cls, query, key) -> "_Dims":
        (b, t, n, h), (_, s, k, _) = query.shape, key.shape
        return cls(b, t, s, n, k, h)

    @property
    def g(self) -> int:
        return self.n // self.k

    def queries(self, tile: Tile) -> "_Side":
        return _Side(tile.queries, self.t, self.h)

    def keys(self, tile: Tile) -> "_Side":
        return _Side(tile.keys, self.s, self.h)


class _Side(NamedTuple):
    """The tiles that queries or keys are cut into; loads and stores them in parts, masked where rows or columns end
    within a tile.

    Attributes:
        rows: rows of a tile.
        size: rows there are.
        head_dim: columns there are.
    """

    rows: int
    size: int
    head_dim: int

    @property
    def blocks(self) -> int:
        return -(-self.size // self.rows)

    @property
    def ragged(self) -> bool:
        return self.size % self.rows > 0

    def zeros(self):
        return tuple(jnp.zeros((self.rows, width), jnp.float32) for _, width in head_parts(self.head_dim))

    def places(self, block):
        return block * self.rows + jnp.arange(self.rows)

    def load(self, ref, block, *head):
        return tuple(
            plgpu.load(at, mask=mask, other=None if mask is None else 0.0) for at, mask in self._parts(ref, block, head)
        )

    def store(self, ref, block, values, *head):
        for (at, mask), x in zip(self._parts(ref, block, head), values, strict=True):
            plgpu.store(at, x.astype(ref.dtype), mask=mask)

    def load_vector(self, ref, block, other, *head):
        """One number per row; beyond the last row it is ``other``."""
        at = ref.at[(*head, pl.ds(block * self.rows, self.rows))]
        return plgpu.load(at, mask=self.places(block) < self.size, other=other) if self.ragged else plgpu.load(at)

    def store_vector(self, ref, block, value):
        at = ref.at[pl.ds(block * self.rows, self.rows)]
        plgpu.store(at, value, mask=self.places(block) < self.size if self.ragged else None)

    def _parts(self, ref, block, head):
        for first, width in head_parts(self.head_dim):
            masks = []
            if self.ragged:
                masks.append((self.places(block) < self.size)[:, None])
            if first + width > self.head_dim:
                masks.append((first + jnp.arange(width) < self.head_dim)[None, :])
            mask = jnp.broadcast_to(functools.reduce(jnp.logical_and, masks), (self.rows, width)) if masks else None
            yield ref.at[(pl.ds(block * self.rows, self.rows), *head, pl.ds(first, width))], mask


class _Block(NamedTuple):
    """An array and what a program sees of it."""

    array: jax.Array | jax.ShapeDtypeStruct
    spec: pl.BlockSpec


class _Inputs(NamedTuple):
    """What the kernels read: blocks, or in a kernel the references to them. The last three are the backward pass's."""

    visits: Any
    query: Any
    key: Any
    value: Any
    layout: Layout
    out_grad: Any = None
    logsum: Any = None
    delta: Any = None


class _KernelCall:
    """Builds the call of one kernel, whose programs make a grid (tiles, heads, batch). They go through tiles of
    queries, each of one head; ``by_key`` through tiles of keys, each of one key head with all its query heads."""

    def __init__(self, build: _Build, dims: _Dims, tile: Tile, *, by_key: bool = False):
        self._build, self._dims, self._tile, self._by_key = build, dims, tile, by_key
        self._width = _padded(dims.h)

    def inputs(self, query, key, value, layout: Layout, out_grad=None, logsum=None, delta=None) -> _Inputs:
        visits = (query_visits if self._by_key else key_visits)(
            self._build.reach, layout, self._dims.t, self._dims.s, self._tile.queries, self._tile.keys
        )
        inputs = _Inputs(
            self._per_tile(visits),
            self.per_head(query),
            self.per_key_head(key),
            self.per_key_head(value),
            jax.tree.map(self._per_sample, layout),
        )
        if out_grad is None:
            return inputs
        return inputs._replace(
            out_grad=self.per_head(out_grad), logsum=self.per_query(logsum), delta=self.per_query(delta)
        )

    def per_head(self, x) -> _Block:
        """``[b, t, n, h]``: the program's query head, or its group of them."""
        heads = self._dims.g if self._by_key else None
        return _Block(x, pl.BlockSpec((None, self._dims.t, heads, self._width), lambda i, head, b: (b, 0, head, 0)))

    def per_key_head(self, x) -> _Block:
        """``[b, s, k, h]``: the key head that the program's queries read."""
        group = 1 if self._by_key else self._dims.g
        shape = (None, self._dims.s, None, self._width)
        return _Block(x, pl.BlockSpec(shape, lambda i, head, b: (b, 0, head // group, 0)))

    def per_query(self, x) -> _Block:
        """``[b, n, t]``: of the program's query head, or its group of them."""
        heads = self._dims.g if self._by_key else None
        return _Block(x, pl.BlockSpec((None, heads, self._dims.t), lambda i, head, b: (b, head, 0)))

    def _per_tile(self, visits) -> _Block:
        """The row of the program's tile in a table of visits."""
        tiles, batched = visits.shape[1], visits.shape[0] > 1
        shape = (None, None, visits.shape[2])
        if self._by_key:
            return _Block(visits, pl.BlockSpec(shape, lambda i, head, b: (b * batched, i, 0)))
        return _Block(visits, pl.BlockSpec(shape, lambda i, head, b: (b * batched, _nth_query_tile(i, tiles), 0)))

    def _per_sample(self, x) -> _Block:
        return _Block(x, pl.BlockSpec((None, x.shape[1]), lambda i, head, b: (b, 0)))

    def __call__(self, kernel, inputs: _Inputs, results: tuple[_Block, ...], *, products: int):
        """Runs ``kernel``; what it writes looks like ``results``. ``products`` is the number of its matrix products
        for each pair of tiles, for those who count."""
        dims, tile = self._dims, self._tile
        side, heads = (dims.keys(tile), dims.k) if self._by_key else (dims.queries(tile), dims.n)
        pairs = count_visible(self._build.reach, dims.t, dims.s)
        blocks = jax.tree.leaves((inputs, results), is_leaf=_is_block)

        def arrays(blocks):
            return jax.tree.map(lambda block: block.array, blocks, is_leaf=_is_block)

        def specs(blocks):
            return jax.tree.map(lambda block: block.spec, blocks, is_leaf=_is_block)

        return pl.pallas_call(
            functools.partial(kernel, build=self._build, dims=dims, tile=tile),
            grid=(side.blocks, heads, dims.b),
            in_specs=[specs(inputs)],
            out_specs=specs(results),
            out_shape=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays(results)),
            compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
            cost_estimate=pl.CostEstimate(
                flops=2 * products * pairs * dims.h * dims.n * dims.b,
                transcendentals=pairs * dims.n * dims.b,
                bytes_accessed=sum(x.array.size * x.array.dtype.itemsize for x in blocks),
            ),
            interpret=self._build.interpret,
            name=f"attention{kernel.__name__.removesuffix('_kernel')}",
        )(arrays(inputs))


def _is_block(x) -> bool:
    return isinstance(x, _Block)


def _nth_query_tile(i, tiles: int):
    """The tile of the ``i``-th program, the last first: with ``causal`` it has the most to do, and should not start
    last. Of the tiles of keys it is the first that has."""
    return tiles - 1 - i


def _forward_kernel(inputs: _Inputs, out_ref, logsum_ref, *, build: _Build, dims: _Dims, tile: Tile):
    queries, keys = dims.queries(tile), dims.keys(tile)
    i = _nth_query_tile(pl.program_id(0), queries.blocks)
    query = queries.load(inputs.query, i)
    rows = _Rows(dims, queries, i, inputs.layout)

    def visit(masked, j, carry):
        out, top, total = carry
        scores = _product(query, _transposed(keys.load(inputs.key, j)), build) * build.scale_to_base_2
        if masked:
            scores = _masked(scores, -jnp.inf, build, rows, _Columns(keys, j, inputs.layout))
        new_top = jnp.maximum(top, jnp.max(scores, axis=1))
        weights = jnp.exp2(scores - new_top[:, None])
        shrink = jnp.exp2(top - new_top)
        value = keys.load(inputs.value, j)
        read = _spread(weights.astype(value[0].dtype), value, build)
        out = tuple(o * shrink[:, None] + r for o, r in zip(out, read, strict=True))
        return out, new_top, total * shrink + jnp.sum(weights, axis=1)

    start = (queries.zeros(), jnp.full((tile.queries,), _NOTHING, jnp.float32), jnp.zeros((tile.queries,), jnp.float32))
    out, top, total = _visit_all(inputs.visits, build.reach.prefix, visit, start)
    some = total > 0
    total = jnp.where(some, total, 1.0)
    queries.store(out_ref, i, tuple(o / total[:, None] for o in out))
    # Infinite where nothing was read: the backward pass then finds weights of zero.
    queries.store_vector(logsum_ref, i, jnp.where(some, top + jnp.log2(total), jnp.inf))


def _backward_queries_kernel(inputs: _Inputs, query_grad_ref, *, build: _Build, dims: _Dims, tile: Tile):
    queries, keys = dims.queries(tile), dims.keys(tile)
    i = _nth_query_tile(pl.program_id(0), queries.blocks)
    query, out_grad = queries.load(inputs.query, i), queries.load(inputs.out_grad, i)
    logsum, delta = queries.load_vector(inputs.logsum, i, jnp.inf), queries.load_vector(inputs.delta, i, 0.0)
    rows = _Rows(dims, queries, i, inputs.layout)

    def visit(masked, j, query_grad):
        key = keys.load(inputs.key, j)
        scores = _product(query, _transposed(key), build) * build.scale_to_base_2
        weights = jnp.exp2(scores - logsum[:, None])
        if masked:
            weights = _masked(weights, 0.0, build, rows, _Columns(keys, j, inputs.layout))
        weights_grad = _product(out_grad, _transposed(keys.load(inputs.value, j)), build)
        scores_grad = weights * (weights_grad - delta[:, None])
        return _add(query_grad, _spread(scores_grad.astype(key[0].dtype), key, build))

    query_grad = _visit_all(inputs.visits, build.reach.prefix, visit, queries.zeros())
    queries.store(query_grad_ref, i, tuple(x * build.scale for x in query_grad))


def _backward_keys_kernel(inputs: _Inputs, key_grad_ref, value_grad_ref, *, build: _Build, dims: _Dims, tile: Tile):
    queries, keys = dims.queries(tile), dims.keys(tile)
    j = pl.program_id(0)
    key, value = keys.load(inputs.key, j), keys.load(inputs.value, j)
    columns = _Columns(keys, j, inputs.layout)

    def visit(head, masked, i, carry):
        key_grad, value_grad = carry
        query, out_grad = queries.load(inputs.query, i, head), queries.load(inputs.out_grad, i, head)
        # Transposed, [keys, queries], so that only operands in memory are ever turned.
        scores = _product(key, _transposed(query), build) * build.scale_to_base_2
        weights = jnp.exp2(scores - queries.load_vector(inputs.logsum, i, jnp.inf, head)[None, :])
        if masked:
            rows = _Rows(dims, queries, i, inputs.layout)
            weights = _masked(weights, 0.0, build, rows, columns, transposed=True)
        value_grad = _add(value_grad, _spread(weights.astype(query[0].dtype), out_grad, build))
        weights_grad = _product(value, _transposed(out_grad), build)
        scores_grad = weights * (weights_grad - queries.load_vector(inputs.delta, i, 0.0, head)[None, :])
        return _add(key_grad, _spread(scores_grad.astype(query[0].dtype), query, build)), value_grad

    def one_head(head, carry):
        return _visit_all(inputs.visits, 0, functools.partial(visit, head), carry)

    key_grad, value_grad = jax.lax.fori_loop(0, dims.g, one_head, (keys.zeros(), keys.zeros()))
    keys.store(key_grad_ref, j, tuple(x * build.scale for x in key_grad))
    keys.store(value_grad_ref, j, value_grad)


class _Rows:
    """What decides which keys a tile of queries may read: ``positions`` and ``segments``."""

    def __init__(self, dims: _Dims, queries: _Side, block, layout: Layout):
        self.positions = queries.places(block) + (dims.s - dims.t)
        self.segments = None
        if layout.positions is not None:
            self.positions = queries.load_vector(layout.positions, block, 0)
        if layout.query_segments is not None:
            self.segments = queries.load_vector(layout.query_segments, block, 0)


class _Columns:
    """What decides which queries may read a tile of keys: ``places`` and ``segments``; ``size`` is the number of keys
    where the tile may reach beyond them."""

    def __init__(self, keys: _Side, block, layout: Layout):
        self.places = keys.places(block)
        self.segments = None
        if layout.key_segments is not None:
            self.segments = keys.load_vector(layout.key_segments, block, 0)
        self.size = keys.size if keys.ragged else None


def _masked(x, other: float, build: _Build, rows: _Rows, columns: _Columns, *, transposed: bool = False):
    """``x [queries, keys]``, or transposed, with ``other`` in the pairs that may not meet."""
    of_rows, of_columns = (0, 1) if transposed else (1, 0)
    positions, places = jnp.expand_dims(rows.positions, of_rows), jnp.expand_dims(columns.places, of_columns)
    segments = (None, None)
    if rows.segments is not None:
        segments = jnp.expand_dims(rows.segments, of_rows), jnp.expand_dims(columns.segments, of_columns)
    allowed = visible(build.reach, positions, places, *segments)
    if columns.size is not None:
        inside = places < columns.size
        allowed = inside if allowed is None else allowed & inside
    return x if allowed is None else jnp.where(allowed, x, other)


def _visit_all(visits_ref, prefix: int, visit, carry):
    """Visits the blocks that a row of a table of visits names: ``visit(masked, block, carry)``."""
    masked, plain = functools.partial(visit, True), functools.partial(visit, False)
    if prefix:
        carry = jax.lax.fori_loop(0, visits_ref[PREFIX_END], masked, carry)
    carry = jax.lax.fori_loop(visits_ref[START], visits_ref[FULL_START], masked, carry)
    carry = jax.lax.fori_loop(visits_ref[FULL_START], visits_ref[FULL_END], plain, carry)
    return jax.lax.fori_loop(visits_ref[FULL_END], visits_ref[END], masked, carry)


def _dot(a, b, build: _Build):
    precision = None
    if a.dtype == jnp.float32:
        # Tensor cores round float32; the three leading products of its parts come close. CPUs have no such thing.
        precision = jax.lax.Precision.HIGHEST if build.interpret else jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def _product(a, b, build: _Build):
    """``a b`` summed over the parts of their common axis, in float32."""
    return functools.reduce(jnp.add, (_dot(x, y, build) for x, y in zip(a, b, strict=True)))


def _spread(a, b, build: _Build):
    """``a b`` for each part of the columns of ``b``, in float32."""
    return tuple(_dot(a, y, build) for y in b)


def _transposed(parts):
    return tuple(x.T for x in parts)


def _add(a, b):
    return tuple(x + y for x, y in zip(a, b, strict=True))
