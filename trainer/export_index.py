"""The indexes of an export: built over what may be recommended, tuned on some shoppers and measured on others."""

import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import ExportConfig, IndexKind
from trainer.index import BruteForceIndex, Index
from trainer.index_quality import milliseconds_per_query, recall_at_100, tune
from trainer.portable_index import PortableIndex
from trainer.scann_index import ScannIndex

log = logging.getLogger(__name__)

# Recall that search effort is tuned to on other shoppers, a little above what is promised for held-out ones.
_TARGET_RECALL = 0.99
# Queries that an index is built for and tuned with at most.
TUNING_QUERIES = 1_000
_TIMED_QUERIES = 200


@dataclass(frozen=True)
class IndexQueries:
    """Vectors of shoppers, float32 [Q, D]; never rows of the catalogue."""

    held_out: np.ndarray  # measure recall and speed
    others: np.ndarray  # tune


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
    index = make_index(kind, width, config, products.vectors).index(vectors, products.rows, queries.others)
    tune(index, queries.others, exact, _TARGET_RECALL)
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
    index = make_index(kind, width, config, styles.vectors).index(vectors, styles.rows)
    chosen = np.random.default_rng(0).choice(len(vectors), min(TUNING_QUERIES, len(vectors)), replace=False)
    tune(index, vectors[chosen], BruteForceIndex(width).index(vectors, styles.rows), _TARGET_RECALL)
    return index
