"""What a program costs, read from the program: operations and memory traffic of its matrix products, bytes that its
collectives move. Nothing is run."""

import math
import re
from typing import NamedTuple

import jax
from jax.extend import core

from astrojax.parallel.memory import local_bytes


class Products(NamedTuple):
    """The matrix products and convolutions of a program.

    Attributes:
        flops: multiplications and additions, over all devices.
        bytes: operands read and results written once each, on one device.
    """

    flops: float
    bytes: float

    def __add__(self, other):
        return Products(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, n: int) -> "Products":
        return Products(self.flops * n, self.bytes * n)


def count_products(jaxpr: core.Jaxpr, *, shards: int = 1) -> Products:
    """Counts the products of a traced program, those inside a loop as often as it turns and those of a kernel as the
    kernel says.

    Args:
        jaxpr: the program, such as ``jax.jit(f).trace(x).jaxpr.jaxpr``.
        shards: over how many devices its arrays are already split, as inside ``jax.shard_map``.
    """
    total = Products(0, 0)
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            total += _product(eqn, depth, shards)
        elif name == "conv_general_dilated":
            kernel = eqn.invars[1].aval
            out_features = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
            total += _product(eqn, kernel.size // out_features, shards)
        elif name == "pallas_call":
            total += _kernel_products(eqn, shards)
        else:
            inside = shards * (math.prod(eqn.params["mesh"].shape.values()) if name == "shard_map" else 1)
            branches = [count_products(inner, shards=inside) for inner in _inner(eqn)]
            if name == "cond" and branches:
                total += max(branches)
            else:
                for branch in branches:
                    total += branch.times(eqn.params["length"] if name == "scan" else 1)
    return total


def _kernel_products(eqn, shards: int) -> Products:
    """What a kernel says of itself, if it multiplies matrices at all: its loops turn as often as its data say. One that
    says nothing is taken to do all its work in every program of its grid."""
    program = count_products(eqn.params["jaxpr"], shards=shards)
    if not program.flops:
        return program
    moved = sum(local_bytes(var.aval) for var in (*eqn.invars, *eqn.outvars))
    estimate = eqn.params["cost_estimate"]
    flops = estimate.flops * shards if estimate else program.flops * math.prod(eqn.params["grid_mapping"].grid)
    return Products(float(flops), moved)


def _product(eqn, depth: int, shards: int) -> Products:
    out = eqn.outvars[0].aval
    moved = sum(local_bytes(var.aval) for var in (*eqn.invars, *eqn.outvars))
    return Products(2.0 * out.size * depth * shards, moved)


def _inner(eqn):
    """The programs an equation holds; of a function with a rule of its own for gradients, the function."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


_COLLECTIVE = re.compile(
    r"= (?P<type>\S.*?) (?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(r"(?:calls|body|to_apply|branch_computations)=\{?%?([\w.\-]+(?:, ?%[\w.\-]+)*)")


def collective_bytes(hlo: str, num_devices: int) -> float:
    """Bytes that each device sends in one run of a compiled program, by ring algorithms: a gathered or scattered array
    crosses each link but one once, a summed one twice. Loops count as often as they turn.

    Args:
        hlo: the compiled program's text.
        num_devices: on how many it runs.
    """
    computations: dict[str, list[str]] = {}
    entry = name = None
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            name = match[1]
            computations[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name and line.startswith("  "):
            computations[name].append(line)
    known: dict[str, float] = {}

    def of(name: str) -> float:
        if name not in known:
            # TPU compilers write a reduce-scatter as a computation of this name around an all-reduce.
            scatters = name.startswith("all-reduce-scatter")
            known[name] = sum(_sent(line, num_devices, scatters) + inside(line) for line in computations.get(name, ()))
        return known[name]

    def inside(line: str) -> float:
        called = [name.strip(" %") for match in _CALLED.finditer(line) for name in match[1].split(",")]
        return (turns(line) if " while(" in line else 1) * sum(of(name) for name in called)

    def turns(line: str) -> int:
        if match := re.search(r'known_trip_count":\{"n":"(\d+)', line):
            return int(match[1])
        # Not every compiler writes it down; then the condition compares the counter with a constant.
        condition = computations[re.search(r"condition=%?([\w.\-]+)", line)[1]]
        return max((int(n) for line in condition for n in re.findall(r"s32\[\]\S* constant\((\d+)\)", line)), default=1)

    return of(entry)


def _sent(line: str, num_devices: int, scatters: bool) -> float:
    match = _COLLECTIVE.search(line)
    if not match:
        return 0
    # A started operation's type holds operand and result; the result is the larger one of a gather.
    size = max(_bytes(*array) for array in _ARRAY.findall(match["type"]))
    n = _group_size(line, num_devices)
    if match["kind"] == "all-reduce":
        return (1 if scatters else 2) * size * (n - 1) / n
    if match["kind"] == "reduce-scatter":
        return size * (n - 1)
    return size if match["kind"] == "collective-permute" else size * (n - 1) / n


def _bytes(dtype: str, shape: str) -> int:
    bits = int(re.search(r"\d+", dtype)[0]) if dtype != "pred" else 8
    return math.prod(int(n) for n in shape.split(",") if n) * bits // 8


def _group_size(line: str, num_devices: int) -> int:
    """The devices of one group, from any of the three ways XLA writes them."""
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    return num_devices


class LargeArray(NamedTuple):
    """An array a compiled program makes: its bytes on one device, its type, and the operation it comes from."""

    bytes: int
    type: str
    operation: str


def largest_arrays(hlo: str, count: int, exclude: set[str] = frozenset()) -> list[LargeArray]:
    """The largest of the different array types that a compiled program makes in device memory.

    Args:
        hlo: the compiled program's text.
        count: how many to return.
        exclude: types, such as ``"bf16[4,8]"``, to leave out: those of arguments, which are updated in place.
    """
    found: dict[str, LargeArray] = {}
    fused = False
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            fused = "fused" in match[1] or "wrapped" in match[1]  # Inside a kernel nothing is stored.
        match = re.match(r"  (?:ROOT )?%?[\w.\-]+ = (\w+\[[\d,]*\])(\{\S*\})? ([\w\-]+)\(", line)
        if fused or not match or "S(5)" in (match[2] or ""):
            continue
        kind, operation = match[1], match[3]
        if operation in ("parameter", "get-tuple-element", "bitcast", "constant", "iota") or kind in exclude:
            continue
        source = re.search(r'op_name="[^"]*?/(\w+)"', line)
        array = LargeArray(_bytes(*_ARRAY.match(kind).groups()), kind, source[1] if source else operation)
        found.setdefault(kind, array)
    return sorted(found.values(), reverse=True)[:count]


def traced_products(function, *args) -> Products:
    """The products of ``function`` of arguments like ``args``, which may be abstract."""
    return count_products(jax.jit(function).trace(*args).jaxpr.jaxpr)
