"""Augmentation: what moves, what is drawn, what stays as it was."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from astrojax.ops.augment import VARIABLES, Draws, Policy, Variable, augment, draw, noise
from astrojax.parallel.mesh import MeshConfig, make_mesh

ALWAYS = Policy(noise=1, smooth=1, smooth_bound=0.5, roll=1, mirror=1)
TEMPERATURE, HUMIDITY = VARIABLES["air_temperature"], VARIABLES["specific_humidity"]
NORTHWARD, PRESSURE = VARIABLES["northward_wind"], VARIABLES["surface_air_pressure"]
GROUP = (TEMPERATURE, HUMIDITY, NORTHWARD, PRESSURE)
SHAPE = (3, 4, 4, 3, 2, 7, 12)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        yield


def cube_of(shape=SHAPE, dtype=jnp.float32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(0.5, 1.5, shape), dtype)


def drawn(b=SHAPE[0], num_ct=SHAPE[2], policy=ALWAYS, seed=0, rotating=True, seasons=True):
    flags = [jnp.broadcast_to(jnp.asarray(flag), (b,)) for flag in (rotating, seasons)]
    key = jax.random.key(seed)
    return draw(key, policy, rotating=flags[0], seasons=flags[1], num_climate_time=num_ct)


def only(b=SHAPE[0], **fields) -> Draws:
    """Draws in which nothing happens but ``fields``."""
    no = jnp.zeros(b, bool)
    nothing = Draws(jnp.zeros(b), no, no, jnp.zeros(b), no, jnp.arange(2 * b, dtype=jnp.uint32).reshape(b, 2))
    return nothing._replace(**{name: jnp.broadcast_to(jnp.asarray(value), (b,)) for name, value in fields.items()})


def step_by_step(cube, draws, variables):
    """Everything but noise, one sample at a time, in float64."""
    out = np.array(cube, np.float64)
    for x, turn, mirrored, half_year, w in zip(out, *map(np.asarray, draws[:4]), strict=True):
        free = [v.noise != "fixed" for v in variables]
        x[free] += w * (x[free].mean(axis=2, keepdims=True) - x[free])
        if mirrored:
            sign = np.array([v.mirror_sign for v in variables]).reshape(-1, 1, 1, 1, 1, 1)
            x[:] = sign * x[..., ::-1, :]
        if half_year:
            x[:] = np.roll(x, x.shape[1] // 2, axis=1)
        x[:] = np.roll(x, int(turn * x.shape[-1]), axis=-1)
    return out


def variates(draws, shape, names=("air_temperature",)):
    """The noise itself: what is added to zero with a standard deviation of 1."""
    return np.asarray(augment(jnp.zeros(shape), draws, [Variable(name, "additive", 1.0) for name in names]))


@pytest.mark.parametrize("shape", [SHAPE, (3, 4, 1, 1, 1, 6, 5), (3, 4, 2, 4, 1, 1, 12)])
def test_moves_and_smoothing_are_those_of_the_steps(shape):
    cube, draws = cube_of(shape), drawn(num_ct=shape[2])._replace(noise=jnp.zeros(3, bool))
    draws = draws._replace(mirrored=jnp.asarray([True, False, True]), half_year=jnp.asarray([True, False, False]))
    np.testing.assert_allclose(augment(cube, draws, GROUP), step_by_step(cube, draws, GROUP), rtol=1e-6)


def test_nothing_drawn_changes_nothing():
    cube = cube_of().at[0, 0, 0, 0].set(jnp.nan)  # A missing value stays alone.
    np.testing.assert_array_equal(augment(cube, only(), GROUP), cube)


def test_infinite_values_only_move_where_there_is_no_noise():
    cube = cube_of().at[:, :, 0, 0, 0, 1, 2].set(jnp.inf)
    np.testing.assert_array_equal(augment(cube, only(), GROUP), cube)
    noisy = augment(cube, only(noise=True), GROUP)
    np.testing.assert_array_equal(noisy[:, 3], cube[:, 3])  # The pressure is fixed.


def test_grids_of_different_width_turn_alike():
    """A coarse map of a field's longitudes still shows them after the same turn, to one of its cells."""
    lon = np.arange(24) / 24
    fine = jnp.broadcast_to(jnp.asarray(lon, jnp.float32), (3, 1, 2, 1, 1, 2, 24))
    coarse, draws = fine[..., ::2], only(turn=[0.26, 0.5, 0.99])
    fine, coarse = (augment(x, draws, [PRESSURE]) for x in (fine, coarse))
    apart = np.abs(np.asarray(fine[..., ::2] - coarse))
    assert (np.minimum(apart, 1 - apart) <= 1 / 12 + 1e-6).all()


