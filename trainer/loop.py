"""The training loop that both stages share: deterministic, resumed at epoch boundaries, stopped early on validation."""

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras

from trainer.config import TrainingConfig

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 5.0
_HISTORY = "history.json"
_CHECKPOINTS = "checkpoints"

Batch = dict[str, np.ndarray]


class TrainingError(ValueError):
    """Training that cannot start, or cannot go on."""


@dataclass(frozen=True)
class Step:
    """What one training step reads."""

    inputs: Batch
    windows: int  # that are not filling
    user_ids: Callable[[], list[str]]  # whose windows they are


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
    step_losses: tuple[float, ...]


@dataclass(frozen=True)
class WarmUp(tf_keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that grows linearly over the first steps, then stays."""

    learning_rate: float
    warmup_steps: int

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Rate of a step, which counts from 0."""
        done = (tf.cast(step, tf.float32) + 1.0) / max(self.warmup_steps, 1)
        return self.learning_rate * tf.minimum(done, 1.0)


def make_deterministic(seed: int) -> None:
    """Same seed, same machine → same weights, to the bit. Call before a model is made: it seeds the initial weights."""
    tf_keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


class TrainingLoop:
    """Trains a model that has `compute_loss(inputs, training)`; see `run`."""

    def __init__(self, model: tf_keras.Model, config: TrainingConfig, output: Path, log_dir: Path) -> None:
        """Args:
        model: with all its weights made.
        config: of the loop.
        output: folder for checkpoints and history.json; training goes on from what is there.
        log_dir: folder for TensorBoard's event files.
        """
        self.model = model
        self.config = config
        self.output = output
        self.log_dir = log_dir
        self.epochs: list[Epoch] = []
        self.optimizer = _optimizer(model, config)
        # The record of past epochs travels inside the checkpoint, so that both are of the same moment.
        self._record = tf.Variable("[]", trainable=False)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=self.optimizer, record=self._record)
        self._manager = tf.train.CheckpointManager(checkpoint, str(output / _CHECKPOINTS), max_to_keep=1)
        self._train_step = tf.function(self._step, jit_compile=config.jit_compile)

    def run(self, steps: Callable[[int], Iterator[Step]], steps_per_epoch: int, validate: Callable[[], float]) -> None:
        """Train until the last epoch or until validation stops improving, and leave the best epoch's weights in place.

        Args:
            steps: epoch number from 0 → its steps, the same in every process.
            steps_per_epoch: for the seconds left.
            validate: NDCG@10 of the model as it stands.

        Raises:
            TrainingError: the loss is no longer a number; names epoch, step and shoppers.
        """
        self._resume()
        writer = tf.summary.create_file_writer(str(self.log_dir))
        while not self._finished():
            epoch = self._train_epoch(steps(len(self.epochs)), steps_per_epoch, validate)
            self.epochs.append(epoch)
            self._write_summaries(writer, epoch)
            self._save()
            _LOG.info(
                "epoch %d/%d: loss %.4f, validation NDCG@10 %.4f, %.0f sequences/s, %.0f s",
                *(epoch.epoch, self.config.epochs, epoch.loss, epoch.validation_ndcg),
                *(epoch.sequences_per_second, epoch.seconds),
            )
        writer.close()
        best = self._best()
        tf.train.Checkpoint(model=self.model).read(self._best_path(best)).assert_existing_objects_matched()
        _LOG.info("kept epoch %d of %d: validation NDCG@10 %.4f", best.epoch, len(self.epochs), best.validation_ndcg)

    def _best(self) -> Epoch:
        return max(self.epochs, key=lambda epoch: (epoch.validation_ndcg, -epoch.epoch))

    def _best_path(self, epoch: Epoch) -> str:
        return str(self.output / _CHECKPOINTS / f"best-{epoch.epoch}")

    def _finished(self) -> bool:
        if not self.epochs:
            return False
        done = len(self.epochs)
        minutes = sum(epoch.seconds for epoch in self.epochs) / 60
        out_of_time = 0 < self.config.max_minutes <= minutes
        return done >= self.config.epochs or done - self._best().epoch >= self.config.patience or out_of_time

    def _step(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self.model.compute_loss(inputs, training=True)
        variables = self.model.trainable_variables
        # Dense: XLA compiles no sparse update, and Adam decays the moments of every row anyway.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    def _train_epoch(self, steps: Iterator[Step], steps_per_epoch: int, validate: Callable[[], float]) -> Epoch:
        number, first_step = len(self.epochs) + 1, self.epochs[-1].steps if self.epochs else 0
        start = line = time.monotonic()
        losses: list[float] = []
        windows = 0
        for step in steps:
            seed = np.array([self.config.seed, first_step + len(losses)], np.int32)
            loss = float(self._train_step({**step.inputs, "seed": seed}))
            if not np.isfinite(loss):
                raise TrainingError(_diverged(loss, number, len(losses) + 1, step.user_ids()))
            losses.append(loss)
            windows += step.windows
            now = time.monotonic()
            if now - line >= _SECONDS_BETWEEN_LINES:
                line = now
                share = (now - start) / len(losses)
                left = share * (steps_per_epoch * (self.config.epochs - number + 1) - len(losses))
                _LOG.info(
                    "epoch %d/%d, step %d/%d: loss %.4f, %.0f sequences/s, at most %.0f s left",
                    *(number, self.config.epochs, len(losses), steps_per_epoch),
                    *(np.mean(losses[-50:]), windows / (now - start), left),
                )
        trained = time.monotonic() - start
        return Epoch(
            epoch=number,
            steps=first_step + len(losses),
            loss=float(np.mean(losses)),
            validation_ndcg=float(validate()),
            learning_rate=float(self.optimizer.learning_rate),
            sequences_per_second=windows / trained,
            seconds=time.monotonic() - start,
            step_losses=tuple(losses),
        )

    def _write_summaries(self, writer: tf.summary.SummaryWriter, epoch: Epoch) -> None:
        """Once an epoch, before its checkpoint: what a killed run wrote of an epoch it writes again, the same."""
        first = epoch.steps - len(epoch.step_losses) + 1
        with writer.as_default():
            for step, loss in enumerate(epoch.step_losses, first):
                tf.summary.scalar("loss", loss, step)
            tf.summary.scalar("learning_rate", epoch.learning_rate, epoch.steps)
            tf.summary.scalar("validation_ndcg@10", epoch.validation_ndcg, epoch.steps)
            tf.summary.scalar("sequences_per_second", epoch.sequences_per_second, epoch.steps)
        writer.flush()

    def _save(self) -> None:
        """Best weights first, then the checkpoint that speaks of them, then the history for readers."""
        best = self._best()
        if best is self.epochs[-1]:
            tf.train.Checkpoint(model=self.model).write(self._best_path(best))
        self._record.assign(json.dumps([dataclasses.asdict(epoch) for epoch in self.epochs]))
        self._manager.save(checkpoint_number=len(self.epochs))
        for file in (self.output / _CHECKPOINTS).glob("best-*"):
            if file.name.split(".")[0] != f"best-{best.epoch}":
                file.unlink()
        self._write_history()

    def _write_history(self) -> None:
        records = [dataclasses.asdict(epoch) for epoch in self.epochs]
        for record in records:
            del record["step_losses"]
        temporary = self.output / f"{_HISTORY}.tmp"
        temporary.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.output / _HISTORY)

    def _resume(self) -> None:
        latest = self._manager.latest_checkpoint
        if latest is None:
            return
        self._manager.checkpoint.restore(latest).assert_existing_objects_matched()
        self.epochs = [
            Epoch(**{**record, "step_losses": tuple(record["step_losses"])})
            for record in json.loads(self._record.numpy())
        ]
        self._write_history()
        _LOG.info("resumed after epoch %d from %s", len(self.epochs), latest)


def _optimizer(model: tf_keras.Model, config: TrainingConfig) -> tf_keras.optimizers.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); biases and norms do not decay."""
    optimizer = tf_keras.optimizers.AdamW(
        WarmUp(config.learning_rate, config.warmup_steps),
        weight_decay=config.weight_decay,
        beta_2=0.98,
        jit_compile=False,
    )
    variables = model.trainable_variables
    optimizer.exclude_from_weight_decay([variable for variable in variables if variable.shape.rank < 2])
    optimizer.build(variables)
    return optimizer


def _diverged(loss: float, epoch: int, step: int, user_ids: list[str]) -> str:
    shown = ", ".join(repr(user) for user in user_ids[:20])
    more = f" and {len(user_ids) - 20} more" if len(user_ids) > 20 else ""
    return (
        f"the loss is {loss} at epoch {epoch}, step {step}, whose windows are those of the shoppers {shown}{more}. "
        "Lower training.learning_rate or raise training.warmup_steps; look at these shoppers' rows if it stays."
    )
