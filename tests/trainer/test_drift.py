"""Drift between trainings against numbers worked out by hand and an independent Procrustes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes

from trainer.drift import best_rotation, embedding_drift, neighbour_overlap


def on_circle(*degrees: float) -> np.ndarray:
    """Unit vectors [N, 2] at these angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def ids(count: int) -> np.ndarray:
    return np.array([f"p{number}" for number in range(count)], dtype=object)


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 30))
@settings(max_examples=30)
def test_a_turned_or_stretched_space_has_not_drifted(seed: int, dim: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    previous = rng.normal(size=(count, dim))
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    drift = embedding_drift(ids(count), previous, ids(count), 3.0 * previous @ turn)
    assert drift.items == count
    assert drift.mean_cosine_distance == pytest.approx(0.0, abs=1e-9)
    assert drift.neighbour_overlap == 1.0


def test_the_rotation_is_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    source, target = rng.normal(size=(2, 20, 5))
    np.testing.assert_allclose(best_rotation(source, target), orthogonal_procrustes(source, target)[0], atol=1e-12)


def test_two_products_that_came_nearer() -> None:
    # They were 90° apart and are 30° apart: the best turn leaves each 30° off, and 1 − cos 30° = 0.1339746.
    drift = embedding_drift(ids(2), on_circle(0, 90), ids(2), on_circle(0, 30))
    assert drift.mean_cosine_distance == pytest.approx(0.1339746)
    # The ends of unit vectors 30° apart are 2 sin 15° = 0.5176381 apart; over two dimensions, half of it.
    assert drift.mean_l2_per_dimension == pytest.approx(0.5176381 / 2)


def test_products_are_matched_by_id() -> None:
    previous_ids = np.array(["a", "b", "gone", "c"], dtype=object)
    current_ids = np.array(["new", "c", "b", "a"], dtype=object)
    drift = embedding_drift(previous_ids, on_circle(0, 50, 70, 200), current_ids, on_circle(5, 200, 50, 0))
    assert drift.items == 3
    assert drift.mean_cosine_distance == pytest.approx(0.0, abs=1e-9)
    assert drift.neighbour_overlap == 1.0


@pytest.mark.parametrize(
    ("later", "overlap"),
    [
        # Before, the nearest of 0° was 10° and that of 90° was 100°, and the other way round.
        ((0, 10, 90, 100), 1.0),
        ((0, 90, 10, 100), 0.0),
        # The third looks to the second now, which is 80° away, for the fourth is 110° away.
        ((0, 10, 90, 200), 0.75),
    ],
)
def test_overlap_of_nearest_neighbours(later: tuple[float, ...], overlap: float) -> None:
    assert neighbour_overlap(on_circle(0, 10, 90, 100), on_circle(*later), 1) == overlap


def test_overlap_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier, later = np.random.default_rng(2).normal(size=(2, 25, 4))
    whole = neighbour_overlap(earlier, later, 5)
    monkeypatch.setattr("trainer.drift._BLOCK", 7)
    assert neighbour_overlap(earlier, later, 5) == whole
    assert 0 < whole < 1


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two products that both trainings know, received 1"):
        embedding_drift(ids(1), on_circle(0), ids(3), on_circle(0, 1, 2))
    with pytest.raises(ValueError, match="vectors of one length, received 2 before and 3 now"):
        embedding_drift(ids(2), on_circle(0, 1), ids(2), np.ones((2, 3)))
