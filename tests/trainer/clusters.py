"""Vectors as item encoders make them: on the unit sphere, in clusters of unequal size."""

import numpy as np


def clustered_vectors(count: int, dim: int, clusters: int, seed: int) -> np.ndarray:
    """float32 [count, dim], each of norm 1."""
    rng = np.random.default_rng(seed)
    centres = _normalised(rng.normal(size=(clusters, dim)))
    members = rng.choice(clusters, count, p=rng.dirichlet(np.ones(clusters)))
    return _normalised(centres[members] + 0.8 / np.sqrt(dim) * rng.normal(size=(count, dim)))


def mixed_queries(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Shoppers: noisy mixtures of four products each, float32 [count, dim] of norm 1."""
    rng = np.random.default_rng(seed)
    mixtures = np.stack([rng.dirichlet(np.ones(4)) @ vectors[rng.choice(len(vectors), 4)] for _ in range(count)])
    return _normalised(mixtures + 0.3 / np.sqrt(vectors.shape[1]) * rng.normal(size=mixtures.shape))


def _normalised(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
