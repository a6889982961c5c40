"""The indexes of an export: built over what may be recommended, tuned on some shoppers and measured on others."""

import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import tensorflow as tf

from trainer.config import ExportConfig, IndexKind
from trainer.index import BruteForceIndex, Index
from trainer.index_quality import milliseconds_per_query, recall_at_100, tune
from trainer.portable_index import PortableIndex
from trainer.scann_index import ScannIndex

log = logging.getLogger(__name__)

# Recall that search effort is tuned to on other shoppers, a little above what is promised for held-out ones.
_TARGET_RECALL = 0.985
# Queries that an index is built for, and as many that it is tuned with, at most: those it was built for flatter it.
TUNING_QUERIES = 1_000
_TIMED_QUERIES = 200


@dataclass(frozen=True)
class IndexQueries:
    """Vectors of shoppers, float32 [Q, D]; never rows of the catalogue."""

    held_out: np.ndarray  # measure recall and speed
    others: np.ndarray  # half are what an index is built for, half tune it

    @classmethod
    def among(cls, vectors: np.ndarray) -> Self:
        """Vectors that are to be searched with one another, such as styles."""
        chosen = np.random.default_rng(0).permutation(len(vectors))[: 2 * TUNING_QUERIES]
        return cls(vectors[:0], vectors[chosen])

    @property
    def building(self) -> np.ndarray:
        """Every second of the others."""
        return self.others[::2]

    @property
    def tuning(self) -> np.ndarray:
        """The rest; the same if there is one only."""
        return self.others[1::2] if len(self.others) > 1 else self.others


@dataclass(frozen=True)
class Products:
    """What an index is built over."""

    vectors: np.ndarray  # float32 [V, D], of every catalogue row
    rows: np.ndarray  # int32 [N] that may be found


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
    vectors = products.vectors[products.rows]
    exact = BruteForceIndex(width).index(vectors, products.rows)
    start = time.perf_counter()
    index = make_index(kind, width, config, products.vectors).index(vectors, products.rows, queries.building)
    tune(index, queries.tuning, exact, _TARGET_RECALL)
    seconds = time.perf_counter() - start
    timed = queries.held_out[:_TIMED_QUERIES]
    report = {
        "kind": kind,
        "recall@100": recall_at_100(index, exact, queries.held_out),
        "ms_per_query": milliseconds_per_query(index, timed, width),
        "ms_per_query_brute_force": milliseconds_per_query(exact, timed, width),
        "build_seconds": seconds,
        "n": len(products.rows),
        "dim": vectors.shape[1],
        "queries": len(queries.held_out),
        "neighbours": width,
        "settings": index.settings(),
    }
    log.info("export: %s index, recall@100 %.4f, %.3f ms", kind, report["recall@100"], report["ms_per_query"])
    return index, report


def index_of_styles(kind: IndexKind, styles: Products, width: int, config: ExportConfig) -> Index:
    """An index as that of stage one over styles of products; tuned with styles as queries."""
    vectors = styles.vectors[styles.rows]
    queries = IndexQueries.among(vectors)
    index = make_index(kind, width, config, styles.vectors).index(vectors, styles.rows, queries.building)
    tune(index, queries.tuning, BruteForceIndex(width).index(vectors, styles.rows), _TARGET_RECALL)
    return index
