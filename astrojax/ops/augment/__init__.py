"""Physics augmentation of climate cubes: one public function, one file per implementation."""

import functools
from collections.abc import Sequence
from typing import Literal, get_args

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from astrojax.ops.augment import mosaic_tpu, reference, triton
from astrojax.ops.augment.draws import Draws as Draws
from astrojax.ops.augment.draws import Policy as Policy
from astrojax.ops.augment.draws import draw as draw
from astrojax.ops.augment.effects import Effects, effects
from astrojax.ops.augment.variables import VARIABLES as VARIABLES
from astrojax.ops.augment.variables import Variable as Variable
from astrojax.parallel.mesh import backend

Implementation = Literal["auto", "reference", "triton", "mosaic_tpu"]

_IMPLEMENTATIONS = {"reference": reference, "triton": triton, "mosaic_tpu": mosaic_tpu}
_DTYPES = ("float32", "bfloat16", "float16")
_AXES = ("batch", "variable", "climate_time", "geological_time", "lev", "lat", "lon")


def augment(
    cube: Float[Array, "b v ct gt lev lat lon"],
    draws: Draws,
    variables: Sequence[Variable],
    *,
    implementation: Implementation = "auto",
    interpret: bool = False,
) -> Float[Array, "b v ct gt lev lat lon"]:
    """Smooths, moves and disturbs each sample as drawn, in one pass over memory: in place where ``cube`` is donated.

    First ``x`` becomes ``(1 - w) x + w mean(x)`` over geological time, then it moves (rolled in longitude, mirrored in
    latitude, shifted by half a year), and then the noise is added, which belongs to the place a value has moved to.
    Fixed variables are only moved: their area-weighted means stay what they were, those of a shifted sample at
    another climate time. All is computed in float32. No gradient flows through it.

    Args:
        cube: one group of variables: fields on levels, or with one level surface fields or boundary maps.
        draws: what happens to each sample. The same draws move all groups of a sample alike.
        variables: how each variable may be disturbed, in the order of the cube's.
        implementation: ``"reference"`` is plain JAX, ``"triton"`` a kernel for NVIDIA GPUs from Ampere on,
            ``"mosaic_tpu"`` one for TPUs; ``"auto"`` takes the one for the platform of the current mesh.
        interpret: run a kernel on the CPU, operation by operation.

    Raises:
        ValueError: the cube does not fit its description, has an unfit dtype, or is split over devices along an axis
            other than batch and variable; or the implementation is unknown or cannot take it.
    """
    if cube.ndim != len(_AXES):
        raise ValueError(f"cube: has {cube.ndim} axes, should have {len(_AXES)}: {', '.join(_AXES)}")
    if cube.dtype.name not in _DTYPES:
        raise ValueError(f"cube: dtype {cube.dtype.name} should be one of {', '.join(_DTYPES)}")
    if 0 in cube.shape:
        raise ValueError(f"cube: must not be empty, has shape {cube.shape}")
    if len(variables) != cube.shape[1]:
        raise ValueError(f"variables: {len(variables)} of them for a cube that holds {cube.shape[1]}")
    if draws.turn.shape[0] != cube.shape[0]:
        raise ValueError(f"draws: for {draws.turn.shape[0]} samples, but the cube holds {cube.shape[0]}")
    if implementation not in get_args(Implementation):
        raise ValueError(f"unknown augment {implementation=}")
    split = tuple(jax.typeof(cube).sharding.spec.partitions)
    for axis, devices in list(zip(_AXES, split, strict=True))[2:]:
        if devices is not None:
            raise ValueError(f"cube: {axis} is split over mesh axis {devices}, but samples move along it")
    cube = jax.lax.stop_gradient(cube)
    if implementation == "auto":
        kernel = {"gpu": "triton", "tpu": "mosaic_tpu"}.get(backend(), "reference")
        implementation = "reference" if _IMPLEMENTATIONS[kernel].refusal(cube, interpret) else kernel
    elif reason := _IMPLEMENTATIONS[implementation].refusal(cube, interpret):
        raise ValueError(f"augment {implementation=}: {reason}")

    kernel = functools.partial(_IMPLEMENTATIONS[implementation].augment, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return kernel(cube, effects(draws, variables, cube.shape[2], cube.shape[-1]))
    batch, variable = P(split[0]), P(*split[:2])
    draws = jax.tree.map(lambda x: jax.sharding.reshard(x, batch), draws)
    specs = Effects(moves=batch, changes=variable, keys=variable)
    parts = jax.tree.map(jax.sharding.reshard, effects(draws, variables, cube.shape[2], cube.shape[-1]), specs)
    return jax.shard_map(kernel, in_specs=(variable, specs), out_specs=variable, check_vma=False)(cube, parts)