def test_mirroring_twice_is_the_identity():
    cube, mirror = cube_of(), only(mirrored=True, half_year=True)
    once = augment(cube, mirror, GROUP)
    np.testing.assert_array_equal(augment(once, mirror, GROUP), cube)
    np.testing.assert_array_equal(once[:, 2], -jnp.roll(cube[:, 2, ..., ::-1, :], 2, axis=1))


def test_groups_of_a_sample_move_alike():
    fields, draws = cube_of(), drawn()._replace(noise=jnp.zeros(3, bool), smoothing=jnp.zeros(3))
    maps = fields[:, 3:, :, :, :1]
    np.testing.assert_array_equal(augment(maps, draws, [PRESSURE]), augment(fields, draws, GROUP)[:, 3:, :, :, :1])


def test_noise_does_not_depend_on_the_group_and_belongs_to_the_place():
    draws = drawn()
    alone = variates(draws, (3, 1, *SHAPE[2:]))
    with_others = variates(draws, (3, 2, *SHAPE[2:]), ("eastward_wind", "air_temperature"))
    np.testing.assert_array_equal(alone[:, 0], with_others[:, 1])
    still = draws._replace(turn=jnp.zeros(3), mirrored=jnp.zeros(3, bool), half_year=jnp.zeros(3, bool))
    np.testing.assert_array_equal(alone, variates(still, (3, 1, *SHAPE[2:])))


