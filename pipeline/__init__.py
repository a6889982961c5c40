"""The command line, the steps in their order, the configuration, publishing and the report."""

import os

# TensorFlow Recommenders needs Keras 2, which TensorFlow 2.16 gives only if this is set before its import.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

# Part of every step's fingerprint: a new version runs every step again.
VERSION = "0.1.0"
