import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from astrojax.errors import RequestError, RunError
from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.train.checkpoint import Checkpoints
from astrojax.train.task import CheckpointConfig


def state_on(num_devices, seed=0):
    """A small random tree of the dtypes in use, split over ``fsdp``, and its abstract arrays."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:num_devices])
    split, whole = NamedSharding(mesh, P("fsdp", None)), NamedSharding(mesh, P())
    rng = np.random.default_rng(seed)
    values = {
        "params": {
            "w": rng.normal(size=(16, 64)).astype(np.float32),
            "b": rng.normal(size=(16, 2)).astype(jnp.bfloat16),
        },
        "step": np.int32(seed),
    }
    shardings = {"params": {"w": split, "b": split}, "step": whole}
    state = jax.device_put(values, shardings)
    return state, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def open_checkpoints(folder, **options):
    return Checkpoints(str(folder), CheckpointConfig(**options))


def save(folder, losses: dict[int, float | None], **options):
    checkpoints = open_checkpoints(folder, **options)
    for step, loss in losses.items():
        metrics = {} if loss is None else {"validation_loss": loss}
        checkpoints.save(step, state_on(1, seed=step)[0], {"next_index": step}, metrics)
    checkpoints.close()


def damage(folder, step, harm="flip"):
    """Harms the largest file of the checkpoint, which holds the arrays: one bit, half of it, or all of it."""
    file = max((f for f in (folder / str(step)).rglob("d/*") if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(data if harm == "flip" else data[: len(data) // 2])


@pytest.mark.parametrize("saved_on", [1, 2, 8])
@pytest.mark.parametrize("restored_on", [1, 2, 8])
def test_any_mesh_restores_what_any_other_saved(folder, saved_on, restored_on):
    checkpoints = open_checkpoints(folder)
    saved, _ = state_on(saved_on)
    checkpoints.save(3, saved, {"next_index": 3}, {})
    checkpoints.wait()
    _, abstract = state_on(restored_on)
    step, state, data = checkpoints.resume(abstract)
    checkpoints.close()
    assert (step, data) == (3, {"next_index": 3})
    jax.tree.map(np.testing.assert_array_equal, state, saved)
    assert len(state["params"]["w"].sharding.device_set) == restored_on


def test_the_newest_and_the_best_stay(folder):
    save(folder, {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 2.5}, keep=2)
    checkpoints = open_checkpoints(folder, keep=2)
    assert checkpoints.steps() == [2, 4, 5]
    assert checkpoints.best_step() == 2
    _, abstract = state_on(1)
    assert checkpoints.read("best", abstract)[0] == 2
    assert checkpoints.read("newest", abstract)[0] == 5
    assert checkpoints.read(4, abstract)[0] == 4
    with pytest.raises(RequestError, match=r"no checkpoint 3 .* there are \[2, 4, 5\]"):
        checkpoints.read(3, abstract)
    checkpoints.close()


def test_without_the_best_only_the_newest_stay(folder):
    save(folder, {1: 1.0, 2: 2.0, 3: 3.0}, keep=1, keep_best=False)
    checkpoints = open_checkpoints(folder)
    assert checkpoints.steps() == [3]
    checkpoints.close()


def test_steps_and_minutes_make_a_save_due(folder):
    checkpoints = open_checkpoints(folder, every_steps=10)
    assert [step for step in range(1, 31) if checkpoints.due(step)] == [10, 20, 30]
    assert not checkpoints.overdue()
    checkpoints.close()
    checkpoints = open_checkpoints(folder, every_steps=1000, every_minutes=1e-9)
    assert checkpoints.overdue()
    assert not checkpoints.due(1)
    checkpoints.close()


# Orbax abandons the reads of the other arrays; one that ends after its event loop cannot say so to anyone.
@pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(folder, capsys, harm):
    save(folder, {1: None, 2: None})
    damage(folder, 2, harm)
    checkpoints = open_checkpoints(folder)
    state, abstract = state_on(1, seed=1)
    step, restored, data = checkpoints.resume(abstract)
    assert (step, data) == (1, {"next_index": 1})
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert "checkpoint 2 cannot be read" in capsys.readouterr().out
    # The resumed run reaches step 2 again and saves it under its name; the damaged one is still there, aside.
    checkpoints.save(2, state_on(1, seed=2)[0], {"next_index": 2}, {})
    checkpoints.close()
    assert len(list((folder.parent / "unreadable-checkpoints").iterdir())) == 1
    checkpoints = open_checkpoints(folder)
    assert checkpoints.read("newest", abstract)[0] == 2
    checkpoints.close()


def test_readers_leave_damaged_checkpoints_where_they_are(folder):
    save(folder, {1: None, 2: None})
    damage(folder, 2)
    checkpoints = open_checkpoints(folder)
    _, abstract = state_on(1)
    assert checkpoints.read("newest", abstract)[0] == 1
    with pytest.raises(RunError, match="checkpoint 2 cannot be read"):
        checkpoints.read(2, abstract)
    checkpoints.close()
    assert (folder / "2").exists()


def test_a_checkpoint_of_another_model_says_what_differs(folder):
    save(folder, {1: None})
    _, abstract = state_on(1)
    wide = jax.ShapeDtypeStruct((16, 128), np.float32, sharding=abstract["params"]["w"].sharding)
    checkpoints = open_checkpoints(folder)
    with pytest.raises(RunError, match=r"params\.w has shape \(16, 64\) there, \(16, 128\) in this version"):
        checkpoints.read(1, abstract | {"params": abstract["params"] | {"w": wide}})
    checkpoints.close()


def test_nothing_is_thrown_away_when_nothing_can_be_read(folder):
    save(folder, {1: None, 2: None})
    damage(folder, 1)
    damage(folder, 2)
    checkpoints = open_checkpoints(folder)
    with pytest.raises(RunError, match=r"none of the checkpoints \[2, 1\]"):
        checkpoints.resume(state_on(1)[1])
    checkpoints.close()
    assert sorted(f.name for f in folder.iterdir() if f.name.isdigit()) == ["1", "2"]


def test_what_a_kill_left_half_written_is_reported_and_ignored(folder, capsys):
    save(folder, {1: None})
    (folder / "2.orbax-checkpoint-tmp").mkdir()
    checkpoints = open_checkpoints(folder)
    assert checkpoints.resume(state_on(1)[1])[0] == 1
    checkpoints.close()
    assert "checkpoint 2 was still being written" in capsys.readouterr().out


def test_an_empty_folder_has_nothing_to_resume(folder):
    checkpoints = open_checkpoints(folder)
    assert checkpoints.resume(state_on(1)[1]) is None
    with pytest.raises(RequestError, match="no finished checkpoint"):
        checkpoints.read("newest", state_on(1)[1])
    checkpoints.close()
