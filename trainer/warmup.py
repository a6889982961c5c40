"""Requests that a server replays when it loads a model, so that no shopper waits for the first trace."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

# Where TensorFlow Serving looks, below the model's version.
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
# TensorFlow Serving refuses files with more.
_MOST_RECORDS = 1_000

# Signature name and the arrays of its inputs.
Request = tuple[str, Mapping[str, np.ndarray]]


def write_warmup(directory: Path, model: str, requests: Iterable[Request]) -> int:
    """Writes Predict requests into the SavedModel in `directory` as an uncompressed TFRecord file.

    Returns:
        How many there are.

    Raises:
        ValueError: more than TensorFlow Serving accepts.
    """
    records = [_log(model, signature, inputs).SerializeToString() for signature, inputs in requests]
    if len(records) > _MOST_RECORDS:
        raise ValueError(f"a model may hold {_MOST_RECORDS} warm-up requests, received {len(records)}: give fewer.")
    path = directory / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return len(records)


def _log(model: str, signature: str, inputs: Mapping[str, np.ndarray]) -> PredictionLog:
    log = PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    return log
