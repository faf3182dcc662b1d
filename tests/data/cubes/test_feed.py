import numpy as np
import pytest

from astrojax.data.cubes import evaluation_batches, training_batches

TRAINING = ("world0", "world1", "world2", "world4", "world5")


def take(batches, number: int) -> list[dict[str, np.ndarray]]:
    iterator = iter(batches)
    taken = [next(iterator) for _ in range(number)]
    iterator.close()
    return taken


def test_a_batch_holds_the_cubes_and_parameters_of_its_planets(store):
    (batch,) = take(training_batches(store, TRAINING, batch_size=3, seed=0), 1)
    places = batch["planet"]
    assert places.dtype == np.int32
    for group, cubes in store.read(places).items():
        np.testing.assert_array_equal(batch[group], cubes)
    assert batch["parameters"].dtype == np.float32
    np.testing.assert_allclose(batch["parameters"], store.parameters[places], rtol=1e-6)


def test_each_round_shows_every_training_planet_once_and_no_other(store):
    rounds = [b["planet"].tolist() for b in take(training_batches(store, TRAINING, batch_size=5, seed=0), 4)]
    assert all(sorted(places) == [0, 1, 2, 4, 5] for places in rounds)
    assert len({tuple(places) for places in rounds}) > 1


def test_the_seed_decides_the_order(store):
    def order(seed):
        batches = take(training_batches(store, TRAINING, batch_size=2, seed=seed), 6)
        return [place for batch in batches for place in batch["planet"].tolist()]

    assert order(3) == order(3)
    assert order(3) != order(4)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_restored_iterator_goes_on_where_it_was(store, num_workers):
    batches = training_batches(store, TRAINING, batch_size=2, seed=0, num_workers=num_workers)
    iterator = iter(batches)
    for _ in range(3):
        next(iterator)
    state = iterator.get_state()
    expected = [next(iterator)["planet"].tolist() for _ in range(4)]
    iterator.close()
    other = iter(batches)
    other.set_state(state)
    assert [next(other)["planet"].tolist() for _ in range(4)] == expected
    other.close()
    assert expected == [
        b["planet"].tolist() for b in take(training_batches(store, TRAINING, batch_size=2, seed=0), 7)[3:]
    ]


def test_processes_share_each_batch(store):
    whole = take(training_batches(store, TRAINING, batch_size=4, seed=0), 5)
    parts = [
        take(training_batches(store, TRAINING, batch_size=4, seed=0, process_index=i, process_count=2), 5)
        for i in range(2)
    ]
    for batch, *own in zip(whole, *parts, strict=True):
        assert sorted(batch["planet"]) == sorted(np.concatenate([part["planet"] for part in own]))
        assert all(len(part["levels"]) == 2 for part in own)


def test_evaluation_shows_each_planet_once_in_order(store):
    batches = list(evaluation_batches(store, ["world3", "world1", "world0"], batch_size=2))
    assert [b["planet"].tolist() for b in batches] == [[3, 1], [0]]
    np.testing.assert_array_equal(batches[1]["levels"], store.read([0])["levels"])


def test_memory_is_used_again_but_never_while_someone_holds_it(store):
    iterator = iter(training_batches(store, TRAINING, batch_size=2, seed=0))
    kept, places = [], set()
    for i in range(12):
        batch = next(iterator)
        if i < 3:  # A row is enough to hold the batch.
            kept.append((batch["planet"], batch["levels"][1], batch["levels"][1].copy()))
        places.add(batch["levels"].ctypes.data)
        del batch
    iterator.close()
    assert len(places) < 12
    for planets, row, copy in kept:
        np.testing.assert_array_equal(row, copy)
        np.testing.assert_array_equal(row, store.read(planets[1:])["levels"][0])