def test_multiplicative_noise_keeps_zero_and_never_gets_below():
    wild = [
        Variable("specific_humidity", "multiplicative", 2.0),
        Variable("cloud_area_fraction", "multiplicative", 2.0, maximum=1.0),
    ]
    out = augment(cube_of()[:, :2].at[..., 0].set(0.0), only(noise=True), wild)
    assert out.min() == 0
    assert not out[..., 0].any()
    assert out[:, 0].max() > 2
    assert out[:, 1].max() == 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_fixed_variables_keep_their_area_weighted_means(dtype):
    num_lat = SHAPE[5]
    weights = np.abs(np.diff(np.sin(np.deg2rad(np.linspace(-90, 90, num_lat + 1)))))
    cube, draws = cube_of(dtype=dtype), drawn()

    def means(x, draws):
        x = np.asarray(x[:, 3], np.float64)
        means = np.average(x.mean(axis=-1), axis=-1, weights=weights)
        back = [
            np.roll(m, -(m.shape[0] // 2) * int(half), axis=0) for m, half in zip(means, draws.half_year, strict=True)
        ]
        return np.stack(back)

    out = augment(cube, draws, GROUP)
    assert bool(draws.half_year.any())
    np.testing.assert_allclose(means(out, draws), means(cube, only()), rtol=1e-12)
    np.testing.assert_array_equal(np.sort(out[:, 3], axis=None), np.sort(cube[:, 3], axis=None))


def test_noise_is_normal_and_uncorrelated():
    shape = (2, 2, 4, 3, 2, 63, 128)
    n = variates(only(2, noise=True), shape, ("air_temperature", "eastward_wind")).astype(np.float64)
    size = n.size
    # Four standard errors of each moment.
    assert abs(n.mean()) < 4 / np.sqrt(size)
    assert abs(n.var() - 1) < 4 * np.sqrt(2 / size)
    assert abs(scipy.stats.skew(n, axis=None)) < 4 * np.sqrt(6 / size)
    assert abs(scipy.stats.kurtosis(n, axis=None)) < 4 * np.sqrt(24 / size)
    assert scipy.stats.kstest(n.ravel(), "norm").pvalue > 1e-3
    assert scipy.stats.kstest(n.ravel() ** 2, "chi2", args=(1,)).pvalue > 1e-3
    pairs = {
        f"axis {axis}": (n.take(range(1, n.shape[axis]), axis), n.take(range(n.shape[axis] - 1), axis))
        for axis in range(7)
    }
    # The two cells that share words, and their squares, which share the radius.
    pairs["mirror"] = (n[..., :31, :], n[..., :31:-1, :])
    for name, (first, second) in pairs.items():
        limit = 4 / np.sqrt(first.size)
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < limit, name
        assert abs(np.corrcoef(first.ravel() ** 2, second.ravel() ** 2)[0, 1]) < limit, name


def test_noise_has_its_tails():
    n = variates(only(2, noise=True), (2, 1, 1, 1, 16, 512, 512))
    expected = n.size * 2 * scipy.stats.norm.sf(4.5)
    beyond = np.sum(np.abs(n) > 4.5)
    assert abs(beyond - expected) < 4 * np.sqrt(expected)
    assert np.abs(n).max() < 5.78


def test_words_are_permutations_and_differ_between_keys():
    number = jnp.arange(1 << 16, dtype=jnp.uint32)
    words = [noise.words(noise.mixed(number, tuple(jnp.uint32(k) for k in key))) for key in ((1, 2), (1, 3), (2, 5))]
    words = [np.asarray(word) for pair in words for word in pair]
    assert all(np.unique(word).size == word.size for word in words)
    for one, other in itertools.combinations(words, 2):
        assert np.intersect1d(one, other).size < 6  # Two sets of 2**16 of 2**32 words share 1 on average.
        bits = np.unpackbits((one ^ other).view(np.uint8)).mean()
        assert abs(bits - 0.5) < 4 * 0.5 / np.sqrt(32 * number.size)


def test_draws_obey_the_policy():
    b = 4000
    policy = Policy(noise=0.3, smooth=0.4, smooth_bound=0.2, roll=0.9, mirror=0.25)
    rotating, seasons = np.arange(b) % 2 == 0, np.arange(b) % 4 < 2
    draws = drawn(b, policy=policy, rotating=rotating, seasons=seasons)

    def near(share, probability, n):
        return abs(share - probability) < 4 * np.sqrt(probability * (1 - probability) / n)

    assert near(draws.noise.mean(), 0.3, b)
    assert near(draws.mirrored.mean(), 0.25, b)
    assert near((draws.smoothing > 0).mean(), 0.4, b)
    assert 0.195 < draws.smoothing.max() < 0.2
    assert not draws.turn[~rotating].any()
    assert draws.turn.max() < 1
    counts = np.bincount((draws.turn[rotating] * 10).astype(int), minlength=10)
    assert near(counts[0] / counts.sum(), 0.1 + 0.09, counts.sum())
    assert all(near(count / counts.sum(), 0.09, counts.sum()) for count in counts[1:])
    np.testing.assert_array_equal(draws.half_year, draws.mirrored & seasons)
    assert np.unique(draws.words, axis=0).shape[0] == b


def test_a_sample_is_drawn_alike_in_any_batch():
    few, many = drawn(2), drawn(5)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:2]), few, many)


