"""The CNN-ViT: what must not change its answer, and what must turn with its input."""

import functools

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from flax import nnx

from astrojax.config import load_config
from astrojax.models.cube_vit import (
    Channels,
    Coordinates,
    CubeViT,
    CubeViTConfig,
    Heads,
    Inputs,
    Patch,
    Window,
    check_cube,
    depthwise_convolution,
)
from astrojax.parallel.mesh import UNIT_MESH, MeshConfig, make_mesh
from astrojax.parallel.sharding import num_elements
from astrojax.precision import Precision
from astrojax.tasks import make_task

pytestmark = pytest.mark.slow  # Each test compiles the whole model.

CONFIG = CubeViTConfig(
    patch=Patch(climate_time=2, lev=2, lat=2, lon=2),
    window=Window(lev=2, lat=2, lon=2),
    heads=Heads(local=2, space=2, climate_time=2, geological_time=2),
    num_layers=2,
    d_model=16,
    d_ff=32,
    head_dim=12,
    stem_channels=8,
    stem_blocks=2,
    decoder_channels=6,
    d_condition=8,
    precision=Precision(compute="float32"),
)
MONTHS, EPOCHS, LEVELS, ROWS, COLUMNS = 4, 3, 4, 4, 8
COORDINATES = Coordinates(
    climate_time=(np.arange(MONTHS) + 0.5) / MONTHS,
    lev=np.linspace(0.1, 0.9, LEVELS),
    lat=np.linspace(-67.5, 67.5, ROWS),
    lon=np.arange(COLUMNS) * 45.0,
)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        yield


@functools.cache
def new_model(observed=0, config=CONFIG):
    channels = Channels(maps=3, parameters=2, observed=observed, levels=5, surface=2)
    init = jax.jit(lambda key: nnx.state(CubeViT(config, channels, rngs=nnx.Rngs(params=key))))
    state = init(jax.random.key(0))
    # What starts at zero, such as modulation, must not hide from the tests.
    leaves, treedef = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    abstract = jax.eval_shape(lambda: CubeViT(config, channels, rngs=nnx.Rngs(params=jax.random.key(0))))
    return nnx.merge(nnx.graphdef(abstract), treedef.unflatten(leaves))


def inputs(batch=2, observed=0, seed=0, **changes):
    keys = jax.random.split(jax.random.key(seed), 3)
    space = (MONTHS, EPOCHS, LEVELS if observed else 1, ROWS, COLUMNS)
    made = Inputs(
        maps=jax.random.normal(keys[0], (batch, 3, MONTHS, EPOCHS, 1, ROWS, COLUMNS)),
        parameters=jax.random.normal(keys[1], (batch, EPOCHS, 2)),
        ages=jnp.tile(jnp.asarray([3.8, 2.0, 0.0]), (batch, 1)),
        present=jnp.ones((batch, EPOCHS), bool),
        observed=jax.random.normal(keys[2], (batch, observed, *space)) if observed else None,
    )
    return made._replace(**changes)


def predict(model, given, coordinates=COORDINATES):
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state, given: nnx.merge(graphdef, state)(given, coordinates))(state, given)


def assert_alike(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(np.abs(b).max()))


@pytest.mark.parametrize(("preset", "parameters"), [("tiny", 3 * 5.1e5), ("30m", 30e6), ("2b5", 2.5e9)])
def test_presets_have_the_size_their_name_says(preset, parameters):
    task = make_task(load_config(f"configs/datacube.py:{preset}"))
    with jax.sharding.use_abstract_mesh(UNIT_MESH):
        counted = num_elements(jax.eval_shape(lambda: task.init(jax.random.key(0))))
    assert counted == pytest.approx(parameters, rel=0.02 if preset == "2b5" else 0.05)


def test_fields_have_the_shape_of_the_cube():
    levels, surface = predict(new_model(), inputs())
    assert levels.shape == (2, 5, MONTHS, EPOCHS, LEVELS, ROWS, COLUMNS)
    assert surface.shape == (2, 2, MONTHS, EPOCHS, 1, ROWS, COLUMNS)
    assert levels.dtype == surface.dtype == jnp.float32


def test_a_planet_does_not_depend_on_the_others_of_its_batch():
    given = inputs(batch=3)
    alone = jax.tree.map(lambda x: x[1:2], given)
    assert_alike(predict(new_model(), alone), jax.tree.map(lambda x: x[1:2], predict(new_model(), given)))


def test_maps_turned_by_a_window_give_the_climate_turned():
    given = inputs()
    cells = CONFIG.window.lon * CONFIG.patch.lon
    turned = given._replace(maps=jnp.roll(given.maps, cells, axis=-1))
    expected = jax.tree.map(lambda x: jnp.roll(x, cells, axis=-1), predict(new_model(), given))
    assert_alike(predict(new_model(), turned), expected)
    other = given._replace(maps=jnp.roll(given.maps, 1, axis=-1))
    assert float(jnp.abs(predict(new_model(), other)[0] - predict(new_model(), given)[0]).max()) > 1e-2


def test_the_year_may_begin_in_any_month_a_patch_begins_in():
    given = inputs()
    months = CONFIG.patch.climate_time
    turned = given._replace(maps=jnp.roll(given.maps, months, axis=2))
    expected = jax.tree.map(lambda x: jnp.roll(x, months, axis=2), predict(new_model(), given))
    assert_alike(predict(new_model(), turned), expected)


