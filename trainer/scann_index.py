"""The retrieval index by ScaNN: fastest, and only for servers that have its ops."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import tensorflow as tf
from scann.scann_ops.py import scann_ops

from trainer.index import ABSENT_SCORE, Index, SearchEffort
from trainer.query_space import QuerySpace
from transform.tables import PADDING


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


class ScannIndex(Index):
    """Approximate search by ScaNN (Guo et al. 2020) with its own builder.

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
        super().__init__(k, name)
        self.brute_force_below = brute_force_below
        self.tree_from = tree_from
        self.layout = ScannLayout(hashing=False, leaves=0)

    def efforts(self) -> list[SearchEffort]:
        """Shares of the leaves, and products to reorder."""
        if not self.layout.hashing:
            return [SearchEffort()]
        reordered = [round(share * self._k) for share in _REORDERED]
        if not self.layout.leaves:
            return [SearchEffort(-1, count) for count in reordered]
        total = self.layout.leaves
        leaves = {min(total, max(1, round(total * share))) for share in _LEAF_SHARES}
        efforts = [SearchEffort(leaf, count) for leaf in leaves for count in reordered]
        return sorted(efforts, key=lambda effort: effort.leaves * self.size / total + _REORDERING * effort.reordered)

    def settings(self) -> dict[str, int | str]:
        """What was built and chosen, for reports; 0 and −1 where the layout has no such part."""
        return {
            "hashing": int(self.layout.hashing),
            "leaves": self.layout.leaves,
            "leaves_to_search": self.effort.leaves,
            "reordered": self.effort.reordered,
            "thorough_leaves_to_search": self.thorough_effort.leaves,
            "thorough_reordered": self.thorough_effort.reordered,
        }

    def _build_index(self, vectors: np.ndarray, rows: np.ndarray) -> None:
        self.layout = ScannLayout.for_size(len(vectors), self.brute_force_below, self.tree_from)
        if not self.layout.hashing:
            # Every product is scored exactly: as it is.
            self.space = QuerySpace.plain(vectors.shape[1])
        searcher = _build_searcher(tf.constant(self.space.products(vectors)), self.layout, self._k)
        parts = scann_ops.scann_to_tensors(searcher)
        self._searcher_name = _searcher_name(parts)
        self._parts = [
            tf.Variable(part, trainable=False, name=name) for name, part in zip(_PART_NAMES, parts, strict=True)
        ]
        # The builder's own searcher would stay in memory as long as the process.
        tf.raw_ops.DestroyResourceOp(resource=searcher)
        self._identifiers = tf.Variable(rows, trainable=False, name="identifiers")

    def _search(self, queries: tf.Tensor, width: int, effort: SearchEffort) -> tuple[tf.Tensor, tf.Tensor]:
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
        reordered = max(effort.reordered, width) if self.layout.hashing else -1
        places, scores = scann_ops.scann_search_batched(
            searcher, self.space.queries(queries), width, reordered, effort.leaves, False
        )
        # A search that finds too few fills up with place 0 and the score NaN.
        found = ~tf.math.is_nan(scores)
        rows = tf.where(found, tf.gather(self._identifiers, places), PADDING)
        return tf.where(found, scores, ABSENT_SCORE), rows


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
# Score-aware loss of Guo et al. 2020, whose 0.2 is meant for normalised vectors as they are; in the space of queries
# less is better (on a million products of the simulator 600 reordered find 98.6 % with 0.1, 98.2 % with 0.2).
_ANISOTROPIC_THRESHOLD = 0.1
# Centroids lengthened for dot products (scann/docs/algorithms.md, "AVQ"): on a million products of the simulator 2 % of
# the leaves find 97.9 % of the hundred nearest instead of 96.8 %, of odd queries 70 % instead of 48 %.
_CENTROID_ANISOTROPY = 2.5
# Half of ScaNN's usual: on a million products of the simulator 98 % of the hundred nearest then take 0.15 ms with 600
# reordered, with two dimensions 0.25 ms with 2,400. Codes take 32 bytes a product of 64 dimensions.
_DIMENSIONS_PER_BLOCK = 1
_TRAINING_SAMPLE = 100_000
# Of the leaves; and of k.
_LEAF_SHARES = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
_REORDERED = (1, 2, 4, 8)
# What it costs to score a product exactly, in hashed scores (measured: 70 and 2 ns).
_REORDERING = 35


def _searcher_name(parts: Iterable[tf.Tensor]) -> str:
    """A name that only a searcher of the same parts has."""
    digest = hashlib.sha256()
    for part in parts:
        # In place: a copy of the vectors could be gigabytes.
        digest.update(part.numpy() if part.dtype == tf.string else memoryview(part))
    return f"tandem-{digest.hexdigest()}"


def _build_searcher(vectors: tf.Tensor, layout: ScannLayout, k: int) -> tf.Tensor:
    """Handle of a ScaNN searcher over float32 [N, D]."""
    builder = scann_ops.builder(vectors, k, "dot_product")
    sample = min(_TRAINING_SAMPLE, vectors.shape[0])
    if layout.leaves:
        searched = max(1, layout.leaves // 10)
        builder = builder.tree(layout.leaves, searched, training_sample_size=sample, avq=_CENTROID_ANISOTROPY)
    if layout.hashing:
        builder = builder.score_ah(_DIMENSIONS_PER_BLOCK, _ANISOTROPIC_THRESHOLD, training_sample_size=sample)
        builder = builder.reorder(2 * k)
    else:
        builder = builder.score_brute_force()
    return builder.build().searcher_handle
