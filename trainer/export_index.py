"""The indexes of an export: built over what may be recommended, tuned on some shoppers and measured on others."""

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import EvaluationConfig, ExportConfig, IndexKind
from trainer.data import Catalogue, Sequences
from trainer.errors import ExportError
from trainer.index import BruteForceIndex, Index
from trainer.index_quality import milliseconds_per_query, recall_at_100, tune, tune_thoroughly
from trainer.portable_index import PortableIndex
from trainer.queries import Queries, build_queries, load_split, sample_users
from trainer.retrieval import RetrievalModel
from trainer.scann_index import ScannIndex

log = logging.getLogger(__name__)

# Recall that search effort is tuned to on other shoppers, a little above what is promised for held-out ones.
_TARGET_RECALL = 0.985
# Of the thorough effort, for kinds of queries that partitions serve worse: more would cost several times as much.
_THOROUGH_RECALL = 0.97
# Queries of each kind that an index is built for, and as many that it is tuned with, at most: those it was built for
# flatter it.
_TUNING_QUERIES = 500
# Kinds of queries.
SHOPPERS, SILENT_SHOPPERS, PRODUCTS = "shoppers", "shoppers_without_times", "products"
# What a request may leave out.
_OPTIONAL = ("history_timestamps", "context_timestamp", "context_device", "context_region")
_TIMED_QUERIES = 200


@dataclass(frozen=True)
class Products:
    """What an index is built over."""

    vectors: np.ndarray  # float32 [V, D], of every catalogue row
    rows: np.ndarray  # int32 [N] that may be found, ascending

    def indexed(self) -> np.ndarray:
        """Vectors of those rows, float32 [N, D]; no copy where they are all of a range."""
        first, last = int(self.rows[0]), int(self.rows[-1])
        whole = len(self.rows) == last - first + 1
        return self.vectors[first : last + 1] if whole else self.vectors[self.rows]


@dataclass(frozen=True)
class IndexQueries:
    """What an index is asked, by kind, float32 [Q, D]: requests as shoppers of the data would make them, the same
    without times and circumstances, and products (`similar_items`).

    The kinds lie far from one another: an index that is built for one alone may miss half of what the others ask for,
    and what is enough effort for the first kind is too little for the others, who get the thorough effort.
    """

    held_out: Mapping[str, np.ndarray]  # measure recall; the shoppers speed too
    others: Mapping[str, np.ndarray]  # half are what an index is built for, half tune it

    @property
    def building(self) -> np.ndarray:
        """As many of each kind as of the rarest."""
        halves = [vectors[::2] for vectors in self.others.values()]
        return np.concatenate([half[: min(map(len, halves))] for half in halves])

    def tuning(self, kind: str) -> np.ndarray:
        """Those of a kind that do not build; the same if there is one only."""
        vectors = self.others[kind]
        return vectors[1::2] if len(vectors) > 1 else vectors


@dataclass(frozen=True)
class Shop:
    """Where queries come from."""

    retrieval: RetrievalModel
    catalogue: Catalogue
    sequences: Sequences
    transform_dir: Path  # where the split is


