"""The kernels against the reference, and compiled for devices that are not attached."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from astrojax.ops.augment import VARIABLES, Draws, Variable, augment, noise
from astrojax.parallel.ahead import compile_ahead
from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.parallel.topology import devices_of

KERNELS = ("triton", "mosaic_tpu")
GROUP = tuple(VARIABLES[n] for n in ("air_temperature", "specific_humidity", "northward_wind", "surface_air_pressure"))


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        yield


def draws_of(rolled, mirrored, half_year, smoothed, noisy, num_lon):
    """Two samples, of which the second is always left alone."""
    active = jnp.asarray([True, False])
    return Draws(
        jnp.where(active & rolled, (num_lon // 3 + 0.5) / num_lon, 0.0),
        active & mirrored,
        active & half_year,
        jnp.where(active & smoothed, 0.3, 0.0),
        active & noisy,
        jnp.asarray([[1, 2], [3, 4]], jnp.uint32),
    )


@functools.cache
def compiled(implementation, num_variables):
    options = {"implementation": implementation, "interpret": True}
    return jax.jit(functools.partial(augment, variables=GROUP[:num_variables], **options))


def assert_same(implementation, cube, draws):
    expected = compiled("reference", cube.shape[1])(cube, draws)
    got = compiled(implementation, cube.shape[1])(cube, draws)
    assert got.dtype == cube.dtype
    got, expected = (np.asarray(x, np.float32) for x in (got, expected))
    np.testing.assert_allclose(got, expected, rtol=1e-2 if cube.dtype == jnp.bfloat16 else 1e-5, atol=1e-6)
    np.testing.assert_array_equal(got[1], expected[1])


def cube_of(*shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.5, shape), dtype)


@pytest.mark.parametrize("implementation", KERNELS)
def test_every_combination_matches_the_reference(implementation):
    cube = cube_of(2, 4, 4, 3, 1, 5, 12)
    for flags in itertools.product((False, True), repeat=5):
        assert_same(implementation, cube, draws_of(*flags, num_lon=12))


@pytest.mark.parametrize("implementation", KERNELS)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 1, 2, 1, 1, 8, 64), jnp.float32),
        ((2, 1, 2, 4, 1, 9, 48), jnp.bfloat16),
        ((2, 2, 1, 3, 1, 3, 100), jnp.float32),
        ((2, 1, 12, 1, 1, 2, 16), jnp.float16),
        ((2, 1, 3, 2, 1, 4, 7), jnp.float32),
        ((2, 1, 2, 1, 10, 1, 1), jnp.float32),
    ],
)
def test_shapes_match_the_reference(implementation, shape, dtype):
    assert_same(implementation, cube_of(*shape, dtype=dtype), draws_of(*[True] * 5, num_lon=shape[-1]))


@pytest.mark.parametrize("implementation", KERNELS)
def test_missing_values_only_move(implementation):
    cube = cube_of(2, 4, 2, 2, 1, 5, 12).at[:, 3, 0, 0, 0, 1, 2].set(jnp.nan)
    assert_same(implementation, cube, draws_of(*[True] * 5, num_lon=12))


def test_words_are_the_same_in_a_kernel():
    def kernel(number_ref, first_ref, second_ref):
        first_ref[...], second_ref[...] = noise.words(noise.mixed(number_ref[...], (jnp.uint32(7), jnp.uint32(9))))

    number = jnp.arange(1024, dtype=jnp.uint32)
    words = pl.pallas_call(kernel, out_shape=[jax.ShapeDtypeStruct((1024,), jnp.uint32)] * 2, interpret=True)(number)

    # In Python's own integers.
    def mix(x):
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
        return x ^ (x >> 16)

    mixed = [mix(n ^ 7) ^ 9 for n in range(1024)]
    np.testing.assert_array_equal(words[0], np.asarray([mix(m) for m in mixed], np.uint32))
    np.testing.assert_array_equal(words[1], np.asarray([mix(m ^ 0x9E3779B9) for m in mixed], np.uint32))


@pytest.mark.parametrize(
    ("topology", "shape"),
    [
        ("rtx-a5000", (2, 4, 12, 4, 10, 64, 128)),
        ("rtx-a5000", (2, 4, 5, 3, 1, 31, 100)),
        ("h200", (2, 4, 12, 4, 10, 64, 128)),
        ("tpu-v6e", (2, 4, 12, 4, 10, 64, 128)),
        ("tpu-v6e", (2, 4, 5, 3, 1, 31, 100)),
        ("tpu-v5e", (2, 4, 12, 4, 10, 64, 128)),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_kernels_compile_for_absent_devices_in_place(topology, shape, dtype):
    mesh = make_mesh(MeshConfig(), list(devices_of(topology, 1)))

    def array(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(("data", "fsdp"))))

    b = shape[0]
    flags, weights = array((b,), jnp.bool), array((b,), jnp.float32)
    draws = Draws(array((b,), jnp.float32), flags, flags, weights, flags, array((b, 2), jnp.uint32))
    with jax.set_mesh(mesh):
        step = jax.jit(functools.partial(augment, variables=GROUP), donate_argnums=0)
        compiled = compile_ahead(step.trace(array(shape, dtype), draws))
    memory, cube_bytes = compiled.memory_analysis(), np.prod(shape) * dtype.dtype.itemsize
    target = "tpu_custom_call" if topology.startswith("tpu") else "__gpu$xla.gpu.triton"
    assert compiled.as_text().count(f'custom_call_target="{target}"') == 1
    assert " while(" not in compiled.as_text()
    assert memory.temp_size_in_bytes < 2048 < cube_bytes <= memory.alias_size_in_bytes
    assert memory.output_size_in_bytes == memory.alias_size_in_bytes


def test_kernels_run_on_each_part_of_a_mesh():
    cube = cube_of(8, 2, 2, 2, 1, 4, 8)
    words = jnp.arange(16, dtype=jnp.uint32).reshape(8, 2)
    yes = jnp.ones(8, bool)
    draws = Draws(jnp.arange(8) / 8, yes, yes, jnp.full(8, 0.2), yes, words)
    group = [Variable("air_temperature", "additive", 1.0), Variable("eastward_wind", "additive", 1.0)]
    expected = augment(cube, draws, group)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), jax.devices())
    cube, draws = (jax.tree.map(np.asarray, x) for x in (cube, draws))
    with jax.set_mesh(mesh):
        split = jax.device_put(cube, NamedSharding(mesh, P(("data", "fsdp"), "tensor")))
        for kernel in KERNELS:
            got = augment(split, Draws(*draws), group, implementation=kernel, interpret=True)
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_what_a_kernel_cannot_take_is_refused_by_name():
    cube, draws = cube_of(2, 1, 2, 1, 1, 4, 8), draws_of(*[False] * 5, num_lon=8)
    for implementation, message in (("triton", "not traced for an NVIDIA GPU"), ("mosaic_tpu", "not traced for a TPU")):
        with pytest.raises(ValueError, match=f"augment implementation='{implementation}': .*{message}"):
            augment(cube, draws, GROUP[:1], implementation=implementation)
    large = jax.ShapeDtypeStruct((2, 1, 12, 16, 1, 181, 360), jnp.float32)
    with pytest.raises(ValueError, match="all times of one level need 215 MiB of vector memory"):
        jax.eval_shape(lambda cube: augment(cube, draws, GROUP[:1], implementation="mosaic_tpu", interpret=True), large)
