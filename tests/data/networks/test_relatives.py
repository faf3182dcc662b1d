"""By hand."""

import numpy as np

from astrojax.data.networks.relatives import held_by_another, held_by_relatives, likeness, likeness_to_others

NETWORKS = np.asarray([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)


def test_likeness_is_the_share_of_common_reactions():
    np.testing.assert_allclose(likeness(NETWORKS, NETWORKS[0]), [1, 2 / 3, 0, 0])
    np.testing.assert_allclose(
        likeness_to_others(NETWORKS), [[0, 2 / 3, 0, 0], [2 / 3, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(likeness(NETWORKS, np.zeros(4, bool)), np.zeros(4))


def test_the_likest_count_most():
    alike = np.asarray([[1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    # By the fourth power; nobody counts as one of likeness 0.3.
    one, half, nobody = 1.0, 0.0625, 0.0081
    expected = np.asarray([[one + half, one + half, one, 0], [0, 0, 0, 0]]) / (one + half + nobody)
    np.testing.assert_allclose(held_by_relatives(NETWORKS, alike), expected)
    np.testing.assert_allclose(held_by_relatives(NETWORKS, alike[0]), expected[0])


def test_ones_own_reaction_is_held_by_no_other():
    network, reaction = np.indices((4, 4)).reshape(2, -1)
    found = held_by_another(NETWORKS, network, reaction).reshape(4, 4)
    np.testing.assert_array_equal(found, [[1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]])
