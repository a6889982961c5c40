"""What the trainings of both stages share: what they read, how the model is made, the loop, and what is kept."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
import tf_keras

from trainer.config import EvaluationConfig, RankerConfig, RetrievalConfig, TrainingConfig
from trainer.data import Catalogue, Sequences, load_catalogue, load_sequences
from trainer.devices import make_strategy
from trainer.drift import embedding_drift
from trainer.loop import Step, TrainingLoop, make_deterministic
from trainer.model_files import save_model
from trainer.queries import Queries, validation_queries
from trainer.target_weights import load_target_weights
from trainer.transfer import Transfer, transfer
from trainer.warm_start import Previous, warm_start
from trainer.windows import TrainingWindows

_LOG = logging.getLogger(__name__)
DRIFT_FILE = "drift.json"
# Products of which drift is measured: comparing all with all costs their square.
_DRIFT_PRODUCTS = 10_000

Config = RetrievalConfig | RankerConfig
Model = TypeVar("Model", bound=tf_keras.Model)
# Catalogue rows int32 [N] → vectors [N, dim].
Vectors = Callable[[np.ndarray], tf.Tensor]


@dataclass(frozen=True)
class TrainingData:
    """What a training reads."""

    transform_dir: Path
    catalogue: Catalogue
    sequences: Sequences
    queries: Queries  # of the validation span
    windows: TrainingWindows


def load_training_data(transform_dir: Path, config: Config, evaluation: EvaluationConfig | None) -> TrainingData:
    """Catalogue, sequences, validation queries and training windows of a transform.

    Args:
        transform_dir: what `tandem transform` wrote.
        config: of the stage.
        evaluation: the protocol of the queries; None = the shipped defaults.

    Raises:
        TrainingError: there is nothing to train or to validate on.
    """
    catalogue, sequences = load_catalogue(transform_dir), load_sequences(transform_dir)
    training = config.training
    queries = validation_queries(
        transform_dir, sequences, catalogue, config.history_length, training.validation_users, evaluation
    )
    weights = load_target_weights(transform_dir, sequences, config.targets)
    shape = (config.history_length, training.batch_size, training.seed)
    windows = TrainingWindows(sequences, *shape, weights, config.targets.baskets)
    return TrainingData(transform_dir, catalogue, sequences, queries, windows)


def make_model(make: Callable[[], Model], training: TrainingConfig) -> Model:
    """The model, made within the strategy that the configuration asks for and the same from the same seed."""
    strategy = make_strategy(training)
    make_deterministic(training.seed)
    with strategy.scope():
        return make()


@dataclass(frozen=True)
class Fit:
    """A training of one stage, ready to run."""

    kind: str  # "retrieval" or "ranker"
    model: tf_keras.Model
    config: Config
    data: TrainingData
    epoch: Callable[[int], Iterator[Step]]
    validate: Callable[[], float]
    vectors: Vectors  # by which products are compared with those of an earlier run

    def run(self, output: Path, log_dir: Path, previous: Previous | Transfer | None) -> None:
        """Train, keep the best epoch; after a warm start, also measure how far it moved the products it kept.

        Args:
            output: gets model.json, weights, history.json, checkpoints/ and, after a warm start, drift.json.
            log_dir: gets TensorBoard's event files.
            previous: a run whose weights the training starts from, all of them or those of chosen modalities.
        """
        data = self.data
        kept = before = np.zeros(0, np.int32)
        if isinstance(previous, Transfer):
            transfer(self.model, data.catalogue.schema, data.transform_dir, previous)
        elif previous is not None:
            kept = _sample(warm_start(self.model, data.catalogue, data.transform_dir, *previous).kept_rows)
            before = self.vectors(kept).numpy()
        loop = TrainingLoop(self.model, self.config.training, output, log_dir)
        loop.run(self.epoch, data.windows.steps, self.validate)
        save_model(output, self.kind, self.model, self.config, data.catalogue.schema)
        if len(kept) > 1:
            write_drift(output, data.catalogue.item_ids[kept], before, self.vectors(kept).numpy())


def write_drift(output: Path, item_ids: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
    """Measure by how much products moved, [N, dim] before and after; log it and write it to drift.json."""
    drift = embedding_drift(item_ids, before, item_ids, after)
    _LOG.info(
        "drift of %d products since the earlier run: mean 1 − cosine %.4f, share of the same ten neighbours %.3f",
        *(drift.items, drift.mean_cosine_distance, drift.neighbour_overlap),
    )
    values: dict[str, Any] = asdict(drift)
    (output / DRIFT_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _sample(rows: np.ndarray) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(rows)[:_DRIFT_PRODUCTS])
