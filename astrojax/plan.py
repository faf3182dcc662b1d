"""Whether a run fits a machine one does not have: its very step, compiled for that machine and looked at.

The compiler's own account of memory is the answer. How fast the step would be is an estimate, with its assumptions.
"""

import dataclasses
import functools
import json
import math
import re
from pathlib import Path
from typing import Any

import jax
import msgspec

from astrojax.console import format_bytes
from astrojax.files import write_atomically
from astrojax.parallel import cost
from astrojax.parallel.memory import device_memory, local_bytes, step_bytes
from astrojax.parallel.mesh import make_mesh
from astrojax.parallel.topology import ACCELERATORS, Accelerator, devices_of
from astrojax.tasks import make_task
from astrojax.train.layers import num_layers
from astrojax.train.loop import check_batch
from astrojax.train.optimizers import FusedAdafactor
from astrojax.train.program import make_program
from astrojax.train.step import num_micro_batches
from astrojax.train.task import RunConfig, Task

# Nobody asks whether this many times the batch would fit as well.
_LARGEST_FACTOR = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What the compiled step says of itself. Bytes are those of one device.

    Attributes:
        topology: the accelerators, as ``NAME:COUNT``.
        devices: how many there are.
        mesh: devices along each axis.
        optimizer: the optimizer's kind.
        batch_size: examples per step.
        micro_batches: in how many portions they are taken.
        unit: what throughput counts, such as ``"tokens"``.
        units_per_step: how many of them a step takes.
        weight_bytes: parameters.
        optimizer_bytes: the optimizer's statistics, where they are in device memory.
        activation_bytes: what the layers read, kept between the passes; None for a model without a layer stack.
        temporary_bytes: everything that lives only within a step; None where the compiler refused.
        host_bytes: what the step keeps in host memory for this device.
        peak_bytes: arguments, results and temporaries: what the device must hold.
        capacity_bytes: what the device has.
        reserve_bytes: what of it is kept for the driver and the libraries.
        model_flops_per_step: matrix products of the model, forwards and backwards, over all devices.
        compiled_flops_per_step: those the step computes, with what it computes again.
        collective_bytes_per_step: what each device sends; None where the compiler refused.
        largest_temporaries: the largest arrays the step makes.
        estimate: the step's time by the roofline; None for a CPU.
    """

    topology: str
    devices: int
    mesh: dict[str, int]
    optimizer: str
    batch_size: int
    micro_batches: int
    unit: str
    units_per_step: int
    weight_bytes: int
    optimizer_bytes: int
    activation_bytes: int | None
    temporary_bytes: int | None
    host_bytes: int
    peak_bytes: int
    capacity_bytes: int
    reserve_bytes: int
    model_flops_per_step: float
    compiled_flops_per_step: float
    collective_bytes_per_step: float | None
    largest_temporaries: list[cost.LargeArray]
    estimate: dict[str, Any] | None

    @property
    def margin_bytes(self) -> int:
        return self.capacity_bytes - self.reserve_bytes - self.peak_bytes

    @property
    def fits(self) -> bool:
        return self.margin_bytes >= 0

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        values = dataclasses.asdict(self)
        values[f"{values.pop('unit')}_per_step"] = values.pop("units_per_step")
        values["largest_temporaries"] = [array._asdict() for array in self.largest_temporaries]
        return values | {"margin_bytes": self.margin_bytes, "fits": self.fits}


def make_plan(config: RunConfig, name: str, count: int) -> Plan:
    """Compiles the step of ``config`` for ``count`` devices of the accelerator ``name``.

    Raises:
        RequestError: the configuration does not fit the mesh, or the devices do not come in that number.
    """
    task = make_task(config)
    mesh = make_mesh(config.mesh, list(devices_of(name, count)))
    check_batch(config, mesh)
    accelerator = ACCELERATORS.get(name)
    with jax.set_mesh(mesh):
        program = make_program(task)
        state, batch = program.abstract_state(mesh), task.abstract_batch(mesh)
        micro_batches = num_micro_batches(config.train)
        traced = program.trace(state, batch)
        products = cost.count_products(traced.jaxpr.jaxpr)
        model = cost.traced_products(task.loss, state.params, batch, jax.eval_shape(lambda: jax.random.key(0)))
        activations = _layer_inputs(task, state, batch, micro_batches)
        try:
            compiled = program.compile(traced, attached=False)
        except jax.errors.JaxRuntimeError as error:
            arguments = sum(local_bytes(leaf) for leaf in jax.tree.leaves((state, batch)))
            memory, peak, sent, largest = None, _peak_of_refusal(error, arguments), None, []
        else:
            memory, hlo = compiled.memory_analysis(), compiled.as_text()
            peak, sent = step_bytes(memory), cost.collective_bytes(hlo, count)
            largest = cost.largest_arrays(hlo, 5, {_hlo_type(leaf) for leaf in jax.tree.leaves((state, batch))})
    on_host = isinstance(config.optimizer, FusedAdafactor) and config.optimizer.inputs_on_host
    return Plan(
        topology=f"{name}:{count}",
        devices=count,
        mesh=dict(mesh.shape),
        optimizer=type(config.optimizer).__struct_config__.tag,
        batch_size=config.train.batch_size,
        micro_batches=micro_batches,
        unit=task.unit,
        units_per_step=config.train.batch_size * task.units_per_example,
        weight_bytes=_bytes_in(state.params, "device"),
        optimizer_bytes=_bytes_in(state.opt_state, "device"),
        activation_bytes=0 if on_host else activations,
        temporary_bytes=memory.temp_size_in_bytes if memory else None,
        host_bytes=_bytes_in(state, "host") + (activations if on_host else 0),
        peak_bytes=peak,
        capacity_bytes=accelerator.memory if accelerator else int(device_memory()["limit"]) // count,
        reserve_bytes=accelerator.reserve if accelerator else 0,
        model_flops_per_step=3 * model.flops,
        compiled_flops_per_step=products.flops,
        collective_bytes_per_step=sent,
        largest_temporaries=largest,
        estimate=_roofline(accelerator, products, sent or 0, count, 3 * model.flops) if accelerator else None,
    )


def largest_batch(config: RunConfig, first: Plan) -> int | None:
    """The largest batch size that fits, in steps of the micro-batch and up to 64 times the asked one; None if not even
    one micro-batch fits.

    Memory grows evenly with the number of micro-batches: two plans say where to look, a third whether it is so.
    """
    name, count = first.topology.split(":")
    size = first.batch_size // first.micro_batches
    room = first.capacity_bytes - first.reserve_bytes

    @functools.cache
    def peak(n: int) -> int:
        if n == first.micro_batches:
            return first.peak_bytes
        train = msgspec.structs.replace(config.train, batch_size=n * size, microbatch_size=size)
        return make_plan(msgspec.structs.replace(config, train=train), name, int(count)).peak_bytes

    few, many = (first.micro_batches, 2 * first.micro_batches) if first.fits else (1, first.micro_batches)
    if peak(few) > room:
        return None
    each = max((peak(many) - peak(few)) / (many - few), 1.0)
    n = min(few + int((room - peak(few)) / each), _LARGEST_FACTOR * first.micro_batches)
    while peak(n) > room:
        n -= math.ceil((peak(n) - room) / each)
    return n * size


def describe(plan: Plan) -> str:
    """The plan as a table for the person who asked."""
    shape = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    one = plan.micro_batches == 1
    portions = "at once" if one else f"in {plan.micro_batches} micro-batches of {plan.batch_size // plan.micro_batches}"
    lines = [
        f"{plan.topology}, mesh {shape}, {plan.optimizer}",
        f"{plan.units_per_step:,} {plan.unit} per step: batch {plan.batch_size} {portions}",
        "per device:",
    ]

    def row(label: str, value: int | None, note: str = "") -> str:
        return f"  {label:<28} {'-' if value is None else format_bytes(value):>11}  {note}".rstrip()

    lines += [
        row("weights", plan.weight_bytes),
        row("optimizer state", plan.optimizer_bytes),
        row("temporaries", plan.temporary_bytes),
        row("  of them layer inputs", plan.activation_bytes),
        *(row(f"  {array.type}", array.bytes, array.operation) for array in plan.largest_temporaries),
        row("peak, as compiled", plan.peak_bytes),
        row("capacity", plan.capacity_bytes, f"{format_bytes(plan.reserve_bytes)} of it for driver and libraries"),
        row("margin", plan.margin_bytes),
    ]
    if plan.host_bytes:
        lines.append(row("in host memory", plan.host_bytes))
    if plan.collective_bytes_per_step:
        lines.append(row("sent per step", round(plan.collective_bytes_per_step)))
    again = plan.compiled_flops_per_step / plan.model_flops_per_step
    lines.append(f"model: {plan.model_flops_per_step:.3g} FLOPs per step; the step computes {again:.2f} times that")
    if plan.estimate:
        e = plan.estimate
        low, high = e["step_seconds_at_least"], e["step_seconds_without_overlap"]
        lines.append(
            f"roofline: {low:.3g} s per step if everything overlaps ({plan.units_per_step / low:,.0f} {plan.unit}/s), "
            f"{high:.3g} s if collectives wait; assuming"
        )
        lines += [f"  - {assumption}" for assumption in e["assumptions"]]
    lines.append("FITS" if plan.fits else f"DOES NOT FIT: {format_bytes(-plan.margin_bytes)} too much on each device")
    return "\n".join(lines)


def write_plan(workdir: Path, plan: Plan, largest_batch_size: int | None) -> Path:
    """Writes ``plan.json`` in the workdir, which is made if missing."""
    workdir.mkdir(parents=True, exist_ok=True)
    values = plan.as_dict() | {"largest_batch_size": largest_batch_size}
    write_atomically(workdir / "plan.json", json.dumps(values, indent=2).encode() + b"\n")
    return workdir / "plan.json"


def _layer_inputs(task: Task, state, batch, micro_batches: int) -> int | None:
    """What the layers read: of the whole batch where the step is fused, else of one micro-batch."""
    if task.stack is None:
        return None
    key = jax.eval_shape(lambda: jax.random.key(0))
    x = jax.jit(task.stack.embed).trace(state.params, batch, key).jaxpr.out_avals
    layers = num_layers(state.params[task.stack.layers])
    portions = 1 if isinstance(task.config.optimizer, FusedAdafactor) else micro_batches
    return layers * sum(local_bytes(aval) for aval in x) // portions


def _bytes_in(tree, memory: str) -> int:
    """Bytes of the leaves in ``"host"`` memory or on the ``"device"``."""
    leaves = jax.tree.leaves(tree)
    return sum(
        local_bytes(leaf) for leaf in leaves if (leaf.sharding.memory_kind == "pinned_host") == (memory == "host")
    )


def _hlo_type(leaf) -> str:
    """How the compiled program writes the type of one device's part of an argument."""
    name = {
        "bfloat16": "bf16",
        "float16": "f16",
        "float32": "f32",
        "int32": "s32",
        "int8": "s8",
        "uint8": "u8",
        "uint32": "u32",
        "bool": "pred",
    }[leaf.dtype.name]
    return f"{name}[{','.join(str(n) for n in leaf.sharding.shard_shape(leaf.shape))}]"


