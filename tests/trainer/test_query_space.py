"""The space of queries: dot products stay, distances become differences of scores."""

import numpy as np
import tensorflow as tf

from trainer.index import BruteForceIndex, SearchEffort
from trainer.index_quality import recall_at_100
from trainer.portable_index import PortableIndex
from trainer.query_space import QuerySpace
from trainer.scann_index import ScannIndex

RNG = np.random.default_rng(11)
DIM = 8


def test_moment_along_the_axes_is_worked_out_by_hand() -> None:
    # Second moments 4 and 1, of mean 2.5: products are stretched by √(4 / 2.5) and √(1 / 2.5).
    space = QuerySpace.of(np.array([[2.0, 1.0], [-2.0, 1.0]], np.float32))
    np.testing.assert_allclose(space.products(np.eye(2, dtype=np.float32)), np.diag([1.6**0.5, 0.4**0.5]), atol=1e-6)
    np.testing.assert_allclose(space.queries(tf.eye(2)), np.diag([1.6**-0.5, 0.4**-0.5]), atol=1e-6)


def test_dot_products_stay() -> None:
    queries, products = RNG.normal(size=(50, DIM)).astype(np.float32), RNG.normal(size=(70, DIM)).astype(np.float32)
    space = QuerySpace.of(queries * np.linspace(0.01, 3, DIM, dtype=np.float32))
    turned = space.queries(tf.constant(queries)).numpy() @ space.products(products).T
    np.testing.assert_allclose(turned, queries @ products.T, atol=1e-3)


def test_distance_is_the_mean_difference_of_scores() -> None:
    queries = RNG.normal(size=(4_000, DIM)).astype(np.float32) * np.linspace(0.5, 2, DIM, dtype=np.float32)
    one, other = RNG.normal(size=(2, DIM)).astype(np.float32)
    space = QuerySpace.of(queries)
    squared = float(((space.products(one[None]) - space.products(other[None])) ** 2).sum())
    scale = (queries**2).mean()  # the space has a mean stretch of 1
    np.testing.assert_allclose(squared * scale, np.mean((queries @ (one - other)) ** 2), rtol=1e-4)


def test_queries_along_one_line_leave_a_space() -> None:
    space = QuerySpace.of(np.ones([10, DIM], np.float32))
    assert np.isfinite(space.of_queries).all()
    assert np.abs(space.of_queries).max() < 40


def test_index_built_for_queries_finds_more_with_the_same_effort() -> None:
    """Products differ most where queries do not look."""
    unseen = np.array([1.0, 1.0] + [5.0] * (DIM - 2), np.float32)
    vectors = RNG.normal(size=(4_000, DIM)).astype(np.float32) * unseen
    queries = RNG.normal(size=(300, DIM)).astype(np.float32) / unseen**2
    exact = BruteForceIndex(100).index(vectors)
    for make in (
        lambda: PortableIndex(100, partitions_from=0),
        lambda: ScannIndex(100, brute_force_below=0, tree_from=0),
    ):
        recalls = []
        for known in (None, queries[:200]):
            index = make().index(vectors, None, known)
            index.effort = SearchEffort(leaves=6, reordered=400)
            recalls.append(recall_at_100(index, exact, queries[200:]))
        plain, built_for = recalls
        assert built_for > plain + 0.1, (plain, built_for)
