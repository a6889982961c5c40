"""Starts a training from the previous run's weights, for daily retraining while products come and go."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import tensorflow as tf
import tf_keras

from protos.feature_schema_pb2 import Feature, FeatureSchema
from trainer.data import Catalogue, load_catalogue
from trainer.errors import TrainingError
from trainer.sharded_embedding import ShardedEmbedding, Table, joined
from transform.feature_schema import Vocabulary, clock_features
from transform.tables import FIRST, PADDING, UNKNOWN

_LOG = logging.getLogger(__name__)
# As `trainer.model_files.save_model` writes them.
_WEIGHTS = "weights"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SHARD = re.compile(r"(.*)/shard_(\d+)")
_ID = "id_embedding"

# Name of a table → what its rows stand for, then and now.
Strings = dict[str, tuple[Vocabulary, Vocabulary]]


@dataclass(frozen=True, eq=False)
class WarmStart:
    """Products with an id embedding of their own, then and now."""

    kept_rows: np.ndarray  # int32 [K] rows of this run's catalogue, in both runs: they go on from where they were
    added: int  # now only: they start as an unknown product did
    dropped: int  # then only: their rows are forgotten


class Previous(NamedTuple):
    """An earlier run."""

    step_dir: Path  # what `tandem train-ranker` or `train-retrieval` left: the same model, of the same shape
    transform_dir: Path  # the transform that it was trained on


def warm_start(
    model: tf_keras.Model,
    catalogue: Catalogue,
    transform_dir: Path,
    previous_step_dir: Path,
    previous_transform_dir: Path,
) -> WarmStart:
    """Gives a model the weights that the previous run ended with; call it before the training loop runs.

    Rows of the id embedding are matched by product id and rows of vocabulary embeddings by value, whatever their
    numbers. A new row starts from the previous out-of-vocabulary row, so that a new product begins where its content
    placed it. All other weights are copied. The normalisation of prices follows the new transform; what that moves is
    left to the training. The optimizer starts anew.

    Args:
        model: of the new run, with all its weights made.
        catalogue: of the new run.
        transform_dir: of the new run.
        previous_step_dir: what `tandem train-ranker` or `train-retrieval` left: the same model, of the same shape.
        previous_transform_dir: the transform that it was trained on.

    Raises:
        TrainingError: there is no such training, or its model is another one or of another shape.
    """
    previous = load_catalogue(previous_transform_dir)
    _check_features(catalogue.schema, previous.schema)
    strings = table_strings(catalogue.schema, previous.schema, previous_transform_dir, transform_dir)
    strings[_ID] = _id_strings(previous), _id_strings(catalogue)
    values = read_weights(previous_step_dir)
    weights = weights_by_path(model)
    _check_paths(previous_step_dir, set(values), set(weights), catalogue.schema)
    moved = {path: _moved(path, weights[path], values[path], strings, previous_step_dir) for path in weights}
    for path, weight in weights.items():
        weight.assign(moved[path])
    then, now = (set(ids.words) for ids in strings[_ID])
    own = np.flatnonzero(catalogue.id_rows >= FIRST)
    kept = [row for row in own if catalogue.item_ids[row] in then]
    outcome = WarmStart(np.array(kept, np.int32), added=len(now - then), dropped=len(then - now))
    _LOG.info(
        "warm start from %s: %d products kept, %d new, %d dropped",
        *(previous_step_dir, len(kept), outcome.added, outcome.dropped),
    )
    return outcome


def match_rows(values: np.ndarray, previous: Vocabulary, current: Vocabulary) -> np.ndarray:
    """A table with its rows where the new strings want them.

    Args:
        values: a row for each id of `previous`.
        previous: of the table.
        current: of the result.

    Returns:
        A row for each id of `current`. Strings that are new have the row that they had as unknown ones; buckets are
        the same where there are as many, and have the row of what is unknown where not.
    """
    buckets = np.full(current.oov_buckets, UNKNOWN)
    if current.oov_buckets == previous.oov_buckets:
        buckets = FIRST + len(previous.words) + np.arange(current.oov_buckets)
    words = previous.ids(pa.array(current.words, pa.string()))
    return values[np.concatenate([[PADDING, UNKNOWN], words, buckets])]


def table_strings(
    schema: FeatureSchema, previous: FeatureSchema, previous_transform_dir: Path, transform_dir: Path
) -> Strings:
    """Of the table of each feature that both runs have with a vocabulary."""

    def words(directory: Path, features: FeatureSchema) -> dict[str, Vocabulary]:
        return {
            f"{feature.name}_embedding": Vocabulary.of(directory, feature)
            for feature in (*features.item, *features.context)
            if feature.vocabulary
        }

    then, now = words(previous_transform_dir, previous), words(transform_dir, schema)
    return {table: (then[table], vocabulary) for table, vocabulary in now.items() if table in then}


def _id_strings(catalogue: Catalogue) -> Vocabulary:
    """Product ids by their row of the id embedding."""
    strings = np.empty(catalogue.schema.id_embedding_size - FIRST, dtype=object)
    own = catalogue.id_rows >= FIRST
    strings[catalogue.id_rows[own] - FIRST] = catalogue.item_ids[own]
    return Vocabulary(strings.tolist())


def _check_features(schema: FeatureSchema, previous: FeatureSchema) -> None:
    def features(of: FeatureSchema) -> str:
        names = [f"{feature.name} ({Feature.Kind.Name(feature.kind).lower()})" for feature in (*of.item, *of.context)]
        return ", ".join([*names, *clock_features(of), "times" if of.has_timestamps else "no times"])

    if features(schema) != features(previous):
        raise TrainingError(
            "a warm start needs the features of the previous run in the same order: it read "
            f"{features(previous)}; this one reads {features(schema)}. Train without a warm start once."
        )


def read_weights(step_dir: Path) -> dict[str, np.ndarray]:
    """Path of each weight in the saved model → its values; a table divided among devices is put together again."""
    if not (step_dir / f"{_WEIGHTS}.index").is_file():
        raise TrainingError(
            f"a warm start needs the weights of a finished training, and {step_dir} holds no {_WEIGHTS}.index. "
            "Name a run whose training step is done."
        )
    reader = tf.train.load_checkpoint(str(step_dir / _WEIGHTS))
    keys = [key for key in reader.get_variable_to_shape_map() if key.endswith(_VALUE)]
    values = {key.removesuffix(_VALUE): reader.get_tensor(key) for key in keys if key.startswith("model/")}
    shards: dict[str, dict[int, np.ndarray]] = {}
    for path in list(values):
        if shard := _SHARD.fullmatch(path):
            shards.setdefault(shard[1], {})[int(shard[2])] = values.pop(path)
    return values | {table: joined([parts[number] for number in sorted(parts)]) for table, parts in shards.items()}


def weights_by_path(model: tf_keras.Model) -> dict[str, Table]:
    """Weights by the path under which a checkpoint keeps them: the shortest, of equal ones the first."""
    root = tf.train.Checkpoint(model=model)
    view = tf.train.TrackableView(root)
    weights: dict[str, Table] = {}
    met, waiting = {id(root)}, [("", root)]
    for path, owner in waiting:
        for name, child in view.children(owner).items():
            if id(child) in met:
                continue
            met.add(id(child))
            child_path = f"{path}/{name}".removeprefix("/")
            if isinstance(child, tf.Variable | ShardedEmbedding):
                weights[child_path] = child
            else:
                waiting.append((child_path, child))
    return {path: weight for path, weight in weights.items() if path.startswith("model/")}


def _check_paths(step_dir: Path, previous: set[str], current: set[str], schema: FeatureSchema) -> None:
    for missing, where in ((current - previous, "there"), (previous - current, "here")):
        if missing:
            raise TrainingError(
                f"a warm start needs a model of the same parts: {step_dir} differs in {len(missing)} weights that are "
                f"not {where}, such as {min(missing).removeprefix('model/')}. "
                "Give this run the configuration of that one, or train without a warm start once."
            )
    # A table that is not found by its name would be copied row by row, whatever its rows stand for.
    tables = {_ID, *(f"{feature.name}_embedding" for feature in schema.item if feature.vocabulary)}
    unnamed = tables - {_name(path) for path in current}
    if unnamed:
        raise TrainingError(
            f"a warm start finds tables by their names, and the model has no {', '.join(sorted(unnamed))}."
        )


def _moved(path: str, weight: Table, values: np.ndarray, strings: Strings, step_dir: Path) -> np.ndarray:
    """What a weight becomes."""
    rows = strings.get(_name(path))
    if rows is not None and len(values) != len(rows[0].lines):
        raise TrainingError(
            f"{path.removeprefix('model/')} has {len(values)} rows in {step_dir}, and the transform given for it has "
            f"strings for {len(rows[0].lines)}. Name the transform of that run."
        )
    moved = values if rows is None else match_rows(values, *rows)
    if moved.shape != tuple(weight.shape):
        raise TrainingError(
            f"a warm start needs a model of the same shape: {path.removeprefix('model/')} is {list(values.shape)} in "
            f"{step_dir} and {list(weight.shape)} here. "
            "Give this run the configuration of that one, or train without a warm start once."
        )
    return moved


def _name(path: str) -> str:
    return path.rpartition("/")[2]
