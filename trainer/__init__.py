"""TFRecords to models, metrics and SavedModels."""

import os

# TensorFlow Recommenders needs Keras 2, which TensorFlow 2.16 gives only if this is set before its import.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