def test_no_epoch_reads_from_one_that_is_missing():
    present = jnp.asarray([[True, False, True]] * 2)
    given = inputs(present=present)
    changed = given._replace(maps=given.maps.at[:, :, :, 1].add(7.0), parameters=given.parameters.at[:, 1].add(3.0))
    before, after = predict(new_model(), given), predict(new_model(), changed)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a[:, :, :, [0, 2]], b[:, :, :, [0, 2]])
    with_it = predict(new_model(), inputs())[0]
    assert float(jnp.abs(with_it[:, :, :, 0] - before[0][:, :, :, 0]).max()) > 1e-3


@pytest.mark.parametrize(
    ("axis", "place"), [(2, 0), (3, 2), (5, 0), (6, 3)], ids=["climate_time", "geological_time", "lat", "lon"]
)
def test_every_cell_can_depend_on_every_other(axis, place):
    given = inputs()
    index = [slice(None)] * 7
    index[axis] = place
    changed = given._replace(maps=given.maps.at[tuple(index)].add(2.0))
    change = jnp.abs(predict(new_model(), changed)[0] - predict(new_model(), given)[0])
    along = jnp.max(jnp.moveaxis(change, axis, 0), axis=tuple(range(1, 7)))
    assert (along > 1e-4).all()


def test_another_grid_works_with_the_same_weights():
    finer = Coordinates(
        climate_time=(np.arange(2 * MONTHS) + 0.5) / (2 * MONTHS),
        lev=np.linspace(0.05, 0.95, 2 * LEVELS),
        lat=np.linspace(-80, 80, 2 * ROWS),
        lon=np.arange(2 * COLUMNS) * 22.5,
    )
    maps = jax.random.normal(jax.random.key(0), (1, 3, 2 * MONTHS, EPOCHS, 1, 2 * ROWS, 2 * COLUMNS))
    levels, _ = predict(new_model(), inputs(batch=1, maps=maps), finer)
    assert levels.shape == (1, 5, 2 * MONTHS, EPOCHS, 2 * LEVELS, 2 * ROWS, 2 * COLUMNS)
    assert np.isfinite(levels).all()


def test_known_fields_are_read_level_by_level():
    given = inputs(observed=3)
    changed = given._replace(observed=given.observed.at[:, :, :, :, 0].add(2.0))
    change = jnp.abs(predict(new_model(3), changed)[0] - predict(new_model(3), given)[0])
    assert float(change.max()) > 1e-2
    flipped = given._replace(observed=given.observed[:, :, :, :, ::-1])
    assert float(jnp.abs(predict(new_model(3), flipped)[0] - predict(new_model(3), given)[0]).max()) > 1e-2


def test_epochs_may_share_a_token():
    config = msgspec.structs.replace(CONFIG, patch=msgspec.structs.replace(CONFIG.patch, geological_time=3))
    levels, _ = predict(new_model(0, config), inputs())
    assert levels.shape[3] == EPOCHS
    assert np.isfinite(levels).all()


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "dots"])
def test_remat_changes_no_gradient(remat):
    given = inputs(batch=1)

    def gradient(config):
        graphdef, state = nnx.split(new_model(0, config))

        def loss(state):
            return sum(jnp.sum(x**2) for x in nnx.merge(graphdef, state)(given, COORDINATES))

        return jax.tree.leaves(jax.jit(jax.grad(loss))(state))

    reference = gradient(CONFIG)
    for a, b in zip(gradient(msgspec.structs.replace(CONFIG, remat=remat)), reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max() + 1e-9))


def test_the_stencil_is_periodic_and_crosses_the_poles():
    x = np.zeros((1, 1, 1, 2, 4, 8, 1), np.float32)
    x[0, 0, 0, 1, 3, 7, 0] = 1.0
    kernel = jnp.asarray([[1.0], [2.0], [3.0], [5.0], [7.0], [11.0], [13.0]])
    y = np.asarray(depthwise_convolution(jnp.asarray(x), kernel))[0, 0, 0, ..., 0]
    # Its own cell also is what lies below the lowest level.
    expected = {(1, 3, 7): 1 + 13, (1, 3, 0): 2, (1, 3, 6): 3, (1, 3, 3): 7, (1, 2, 7): 7, (0, 3, 7): 13}
    assert {tuple(int(i) for i in place): y[tuple(place)] for place in np.argwhere(y)} == expected


def test_refuses_what_does_not_divide():
    shape = {"climate_time": 4, "geological_time": 3, "lev": 4, "lat": 4, "lon": 8}
    check_cube(CONFIG, shape)
    with pytest.raises(ValueError, match=r"patch\.lev=2 does not divide the cube's lev=5"):
        check_cube(CONFIG, shape | {"lev": 5})
    with pytest.raises(ValueError, match=r"window\.lon=2 does not divide the 3 tokens along lon"):
        check_cube(CONFIG, shape | {"lon": 6})
    with pytest.raises(ValueError, match="head_dim=7 must be even"):
        msgspec.structs.replace(CONFIG, head_dim=7).__post_init__()