def index_queries(shop: Shop, products: Products, items: tf.Tensor, limit: int) -> IndexQueries:
    """Queries of shoppers at the test cut-off, held out, and of other shoppers at the validation cut-off; and products.

    Where the validation span has no other shoppers, the same ones serve for both.

    Args:
        shop: models and data.
        products: as the index holds them.
        items: fused representations, float32 [V, D].
        limit: shoppers that are held out at most.

    Raises:
        ExportError: nobody can be held out.
    """
    split, config = load_split(shop.transform_dir), EvaluationConfig()
    length = shop.retrieval.config.history_length
    test = build_queries(shop.sequences, shop.catalogue, split, "test", config, length)
    validation = build_queries(shop.sequences, shop.catalogue, split, "validation", config, length)
    if not len(test):
        raise ExportError(
            f"{shop.transform_dir}: no shopper has interactions both before and in the test span, received "
            f"{test.counts}; index recall needs held-out shoppers. Move split.test_start or give more data."
        )
    measured = sample_users(shop.sequences, test.users, min(limit, max(1, len(test) // 2)), config.seed)
    held_out = test.take(np.flatnonzero(np.isin(test.users, measured)))
    others = validation.take(np.flatnonzero(~np.isin(validation.users, measured))[: 2 * _TUNING_QUERIES])
    rows = np.random.default_rng(1).permutation(products.rows)
    parts = [
        {
            SHOPPERS: _embeddings(shop, items, queries),
            SILENT_SHOPPERS: _embeddings(shop, items, queries, _OPTIONAL),
            PRODUCTS: products.vectors[chosen],
        }
        for queries, chosen in (
            (held_out, rows[: len(held_out)]),
            (others if len(others) else held_out, rows[-2 * _TUNING_QUERIES :]),
        )
    ]
    return IndexQueries(*parts)


def _embeddings(shop: Shop, items: tf.Tensor, queries: Queries, left_out: Collection[str] = ()) -> np.ndarray:
    """Stage one's vectors of queries, float32 [Q, D], with zeros for the inputs that are left out."""
    blocks = []
    for start, stop in queries.blocks():
        batch = {
            name: tf.constant(np.zeros_like(values) if name in left_out else values)
            for name, values in queries.batch(start, stop).items()
        }
        blocks.append(shop.retrieval.query_embeddings(batch, items))
    return np.concatenate(blocks)


def make_index(kind: IndexKind, k: int, config: ExportConfig, vectors: np.ndarray) -> Index:
    """An empty index of the kind named, for products whose vectors are rows of float32 [V, D]."""
    if kind == "scann":
        return ScannIndex(k)
    if kind == "brute_force":
        return BruteForceIndex(k)
    if config.portable_storage == "float32":
        return PortableIndex(k)
    return PortableIndex(k, config.portable_storage, partial(tf.gather, tf.constant(vectors)))


def build_index(
    kind: IndexKind, products: Products, width: int, queries: IndexQueries, config: ExportConfig
) -> tuple[Index, dict[str, Any]]:
    """The index of stage one, asked for `width` neighbours, and its part of index.json."""
    vectors = products.indexed()
    start = time.perf_counter()
    index = make_index(kind, width, config, products.vectors).index(vectors, products.rows, queries.building)
    # After the index, whose building needs several times the memory of the vectors for a while.
    exact = BruteForceIndex(width).index(vectors, products.rows)
    tune(index, queries.tuning(SHOPPERS), exact, _TARGET_RECALL)
    for other in queries.others:
        if other != SHOPPERS:
            tune_thoroughly(index, queries.tuning(other), exact, _THOROUGH_RECALL)
    seconds = time.perf_counter() - start
    recall = {
        name: recall_at_100(index, exact, asked, thorough=name != SHOPPERS) for name, asked in queries.held_out.items()
    }
    measured = queries.held_out[SHOPPERS]
    timed = measured[:_TIMED_QUERIES]
    report = {
        "kind": kind,
        "recall@100": recall[SHOPPERS],
        "recall@100_by_query": recall,
        "ms_per_query": milliseconds_per_query(index, timed, width),
        "ms_per_query_brute_force": milliseconds_per_query(exact, timed, width),
        "build_seconds": seconds,
        "n": len(products.rows),
        "dim": vectors.shape[1],
        "queries": len(measured),
        "neighbours": width,
        "settings": index.settings(),
    }
    log.info("export: %s index, recall@100 %.4f, %.3f ms", kind, report["recall@100"], report["ms_per_query"])
    return index, report


def index_of_styles(kind: IndexKind, styles: Products, width: int, config: ExportConfig) -> Index:
    """An index as that of stage one over styles of products; tuned with styles as queries."""
    vectors = styles.indexed()
    chosen = np.random.default_rng(0).permutation(len(vectors))[: 2 * _TUNING_QUERIES]
    queries = IndexQueries({}, {PRODUCTS: vectors[chosen]})
    index = make_index(kind, width, config, styles.vectors).index(vectors, styles.rows, queries.building)
    tune(index, queries.tuning(PRODUCTS), BruteForceIndex(width).index(vectors, styles.rows), _TARGET_RECALL)
    return index
