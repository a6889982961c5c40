"""The map keeps neighbours together; t-SNE's gradient against its own loss."""

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from trainer.neighbour_map import _attraction, _gradient, neighbour_map


def groups(size: int, count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of `count` well separated groups, `size` of each, and whose group each is."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(count), size)
    return 4 * np.eye(8)[group] + rng.normal(size=(size * count, 8)) * 0.5, group


@pytest.mark.parametrize("count", [2, 6])
def test_separated_groups_stay_apart(count: int) -> None:
    vectors, group = groups(40, count)
    points = neighbour_map(vectors)
    centres = np.stack([points[group == one].mean(axis=0) for one in range(count)])
    distances = np.linalg.norm(points[:, None] - centres, axis=2)
    np.testing.assert_array_equal(distances.argmin(axis=1), group)


def test_near_on_the_map_is_near_in_the_space() -> None:
    vectors = np.random.default_rng(2).normal(size=(150, 5))
    assert trustworthiness(vectors, neighbour_map(vectors), n_neighbors=5, metric="cosine") > 0.85


def test_map_lies_in_the_unit_square_and_is_the_same_again() -> None:
    vectors, _ = groups(20, 2)
    points = neighbour_map(vectors)
    assert points.min() == 0.0
    assert points.max() == 1.0
    np.testing.assert_array_equal(points, neighbour_map(vectors))


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_tiny_catalogues_have_a_map(size: int) -> None:
    points = neighbour_map(np.random.default_rng(size).normal(size=(size, 4)))
    assert points.shape == (size, 2)
    assert np.isfinite(points).all()


def test_gradient_is_that_of_the_divergence() -> None:
    rng = np.random.default_rng(3)
    graph, points = _attraction(rng.normal(size=(30, 4))), rng.normal(size=(30, 2))
    given = graph.toarray()
    assert given.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(given, given.T)

    def divergence(places: np.ndarray) -> float:
        """−Σ p log q, the part of t-SNE's Kullback–Leibler divergence that moves."""
        weights = 1 / (1 + np.square(places[:, None] - places).sum(axis=2))
        np.fill_diagonal(weights, 0)
        shares = weights / weights.sum()
        return -float((given[given > 0] * np.log(shares[given > 0])).sum())

    found = _gradient(points, graph, 1.0)
    for row, column in ((0, 0), (7, 1), (29, 0)):
        step = np.zeros_like(points)
        step[row, column] = 1e-5
        slope = (divergence(points + step) - divergence(points - step)) / 2e-5
        assert found[row, column] == pytest.approx(slope, rel=1e-3, abs=1e-6)
