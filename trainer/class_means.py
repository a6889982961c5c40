"""Means of vectors by category: what is left of a vector without its category's mean is the product's style."""

import numpy as np
import tensorflow as tf

from transform.tables import FIRST, PADDING, UNKNOWN

# Fewer products than these have no mean worth the name: their category takes that of the level above.
_MINIMUM = 5


def class_means(categories: np.ndarray, vectors: np.ndarray, size: int) -> np.ndarray:
    """Mean vector of each category: float32 [size, d].

    Subtracting class means leaves what products of different categories can share (as in style spaces across
    categories, Veit et al. 2015). Categories of fewer than five products have their parent's mean, uppermost ones and
    unknown ones (rows 0 and 1) that of all products. Categories outside of the vocabulary are unknown ones, whatever
    bucket they share.

    Args:
        categories: int [N, depth] ids of the levels of each product's path, the uppermost first; 0 = none. A category
            stands at one level only, below one parent. Ids from `size` on are buckets.
        vectors: float32 [N, d]; lines that are not a number are left out.
        size: ids of the vocabulary, the reserved ones included.
    """
    there = ~np.isnan(vectors).any(axis=1)
    categories, vectors = categories[there], vectors[there].astype(np.float64)
    categories = np.where(categories < size, categories, UNKNOWN)
    sums, counts = np.zeros((size, vectors.shape[1])), np.zeros(size, np.int64)
    for own in categories.T:
        known = own >= FIRST
        np.add.at(sums, own[known], vectors[known])
        counts += np.bincount(own[known], minlength=size)
    overall = vectors.mean(axis=0) if len(vectors) else np.zeros(vectors.shape[1])
    means = np.tile(overall, (size, 1))
    # Root first, so that a mean is there before a small category below asks for it.
    for level, own in enumerate(categories.T):
        found, member = np.unique(own, return_index=True)
        if level:
            means[found] = np.where(found[:, np.newaxis] >= FIRST, means[categories[member, level - 1]], means[found])
        enough = found[(found >= FIRST) & (counts[found] >= _MINIMUM)]
        means[enough] = sums[enough] / counts[enough, np.newaxis]
    return means.astype(np.float32)


def leaf_categories(categories: tf.Tensor, size: int) -> tf.Tensor:
    """Deepest known category of each product: int32 [N, depth] → int32 [N]; 0 = it has none, 1 = none is known.

    `size`: ids of the vocabulary, the reserved ones included; the buckets that follow stand for unknown categories.
    """
    categories = tf.where(categories < size, categories, UNKNOWN)
    leaves = tf.zeros_like(categories[:, 0])
    for level in tf.unstack(categories, axis=1):
        leaves = tf.where((level >= FIRST) | ((level == UNKNOWN) & (leaves == PADDING)), level, leaves)
    return leaves
