import itertools

import numpy as np
import pytest

from astrojax.chemistry.balance import likeliest_balanced

COEFFICIENTS = np.asarray([0, -1, 1])


def by_trying_all(log_likelihood, elements):
    """The likeliest of all assignments that balance."""
    best, found = -np.inf, None
    compounds = np.arange(len(log_likelihood))
    for classes in itertools.product(range(len(COEFFICIENTS)), repeat=len(log_likelihood)):
        chosen, likelihood = COEFFICIENTS[list(classes)], log_likelihood[compounds, classes].sum()
        if any(classes) and likelihood > best and (elements is None or not (chosen @ elements).any()):
            best, found = likelihood, classes
    return found


@pytest.mark.parametrize("impossible", [0.0, 0.3])
def test_the_answer_is_the_likeliest_of_all_that_balance(impossible):
    rng = np.random.default_rng(0)
    balanced = 0
    for _ in range(300):
        log_likelihood = 2 * rng.normal(size=(4, 3))
        # Each compound keeps a class that is possible.
        log_likelihood[:, 1:][rng.random((4, 2)) < impossible] = -np.inf
        log_likelihood = rng.permuted(log_likelihood, axis=1)
        elements = rng.integers(3, size=(4, 2))
        found = likeliest_balanced(log_likelihood, COEFFICIENTS, elements)
        expected = by_trying_all(log_likelihood, elements)
        assert (found is None) == (expected is None)
        if found is not None:
            balanced += 1
            np.testing.assert_array_equal(found, expected)
    assert 50 < balanced < 300


def test_without_elements_it_is_the_likeliest_that_does_anything():
    rng = np.random.default_rng(1)
    for _ in range(50):
        log_likelihood = rng.normal(size=(4, 3)) + np.asarray([2.0, 0.0, 0.0])
        np.testing.assert_array_equal(
            likeliest_balanced(log_likelihood, COEFFICIENTS, None), by_trying_all(log_likelihood, None)
        )


def test_what_cannot_balance_has_no_answer():
    assert likeliest_balanced(np.zeros((1, 3)), COEFFICIENTS, np.asarray([[1]])) is None
    # Each has an element of its own: nor does looking for an answer take forever.
    assert likeliest_balanced(np.zeros((30, 3)), COEFFICIENTS, np.eye(30)) is None


def test_what_has_no_likelihood_is_never_chosen():
    only_none = np.asarray([[0.0, -np.inf, -np.inf]] * 3)
    assert likeliest_balanced(only_none, COEFFICIENTS, None) is None
    one_way = np.asarray([[0.0, -1.0, -np.inf], [0.0, -5.0, -np.inf], [0.0, -np.inf, -9.0]])
    assert likeliest_balanced(one_way, COEFFICIENTS, np.ones((3, 1))).tolist() == [1, 0, 2]


def test_hexokinase():
    # Glucose, ATP, glucose 6-phosphate, ADP, proton: C, H, N, O, P and charge.
    elements = np.asarray(
        [
            [6, 12, 0, 6, 0, 0],
            [10, 12, 5, 13, 3, -4],
            [6, 11, 0, 9, 1, -2],
            [10, 12, 5, 10, 2, -3],
            [0, 1, 0, 0, 0, 1],
        ]
    )
    # The likeliest leaves out ADP and uses the proton.
    log_likelihood = np.log([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.5, 0.1, 0.4], [0.3, 0.4, 0.3]])
    assert likeliest_balanced(log_likelihood, COEFFICIENTS, None).tolist() == [1, 1, 2, 0, 1]
    assert likeliest_balanced(log_likelihood, COEFFICIENTS, elements).tolist() == [1, 1, 2, 2, 2]
    assert likeliest_balanced(log_likelihood, COEFFICIENTS, elements[:, [0, 2]]).tolist() == [1, 1, 2, 2, 1]


def test_what_takes_part_unchanged_balances():
    """A transport: its compound goes from one compartment to another."""
    classes = np.asarray([0, -1, 1, 0])
    log_likelihood = np.log([[0.1, 0.1, 0.1, 0.7], [0.8, 0.1, 0.05, 0.05]])
    assert likeliest_balanced(log_likelihood, classes, np.asarray([[6], [2]])).tolist() == [3, 0]
