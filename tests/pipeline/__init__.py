"""Tests of the pipeline; the import chooses Keras 2 before any test imports TensorFlow."""

import pipeline  # noqa: F401
