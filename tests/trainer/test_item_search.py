"""How hard the search among products looks: quick, thorough, or as each request needs."""

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.clusters import clustered_vectors
from trainer.index import SearchEffort
from trainer.item_search import ItemSearch, Wanted
from trainer.newcomer_prior import NewcomerPrior
from trainer.portable_index import PortableIndex
from trainer.served_prior import ServedPrior
from transform.tables import FIRST

SIZE, DIM, WIDTH = 400, 6, 30
VECTORS = np.concatenate([np.zeros([FIRST, DIM], np.float32), clustered_vectors(SIZE - FIRST, DIM, 8, seed=1)])
# Between clusters: its nearest products lie in many partitions.
QUERY = VECTORS[FIRST:].sum(axis=0, keepdims=True)


@pytest.fixture(scope="module")
def search() -> ItemSearch:
    """Quick, it looks at two of the partitions; thorough, at all."""
    index = PortableIndex(WIDTH, partitions_from=0).index(VECTORS[FIRST:])
    index.effort = SearchEffort(leaves=2)
    prior = ServedPrior(NewcomerPrior(np.zeros(SIZE, np.float32), ()), np.arange(SIZE) >= FIRST, 1)
    table = tf.constant(VECTORS)
    return ItemSearch(index, lambda rows: tf.gather(table, rows), prior, np.array([FIRST], np.int32))


def found(search: ItemSearch, thorough: tf.Tensor | bool) -> set[int]:
    batch = {"context_timestamp": tf.zeros([1], tf.int64)}
    excluded = tf.zeros([1, 1], tf.int32)
    wanted = Wanted(tf.constant(QUERY), tf.constant([False]), excluded, batch, WIDTH, thorough=thorough)
    return set(search(wanted)[0].numpy()[0].tolist())


def test_thorough_search_finds_the_nearest_and_a_quick_one_misses_some(search: ItemSearch) -> None:
    nearest = set(np.argsort(-(VECTORS @ QUERY[0]))[:WIDTH].tolist())
    assert found(search, True) == nearest
    assert found(search, False) != nearest


@pytest.mark.parametrize("thorough", [True, False])
def test_request_decides_as_a_constant_does(search: ItemSearch, thorough: bool) -> None:
    assert found(search, tf.constant(thorough)) == found(search, thorough)
