"""Vectors divided into partitions of one size: k-means on a sample, then everybody to the nearest that has room."""

import logging
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans

log = logging.getLogger(__name__)

# Places beyond what is needed, so that few vectors miss the partition they are nearest to.
_SPARE = 0.15
_POINTS_PER_PARTITION = 64
_LEAST_SAMPLE = 50_000
_ITERATIONS = 12
_SEED = 1
# Partitions that a vector may ask for a place, nearest first.
_CHOICES = 16
_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Partitions:
    """P partitions of at most S vectors."""

    centroids: np.ndarray  # float32 [P, D], means of the members
    members: np.ndarray  # int64 [P, S] places in what was partitioned; 0 where not taken
    taken: np.ndarray  # bool [P, S]

    def spreads(self, vectors: np.ndarray) -> np.ndarray:
        """Standard deviation of the members about their centroid in a direction, the mean of all: float32 [P]."""
        spreads = np.zeros(len(self.centroids), np.float32)
        for number, (centroid, members, taken) in enumerate(zip(self.centroids, self.members, self.taken, strict=True)):
            if taken.any():
                spreads[number] = np.sqrt(np.mean((vectors[members[taken]] - centroid) ** 2))
        return spreads


def partition(vectors: np.ndarray, count: int) -> Partitions:
    """Divides float32 [N, D] into `count` partitions.

    The partition of each is near it, not always the nearest: a full one turns away whoever is farthest from its centre.
    """
    if count == 1:
        everybody = np.arange(len(vectors))[np.newaxis]
        return Partitions(vectors.mean(axis=0, keepdims=True), everybody, np.ones_like(everybody, bool))
    centres = _centres(vectors, count)
    places = -(-int(len(vectors) * (1 + _SPARE)) // count)
    home = _homes(vectors, centres, places)
    members, taken = np.zeros([count, places], np.int64), np.zeros([count, places], bool)
    order = np.argsort(home, kind="stable")
    starts = np.searchsorted(home[order], np.arange(count))
    place = np.arange(len(order)) - starts[home[order]]
    members[home[order], place], taken[home[order], place] = order, True
    sums = np.zeros_like(centres)
    np.add.at(sums, home, vectors)
    means = sums / np.maximum(taken.sum(axis=1, keepdims=True), 1)
    return Partitions(np.where(taken.any(axis=1, keepdims=True), means, centres).astype(np.float32), members, taken)


def _centres(vectors: np.ndarray, count: int) -> np.ndarray:
    """k-means (Lloyd) on a sample, from random members: float32 [count, D]."""
    generator = np.random.default_rng(_SEED)
    sample = min(len(vectors), max(_LEAST_SAMPLE, count * _POINTS_PER_PARTITION))
    chosen = vectors[np.sort(generator.choice(len(vectors), sample, replace=False))]
    means = KMeans(count, init="random", n_init=1, max_iter=_ITERATIONS, random_state=_SEED).fit(chosen)
    return means.cluster_centers_.astype(np.float32)


def _homes(vectors: np.ndarray, centres: np.ndarray, places: int) -> np.ndarray:
    """Partition of each vector, int64 [N], at most `places` in each."""
    wanted, distances = _nearest(vectors, centres, min(_CHOICES, len(centres)))
    homes = np.full(len(vectors), -1)
    room = np.full(len(centres), places)
    for choice in range(wanted.shape[1]):
        waiting = np.flatnonzero(homes < 0)
        asked = wanted[waiting, choice]
        # By partition, the nearest first; those within its room are let in.
        order = np.lexsort((distances[waiting, choice], asked))
        asked, waiting = asked[order], waiting[order]
        rank = np.arange(len(asked)) - np.searchsorted(asked, asked)
        admitted = rank < room[asked]
        homes[waiting[admitted]] = asked[admitted]
        room -= np.bincount(asked[admitted], minlength=len(room))
    left = np.flatnonzero(homes < 0)
    homes[left] = np.repeat(np.arange(len(room)), room)[: len(left)]
    if len(left):
        log.info("index: %d of %d vectors found no room near them", len(left), len(vectors))
    return homes


def _nearest(vectors: np.ndarray, centres: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centres and half their squared distances up to a constant, [N, count] each, nearest first."""
    half_norms = (centres**2).sum(axis=1) / 2
    wanted = np.empty([len(vectors), count], np.int32)
    distances = np.empty([len(vectors), count], np.float32)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        far = half_norms - vectors[block] @ centres.T
        near = np.argpartition(far, count - 1, axis=1)[:, :count] if count < len(centres) else np.argsort(far, axis=1)
        of_near = np.take_along_axis(far, near, axis=1)
        order = np.argsort(of_near, axis=1, kind="stable")
        wanted[block] = np.take_along_axis(near, order, axis=1)
        distances[block] = np.take_along_axis(of_near, order, axis=1)
    # Squared distance is |v|² + 2 (|c|²/2 − v · c): between vectors it needs |v|² too.
    return wanted, distances + np.einsum("nd,nd->n", vectors, vectors)[:, np.newaxis] / 2
