"""The retrieval index: products with the largest dot product, exactly or by ScaNN, behind TFRS's TopK."""

import hashlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import tensorflow as tf
from scann.scann_ops.py import scann_ops
from tensorflow_recommenders.layers.factorized_top_k import TopK

from transform.tables import FIRST, PADDING

log = logging.getLogger(__name__)

# Score of an empty place in an answer: finite, so that it survives JSON, and below any score of a model.
ABSENT_SCORE = -1e9
# Neighbours that recall is measured at.
RECALL_AT = 100
# Scores this close count as a tie: float32 sums of products in another order differ by less.
_TIE = 1e-5
_QUERY_BLOCK = 64
_TIMED_RUNS = 3


class BruteForceIndex(TopK):
    """Exact search: scores every product.

    The answer always has k columns, best first. Where fewer products exist, the identifier is 0 (padding) and the
    score ABSENT_SCORE. Of equal scores the product indexed first comes first.
    """

    kind = "brute_force"

    def __init__(self, k: int, name: str = "brute_force_index") -> None:
        super().__init__(k=k, name=name)
        self._vectors: tf.Variable | None = None
        self._identifiers: tf.Variable | None = None

    def index(self, candidates: tf.Tensor, identifiers: tf.Tensor | None = None) -> Self:
        """Takes the products to search.

        Args:
            candidates: float32 [N, D] vectors.
            identifiers: int32 [N] catalogue rows, distinct and at least 2.

        Raises:
            ValueError: the shapes do not fit, a vector is not finite or an identifier is reserved.
        """
        vectors, rows = _checked(candidates, identifiers)
        self._vectors = tf.Variable(vectors, trainable=False, name="vectors")
        self._identifiers = tf.Variable(rows, trainable=False, name="identifiers")
        return self

    def call(self, queries: tf.Tensor, k: int | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """float32 [B, D] → scores float32 [B, k], identifiers int32 [B, k].

        Raises:
            ValueError: there is no index yet.
        """
        if self._vectors is None:
            raise ValueError(_NOT_INDEXED)
        width = self._k if k is None else k
        scores = tf.matmul(queries, self._vectors, transpose_b=True)
        scores, places = tf.math.top_k(scores, min(width, self._vectors.shape[0]))
        return _of_width(scores, tf.gather(self._identifiers, places), width)

    @property
    def neighbours(self) -> int:
        """k of a search that does not say how many."""
        return self._k

    def is_exact(self) -> bool:
        """True."""
        return True

    def settings(self) -> dict[str, int]:
        """What was built and chosen, for reports: nothing."""
        return {}


@dataclass(frozen=True)
class ScannLayout:
    """What ScaNN builds, by its published rules (scann/docs/algorithms.md).

    Brute-force scoring is fastest below 20,000 points, asymmetric hashing without a tree below 100,000; above, a tree
    of about √n leaves.
    """

    hashing: bool
    leaves: int  # 0 = no tree

    @classmethod
    def for_size(cls, size: int, brute_force_below: int, tree_from: int) -> Self:
        """The layout for `size` points."""
        return cls(hashing=size >= brute_force_below, leaves=round(size**0.5) if size >= tree_from else 0)


@dataclass(frozen=True)
class SearchEffort:
    """How hard ScaNN looks. −1 where the layout has no such step."""

    leaves: int = -1
    # Products whose exact score is computed after hashing has chosen them.
    reordered: int = -1


class ScannIndex(TopK):
    """Approximate search by ScaNN (Guo et al. 2020) with its own builder; answers as BruteForceIndex does.

    The searcher's parts are variables of this layer. The op that makes a searcher of them names it by their content,
    so that all signatures of a model share one searcher, and two models in a process never do.

    Once there is a tree, a product at the edge of a search may be found by a batch and missed by a single query:
    ScaNN scores the two in different arithmetic. And ScaNN starts its clusters at random, so that two builds differ.
    """

    kind = "scann"

    def __init__(
        self, k: int, brute_force_below: int = 20_000, tree_from: int = 100_000, name: str = "scann_index"
    ) -> None:
        """Args:
        k: neighbours of a search that does not say how many.
        brute_force_below: sizes up to which every product is scored.
        tree_from: size from which products are partitioned.
        """
        super().__init__(k=k, name=name)
        self.brute_force_below = brute_force_below
        self.tree_from = tree_from
        self.layout: ScannLayout | None = None
        self.effort = SearchEffort()
        self._parts: list[tf.Variable] = []
        self._identifiers: tf.Variable | None = None
        self._searcher_name = ""

    def index(self, candidates: tf.Tensor, identifiers: tf.Tensor | None = None) -> Self:
        """Builds the index; arguments and errors as in BruteForceIndex.

        Every leaf is searched until `tune` finds that fewer will do.
        """
        vectors, rows = _checked(candidates, identifiers)
        self.layout = ScannLayout.for_size(len(vectors), self.brute_force_below, self.tree_from)
        self.effort = _efforts(self.layout, self._k)[-1]
        searcher = _build_searcher(vectors, self.layout, self._k)
        parts = scann_ops.scann_to_tensors(searcher)
        self._searcher_name = _searcher_name(parts)
        self._parts = [
            tf.Variable(part, trainable=False, name=name) for name, part in zip(_PART_NAMES, parts, strict=True)
        ]
        # The builder's own searcher would stay in memory as long as the process.
        tf.raw_ops.DestroyResourceOp(resource=searcher)
        self._identifiers = tf.Variable(rows, trainable=False, name="identifiers")
        return self

    def tune(self, queries: np.ndarray, exact: BruteForceIndex, target_recall: float) -> float:
        """Chooses the least effort with recall@100 of at least `target_recall` over `queries` [Q, D].

        Returns:
            The recall reached; below the target only if the greatest effort falls short too.
        """
        if self.layout is None:
            raise ValueError(_NOT_INDEXED)
        truth = kth_scores(exact, queries)
        recall = 0.0
        for effort in _efforts(self.layout, self._k):
            self.effort = effort
            recall = _recall(self, queries, truth)
            log.info("index: effort %s finds %.4f of the %d nearest", effort, recall, RECALL_AT)
            if recall >= target_recall:
                return recall
        return recall

    def call(self, queries: tf.Tensor, k: int | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """As BruteForceIndex.call."""
        if self.layout is None:
            raise ValueError(_NOT_INDEXED)
        width = self._k if k is None else k
        config, partitioner, tokens, codebook, hashed, int8, multipliers, norms, vectors = self._parts
        searcher = scann_ops.tensors_to_scann(
            vectors,
            config,
            partitioner,
            tokens,
            codebook,
            hashed,
            int8,
            multipliers,
            norms,
            shared_name=self._searcher_name,
        )
        # Reordering fewer than are asked for would shorten the answer.
        reordered = max(self.effort.reordered, width) if self.layout.hashing else -1
        places, scores = scann_ops.scann_search_batched(searcher, queries, width, reordered, self.effort.leaves, False)
        # A search that finds too few fills up with place 0 and the score NaN.
        found = ~tf.math.is_nan(scores)
        rows = tf.where(found, tf.gather(self._identifiers, places), PADDING)
        return _of_width(tf.where(found, scores, ABSENT_SCORE), rows, width)

    @property
    def neighbours(self) -> int:
        """k of a search that does not say how many."""
        return self._k

    def is_exact(self) -> bool:
        """False, although a small index is searched exactly."""
        return False

    def settings(self) -> dict[str, int]:
        """What was built and chosen, for reports; 0 and −1 where the layout has no such part."""
        if self.layout is None:
            raise ValueError(_NOT_INDEXED)
        return {
            "hashing": int(self.layout.hashing),
            "leaves": self.layout.leaves,
            "leaves_to_search": self.effort.leaves,
            "reordered": self.effort.reordered,
        }


Index = BruteForceIndex | ScannIndex


def make_index(kind: Literal["scann", "brute_force"], k: int) -> Index:
    """The index of the kind named in the configuration."""
    return {"scann": ScannIndex, "brute_force": BruteForceIndex}[kind](k=k)


def kth_scores(exact: BruteForceIndex, queries: np.ndarray) -> np.ndarray:
    """Score of the 100th nearest product (or the last, if there are fewer) of each query: [Q, D] → [Q, 1]."""
    scores = _search(exact, queries)[0]
    return np.where(scores > ABSENT_SCORE, scores, np.inf).min(axis=1, keepdims=True)


def recall_at_100(index: Index, exact: BruteForceIndex, queries: np.ndarray) -> float:
    """Share of the 100 nearest products that `index` finds, over queries [Q, D].

    A product found counts if its score reaches that of the 100th nearest: products with one vector are as good as
    each other.
    """
    return _recall(index, queries, kth_scores(exact, queries))


def milliseconds_per_query(index: Index, queries: np.ndarray, k: int) -> float:
    """Wall-clock milliseconds of a search inside a graph, queries [Q, D] one by one; the best of three runs."""

    def search_each(queries: tf.Tensor) -> tf.Tensor:
        best = tf.TensorSpec([], tf.int32)
        return tf.map_fn(lambda query: index(query[tf.newaxis], k=k)[1][0, 0], queries, 1, fn_output_signature=best)

    spec = [tf.TensorSpec([None, queries.shape[1]])]
    search = tf.function(search_each, input_signature=spec, autograph=False)
    given = tf.constant(queries, tf.float32)
    search(given[:1])
    seconds = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        search(given)
        seconds.append(time.perf_counter() - start)
    return min(seconds) * 1e3 / len(queries)


_NOT_INDEXED = "the index is empty: call index(vectors, rows) first."
_PART_NAMES = (
    "scann_config",
    "serialized_partitioner",
    "datapoint_to_token",
    "ah_codebook",
    "hashed_dataset",
    "int8_dataset",
    "int8_multipliers",
    "dp_norms",
    "dataset",
)
# Score-aware loss of Guo et al. 2020; 0.2 is the published value for dot products of normalised vectors.
_ANISOTROPIC_THRESHOLD = 0.2
_DIMENSIONS_PER_BLOCK = 2
_TRAINING_SAMPLE = 100_000


def _searcher_name(parts: Iterable[tf.Tensor]) -> str:
    """A name that only a searcher of the same parts has."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(tf.io.serialize_tensor(part).numpy())
    return f"tandem-{digest.hexdigest()}"


def _build_searcher(vectors: np.ndarray, layout: ScannLayout, k: int) -> tf.Tensor:
    """Handle of a ScaNN searcher over float32 [N, D]."""
    builder = scann_ops.builder(tf.constant(vectors), k, "dot_product")
    sample = min(_TRAINING_SAMPLE, len(vectors))
    if layout.leaves:
        builder = builder.tree(layout.leaves, max(1, layout.leaves // 10), training_sample_size=sample)
    if layout.hashing:
        builder = builder.score_ah(_DIMENSIONS_PER_BLOCK, _ANISOTROPIC_THRESHOLD, training_sample_size=sample)
        builder = builder.reorder(2 * k)
    else:
        builder = builder.score_brute_force()
    return builder.build().searcher_handle


def _efforts(layout: ScannLayout, k: int) -> list[SearchEffort]:
    """Efforts in order of cost."""
    if not layout.hashing:
        return [SearchEffort()]
    reordered = [2 * k, 4 * k, 8 * k]
    if not layout.leaves:
        return [SearchEffort(-1, count) for count in reordered]
    leaves = sorted({min(layout.leaves, max(1, round(layout.leaves * share))) for share in _LEAF_SHARES})
    return [SearchEffort(leaf, count) for leaf in leaves for count in reordered]


_LEAF_SHARES = (0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)


def _search(index: Index, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows of the 100 nearest, [Q, 100] each."""
    found = [
        index(tf.constant(queries[start : start + _QUERY_BLOCK], tf.float32), k=max(index.neighbours, RECALL_AT))
        for start in range(0, len(queries), _QUERY_BLOCK)
    ]
    return (
        np.concatenate([scores[:, :RECALL_AT] for scores, _ in found]),
        np.concatenate([rows[:, :RECALL_AT] for _, rows in found]),
    )


def _recall(index: Index, queries: np.ndarray, kth: np.ndarray) -> float:
    scores, rows = _search(index, queries)
    hits = (rows >= FIRST) & (scores >= kth - _TIE)
    return float(hits.sum() / (len(queries) * min(RECALL_AT, _size(index))))


def _size(index: Index) -> int:
    if index._identifiers is None:
        raise ValueError(_NOT_INDEXED)
    return int(index._identifiers.shape[0])


def _of_width(scores: tf.Tensor, rows: tf.Tensor, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """[B, found] → [B, width], with empty places at the end."""
    missing = [[0, 0], [0, width - tf.shape(scores)[1]]]
    scores = tf.pad(scores, missing, constant_values=ABSENT_SCORE)
    rows = tf.pad(rows, missing, constant_values=PADDING)
    return tf.ensure_shape(scores, [None, width]), tf.ensure_shape(rows, [None, width])


def _checked(candidates: tf.Tensor, identifiers: tf.Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Candidates as float32 [N, D], identifiers as int32 [N]."""
    vectors = np.ascontiguousarray(candidates, np.float32)
    if vectors.ndim != 2 or not vectors.size:
        raise ValueError(f"candidates must be a matrix [products, dimensions] that is not empty, got {vectors.shape}.")
    rows = FIRST + np.arange(len(vectors), dtype=np.int32) if identifiers is None else np.asarray(identifiers, np.int32)
    if rows.shape != (len(vectors),):
        raise ValueError(f"identifiers must be one per candidate, [{len(vectors)}], got {rows.shape}.")
    if rows.min() < FIRST:
        raise ValueError(f"identifiers below {FIRST} are reserved for padding and unknown, got {rows.min()}.")
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise ValueError(
            f"the vector of catalogue row {rows[broken[0]]} is not finite ({len(broken)} of {len(vectors)} are not): "
            "train the retrieval model again with a lower learning rate."
        )
    return vectors, rows
