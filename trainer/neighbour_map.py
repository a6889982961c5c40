"""Points in the plane for vectors of many dimensions, neighbours beside neighbours: t-SNE for a few thousand."""

import numpy as np
from scipy import sparse

from trainer.embedding_geometry import nearest_neighbours

NEIGHBOURS = 15
_STEPS, _EARLY_STEPS = 500, 125
# At first attraction is this much stronger, so that what belongs together finds together.
_EARLY_EXAGGERATION = 12.0
# Spread of the start: small against the unit at which repulsion fades.
_START = 1e-4


def neighbour_map(vectors: np.ndarray) -> np.ndarray:
    """t-SNE of vectors (van der Maaten & Hinton 2008), computed exactly: float64 [N, 2], within the unit square.

    Each vector attracts its 15 nearest by cosine, all alike: the result hardly differs from perplexity's calibrated
    Gaussians (Böhm et al. 2022, "Attraction-repulsion spectrum in neighbor embeddings"). The start is the first two
    principal components, which keeps what is known of the whole and needs no chance (Kobak & Berens 2019, "The art of
    using t-SNE for single-cell transcriptomics"). Memory and time grow with N²: 2,000 points take some ten seconds.

    Distances between far groups, and areas, mean nothing.

    Args:
        vectors: [N, dim], none of them zero.
    """
    size = len(vectors)
    if size < 3:
        return np.full((size, 2), 0.5) if size < 2 else np.array([[0.0, 0.5], [1.0, 0.5]])
    attraction = _attraction(vectors)
    points = _principal_components(vectors)
    moved, gains = np.zeros_like(points), np.ones_like(points)
    # As scikit-learn and openTSNE (Belkina et al. 2019).
    rate = max(size / (4 * _EARLY_EXAGGERATION), 50.0)
    for step in range(_STEPS):
        early = step < _EARLY_STEPS
        gradient = _gradient(points, attraction, _EARLY_EXAGGERATION if early else 1.0)
        gains = np.maximum(np.where(gradient * moved < 0, gains + 0.2, gains * 0.8), 0.01)
        moved = (0.5 if early else 0.8) * moved - rate * gains * gradient
        points = points + moved
    points -= points.min(axis=0)
    return points / (points.max() or 1.0)


def _attraction(vectors: np.ndarray) -> sparse.csr_matrix:
    """P of t-SNE: [N, N], symmetric, sums to 1, the same for every edge of the neighbour graph (twice for mutual)."""
    size = len(vectors)
    count = min(NEIGHBOURS, size - 1)
    nearest = nearest_neighbours(vectors, np.arange(size), count)
    edges = (np.repeat(np.arange(size), count), nearest.ravel())
    graph = sparse.csr_matrix((np.ones(size * count), edges), (size, size))
    return ((graph + graph.T) / (2 * size * count)).tocsr()


def _principal_components(vectors: np.ndarray) -> np.ndarray:
    """Coordinates on the first two, the larger one with a standard deviation of `_START`: [N, 2]."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    left, sizes, right = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    # A component's sign is free: its largest entry is made positive, so that every machine draws the same map.
    signs = np.sign(np.take_along_axis(right[:2], np.abs(right[:2]).argmax(axis=1)[:, None], axis=1))[:, 0]
    points = np.zeros((len(vectors), 2))
    points[:, : len(signs)] = left[:, :2] * sizes[:2] * signs
    return points * (_START / (points.std(axis=0).max() or 1.0))


def _gradient(points: np.ndarray, attraction: sparse.csr_matrix, exaggeration: float) -> np.ndarray:
    """4 Σ_j (exaggeration · p_ij − q_ij) · w_ij · (y_i − y_j), with w = 1 / (1 + |y_i − y_j|²), q = w / Σ w."""
    single = points.astype(np.float32)
    squares = (single**2).sum(axis=1)
    # w, [N, N], made in place: most of the time goes into memory.
    similar = single @ single.T
    similar *= -2.0
    similar += squares[:, None]
    similar += squares
    np.maximum(similar, 0.0, out=similar)
    similar += 1.0
    np.reciprocal(similar, out=similar)
    np.fill_diagonal(similar, 0.0)
    ends = np.repeat(np.arange(len(points)), np.diff(attraction.indptr)), attraction.indices
    weights = sparse.csr_matrix(
        (attraction.data * similar[ends], attraction.indices, attraction.indptr), attraction.shape
    )
    pulled = np.asarray(weights.sum(axis=1)) * points - weights @ points
    total = similar.sum()
    np.square(similar, out=similar)
    pushed = (similar.sum(axis=1)[:, None] * single - similar @ single) / total
    return 4.0 * (exaggeration * pulled - pushed)