def test_odd_years_have_no_half():
    with pytest.raises(ValueError, match="num_climate_time=5 should be even"):
        drawn(num_ct=5)
    for harmless in (drawn(num_ct=5, seasons=False), drawn(num_ct=5, policy=Policy(mirror=0)), drawn(num_ct=1)):
        assert harmless.mirrored.shape == (3,)


@pytest.mark.parametrize("mesh_shape", [(1, 1, 1), (8, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("over_variables", [False, True])
def test_result_does_not_depend_on_the_mesh(mesh_shape, over_variables):
    cube = cube_of((8, *SHAPE[1:]))
    expected = augment(cube, drawn(8), GROUP)
    size = int(np.prod(mesh_shape))
    mesh = make_mesh(MeshConfig(**dict(zip(("data", "fsdp", "tensor"), mesh_shape, strict=True))), jax.devices()[:size])
    spec = P(("data", "fsdp"), "tensor" if over_variables else None)
    with jax.set_mesh(mesh):

        @jax.jit
        def step(cube, rotating):
            draws = draw(jax.random.key(0), ALWAYS, rotating=rotating, seasons=jnp.ones(8, bool), num_climate_time=4)
            return augment(cube, draws, GROUP)

        rotating = jax.device_put(np.ones(8, bool), NamedSharding(mesh, P(("data", "fsdp"))))
        out = step(jax.device_put(np.asarray(cube), NamedSharding(mesh, spec)), rotating)
    assert out.sharding.is_equivalent_to(NamedSharding(mesh, spec), 7)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_donated_cube_is_changed_in_place(dtype):
    cube = jax.ShapeDtypeStruct((4, 4, 12, 4, 10, 32, 64), dtype)
    step = jax.jit(functools.partial(augment, variables=GROUP), donate_argnums=0)
    memory = step.lower(cube, only(4)).compile().memory_analysis()
    slab = 2 * 4 * 32 * 64 * 4  # Two climate times, float32.
    assert memory.alias_size_in_bytes == cube.size * cube.dtype.itemsize
    assert memory.temp_size_in_bytes < 7 * slab < cube.size * cube.dtype.itemsize / 10


def test_low_precision_is_rounded_once():
    exact = augment(cube_of(dtype=jnp.bfloat16).astype(jnp.float32), drawn(), GROUP)
    rounded = augment(cube_of(dtype=jnp.bfloat16), drawn(), GROUP)
    np.testing.assert_array_equal(rounded, exact.astype(jnp.bfloat16))


def test_bad_input_is_refused():
    cube, draws = cube_of(), only()
    with pytest.raises(ValueError, match="cube: has 6 axes, should have 7: batch, variable"):
        augment(cube[0], draws, GROUP)
    with pytest.raises(ValueError, match="cube: dtype int32 should be one of float32"):
        augment(cube.astype(jnp.int32), draws, GROUP)
    with pytest.raises(ValueError, match="variables: 3 of them for a cube that holds 4"):
        augment(cube, draws, GROUP[:3])
    with pytest.raises(ValueError, match="draws: for 2 samples, but the cube holds 3"):
        augment(cube, only(2), GROUP)
    with pytest.raises(ValueError, match="unknown augment implementation='cuda'"):
        augment(cube, draws, GROUP, implementation="cuda")
    with pytest.raises(ValueError, match=r"policy: mirror=1\.5 should lie in \[0, 1\]"):
        Policy(mirror=1.5)
    with pytest.raises(ValueError, match="x: noise='gaussian' should be one of"):
        Variable("x", "gaussian")
    with pytest.raises(ValueError, match=r"x: std=1\.0 should be 0 where"):
        Variable("x", "fixed", 1.0)
    mesh = make_mesh(MeshConfig(), jax.devices())
    split = NamedSharding(mesh, P(None, None, None, None, None, None, "fsdp"))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="cube: lon is split over mesh axis fsdp"):
        augment(jax.device_put(np.ones((3, 4, 4, 3, 2, 7, 16), np.float32), split), draws, GROUP)
