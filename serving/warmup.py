"""Replays the requests that a SavedModel carries for its own warm-up, so that the first shopper doesn't wait."""

from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from serving.errors import RequestError
from serving.predict import Run, predict
from serving.servable import Servable

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1_000


def warm_up(servable: Servable, directory: Path, run: Run) -> int:
    """Runs every record of the version's warm-up file, if there is one; returns how many there were.

    Args:
        servable: the version.
        directory: its folder.
        run: how requests will be run.

    Raises:
        RequestError: a request fails, a record isn't a Predict request, or there are more than 1,000.
        tf.errors.DataLossError: the file isn't a TFRecord file, or is truncated.
    """
    path = directory / WARMUP_FILE
    if not path.is_file():
        return 0
    count = 0
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        count += 1
        if count > MAX_RECORDS:
            raise RequestError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}",
            )
        log = PredictionLog.FromString(record)
        if log.WhichOneof("log_type") != "predict_log":
            raise RequestError(
                grpc.StatusCode.UNIMPLEMENTED,
                f"{path}, record {count}: only predict_log can be replayed, found {log.WhichOneof('log_type')}",
            )
        try:
            predict(servable, log.predict_log.request, run)
        except RequestError as error:
            raise RequestError(error.code, f"{path}, record {count}: {error.message}") from None
    return count
