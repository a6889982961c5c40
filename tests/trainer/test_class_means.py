"""Class means: by hand, with parents for small categories, and what is left of vectors without them."""

import numpy as np
import tensorflow as tf

from trainer.class_means import class_means, leaf_categories

# Category 2 holds six products, five of them in its child 3 and one in 4; category 5 holds one.
PATHS = np.array([[2, 3]] * 5 + [[2, 4], [5, 0], [0, 0]])
VECTORS = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [9.0], [8.0], [np.nan]], np.float32)


def test_means_by_hand() -> None:
    means = class_means(PATHS, VECTORS, 6)
    # All: 32 / 7; category 2: 24 / 6 = 4; its child 3: 15 / 5; 4 has one product: its parent's; 5: that of all.
    np.testing.assert_allclose(means[:, 0], [32 / 7, 32 / 7, 4, 3, 4, 32 / 7], rtol=1e-6)


def test_buckets_are_unknown_categories() -> None:
    bucketed = np.where(PATHS == 4, 6, PATHS)
    means = class_means(bucketed, VECTORS, 6)
    np.testing.assert_allclose(means[:4, 0], [32 / 7, 32 / 7, 4, 3], rtol=1e-6)
    assert len(means) == 6
    assert leaf_categories(tf.constant([[2, 7], [7, 0], [0, 0]]), 6).numpy().tolist() == [2, 1, 0]


def test_no_vector_at_all_has_means_of_zero() -> None:
    np.testing.assert_array_equal(class_means(PATHS, np.full((8, 2), np.nan, np.float32), 6), np.zeros((6, 2)))


def test_the_leaf_is_the_deepest_level_that_is_known() -> None:
    paths = tf.constant([[2, 3, 0], [2, 1, 0], [1, 0, 0], [0, 0, 0], [2, 1, 1]])
    assert leaf_categories(paths, 6).numpy().tolist() == [3, 2, 1, 0, 2]
