"""How far embeddings move from one training to the next, beyond what does not matter: turns of the whole space."""

from dataclasses import dataclass

import numpy as np

_BLOCK = 1_024


@dataclass(frozen=True)
class Drift:
    """Between two consecutive trainings, over the products that both know."""

    items: int
    # Mean of 1 − cosine after the best rotation: 0 = nothing moved, about 1 = nothing is left.
    mean_cosine_distance: float
    # Mean of ‖a − b‖₂ / dim of the same unit vectors, the earlier ones rotated: the published figure. It has no target:
    # it falls with the number of dimensions, and follows from the cosines, ‖a − b‖₂ = √(2 (1 − cosine)).
    mean_l2_per_dimension: float
    # Mean share of a product's nearest neighbours that are the same: 1 = all.
    neighbour_overlap: float


def embedding_drift(
    previous_ids: np.ndarray, previous: np.ndarray, current_ids: np.ndarray, current: np.ndarray, neighbours: int = 10
) -> Drift:
    """Drift of products that are in both trainings, matched by id.

    Args:
        previous_ids: [M] strings, each once.
        previous: [M, dim] vectors of the earlier training.
        current_ids: [N] strings, each once.
        current: [N, dim] vectors of the later training.
        neighbours: nearest ones to compare, by cosine, among the common products; fewer where there are fewer.

    Raises:
        ValueError: fewer than two products are in both, or the vectors differ in length.
    """
    common, then, now = np.intersect1d(previous_ids, current_ids, assume_unique=True, return_indices=True)
    if len(common) < 2:
        raise ValueError(f"drift needs at least two products that both trainings know, received {len(common)}.")
    if previous.shape[1] != current.shape[1]:
        raise ValueError(
            f"drift needs vectors of one length, received {previous.shape[1]} before and {current.shape[1]} now."
        )
    earlier, later = _normalised(previous[then]), _normalised(current[now])
    rotated = earlier @ best_rotation(earlier, later)
    distances = 1.0 - np.einsum("nd,nd->n", rotated, later)
    count = min(neighbours, len(common) - 1)
    moved = np.linalg.norm(rotated - later, axis=1) / later.shape[1]
    return Drift(len(common), float(distances.mean()), float(moved.mean()), neighbour_overlap(earlier, later, count))


def best_rotation(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The orthogonal matrix R with the least ‖source R − target‖ (orthogonal Procrustes, Schönemann 1966).

    Both [N, dim] → [dim, dim]. A product's vector means nothing alone, only against other vectors of the same training;
    a turn or mirror image of them all is the same model.
    """
    left, _, right = np.linalg.svd(source.T @ target)
    return left @ right


def neighbour_overlap(earlier: np.ndarray, later: np.ndarray, count: int) -> float:
    """Mean share of each row's `count` nearest others, by dot product, that are the same: both [N, dim] → [0, 1]."""
    shared = 0
    for start in range(0, len(earlier), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(earlier)))
        then, now = _nearest(earlier, rows, count), _nearest(later, rows, count)
        shared += sum(len(np.intersect1d(one, other)) for one, other in zip(then, now, strict=True))
    return shared / (count * len(earlier))


def _nearest(vectors: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Rows [B] → their `count` nearest others, in no order: int64 [B, count]."""
    similarity = vectors[rows] @ vectors.T
    similarity[np.arange(len(rows)), rows] = -np.inf
    return np.argpartition(-similarity, count - 1, axis=1)[:, :count]


def _normalised(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