def _peak_of_refusal(error: jax.errors.JaxRuntimeError, argument_bytes: int) -> int:
    """TPU compilers refuse a program that does not fit, and say what it, or its temporaries alone, would need."""
    message = str(error)
    if match := re.search(r"HLO temporaries \(([\d.]+)([KMGT])\)", message):
        needed = argument_bytes
    elif match := re.search(r"Used ([\d.]+)([KMGT]) of", message):
        needed = 0
    else:
        raise error
    return needed + round(float(match[1]) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[match[2]])


def _roofline(accelerator: Accelerator, products: cost.Products, sent: float, count: int, model_flops: float):
    compute = products.flops / count / accelerator.flops
    memory = products.bytes / accelerator.bandwidth
    links = sent / accelerator.links
    least = max(compute, memory, links)
    return {
        "compute_seconds": compute,
        "memory_seconds": memory,
        "link_seconds": links,
        "step_seconds_at_least": least,
        "step_seconds_without_overlap": max(compute, memory) + links,
        "model_flop_utilisation_at_most": model_flops / count / accelerator.flops / least,
        "assumptions": [
            f"matrix products at the vendor's peak, {accelerator.flops / 1e12:.0f} dense bfloat16 TFLOP/s",
            f"their operands and results cross memory once each, at {accelerator.bandwidth / 1e9:.0f} GB/s",
            f"collectives run as rings, at {accelerator.links / 1e9:g} GB/s each way",
            "everything else costs nothing: real steps are slower",
        ],
    }
