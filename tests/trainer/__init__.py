"""Tests of the trainer; the import chooses Keras 2 before any test imports TensorFlow."""

import trainer  # noqa: F401
