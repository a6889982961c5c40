"""What a training leaves on disk at the end of each epoch: its state, the best weights, the history."""

import dataclasses
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras

from trainer.errors import TrainingError

_HISTORY = "history.json"
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Epoch:
    """What is known of an epoch when it ends."""

    epoch: int  # from 1
    steps: int  # of all epochs so far
    loss: float  # nats, mean over the epoch's steps
    validation_ndcg: float  # NDCG@10
    learning_rate: float
    sequences_per_second: float
    seconds: float  # training and validation
    validation_seconds: float


def best_epoch(epochs: list[Epoch]) -> Epoch:
    """The one with the highest validation NDCG@10, of equal ones the first."""
    return max(epochs, key=lambda epoch: (epoch.validation_ndcg, -epoch.epoch))


class Checkpoints:
    """Saves and restores a training at epoch boundaries."""

    def __init__(self, output: Path, model: tf_keras.Model, state: Mapping[str, Any]) -> None:
        """Args:
        output: folder for checkpoints/ and history.json.
        model: its weights are saved, as they are for the training and, apart, as they are for validation.
        state: name → what else the training needs to go on (trackable objects).
        """
        self.output = output
        self.model = model
        # The record of past epochs travels inside the checkpoint, so that both are of the same moment.
        self._record = tf.Variable("[]", trainable=False)
        checkpoint = tf.train.Checkpoint(model=model, record=self._record, **state)
        self._manager = tf.train.CheckpointManager(checkpoint, str(output / _CHECKPOINTS), max_to_keep=1)

    def restore(self) -> list[Epoch]:
        """Puts the latest state in place; its epochs, none where nothing was saved.

        Raises:
            TrainingError: what was saved is of another model or another configuration.
        """
        latest = self._manager.latest_checkpoint
        if latest is None:
            return []
        try:
            self._manager.checkpoint.restore(latest).assert_existing_objects_matched()
            epochs = [Epoch(**record) for record in json.loads(self._record.numpy())]
        except (ValueError, AssertionError, TypeError, tf.errors.OpError) as error:
            raise TrainingError(
                f"the training in {self.output} cannot go on from {latest}, which was saved by a model of another "
                f"shape or under another configuration: {str(error).splitlines()[0]} "
                "Give back the configuration that it was begun with, or delete the folder to begin anew."
            ) from error
        self._write_history(epochs)
        return epochs

    def save(self, epochs: list[Epoch], validated: AbstractContextManager[None]) -> None:
        """Best weights first, then the checkpoint that speaks of them, then the history for readers.

        Args:
            epochs: all so far; the model is as it was after the last.
            validated: within it the model has the weights that were validated.
        """
        best = best_epoch(epochs)
        if best is epochs[-1]:
            with validated:
                tf.train.Checkpoint(model=self.model).write(self._best_path(best))
        self._record.assign(json.dumps([dataclasses.asdict(epoch) for epoch in epochs]))
        self._manager.save(checkpoint_number=len(epochs))
        for file in (self.output / _CHECKPOINTS).glob("best-*"):
            if file.name.split(".")[0] != f"best-{best.epoch}":
                file.unlink()
        self._write_history(epochs)

    def restore_best(self, epochs: list[Epoch]) -> Epoch:
        """Leaves the best epoch's validated weights in the model."""
        best = best_epoch(epochs)
        tf.train.Checkpoint(model=self.model).read(self._best_path(best)).assert_existing_objects_matched()
        return best

    def _best_path(self, epoch: Epoch) -> str:
        return str(self.output / _CHECKPOINTS / f"best-{epoch.epoch}")

    def _write_history(self, epochs: list[Epoch]) -> None:
        records = [dataclasses.asdict(epoch) for epoch in epochs]
        temporary = self.output / f"{_HISTORY}.tmp"
        temporary.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.output / _HISTORY)
