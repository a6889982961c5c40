"""A trained model on disk: `model.json` (what it is) and `weights` (TensorFlow checkpoint)."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras
from google.protobuf import text_format

from protos.feature_schema_pb2 import FeatureSchema

_DESCRIPTION = "model.json"
_WEIGHTS = "weights"


class ModelFilesError(ValueError):
    """A model directory that is missing, incomplete or made for other data."""


def save_model(directory: Path, kind: str, model: tf_keras.Model, config: Any, schema: FeatureSchema) -> None:
    """Write what `load_weights` needs.

    Args:
        directory: made if absent.
        kind: "retrieval" or "ranker".
        model: its weights are saved; the catalogue's features are not among them.
        config: the dataclass that the model was made from.
        schema: of the data that it was trained on.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tf.train.Checkpoint(model=model).write(str(directory / _WEIGHTS))
    description = {
        "kind": kind,
        "config": dataclasses.asdict(config),
        "feature_schema": text_format.MessageToString(schema),
    }
    (directory / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def read_description(directory: Path, kind: str, schema: FeatureSchema) -> dict[str, Any]:
    """The configuration that the model in `directory` was made from.

    The catalogue may have grown since (`tandem refresh`): no weight depends on its size.

    Raises:
        ModelFilesError: there is no model, it is of another kind, or was trained on data with another schema.
    """
    path = directory / _DESCRIPTION
    if not path.is_file() or not (directory / f"{_WEIGHTS}.index").is_file():
        raise ModelFilesError(
            f"{directory} holds no trained {kind}: {_DESCRIPTION} and {_WEIGHTS}.index are expected. "
            f"Run `tandem train-{kind}` first."
        )
    description = json.loads(path.read_text(encoding="utf-8"))
    if description["kind"] != kind:
        raise ModelFilesError(f"{path}: kind is {description['kind']!r}, expected {kind!r}. Check the directory.")
    trained_on = text_format.Parse(description["feature_schema"], FeatureSchema())
    trained_on.catalogue_size = schema.catalogue_size
    if trained_on != schema:
        raise ModelFilesError(
            f"{path}: the {kind} was trained with another feature schema than that of the catalogue given. "
            "Use the transform that it was trained on, or train again."
        )
    return description["config"]


def load_weights(directory: Path, model: tf_keras.Model) -> None:
    """Restore every weight of `model` from `directory`.

    Raises:
        ModelFilesError: a weight is missing there, or of another shape.
    """
    try:
        status = tf.train.Checkpoint(model=model).read(str(directory / _WEIGHTS))
        status.assert_existing_objects_matched()
    except (ValueError, AssertionError, tf.errors.OpError) as error:
        raise ModelFilesError(f"{directory / _WEIGHTS} does not fit the model of {_DESCRIPTION}: {error}") from error
