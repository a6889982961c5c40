"""The training loop that both stages share: deterministic, resumed at epoch boundaries, stopped early on validation."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from trainer.checkpoints import Checkpoints, Epoch, best_epoch
from trainer.config import TrainingConfig
from trainer.devices import check_model
from trainer.errors import TrainingError
from trainer.prefetch import prefetched
from trainer.train_step import TrainStep

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 5.0
# Batches that the host makes ready while the device computes.
_AHEAD = 2

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """What one training step reads."""

    inputs: Batch
    windows: int  # that are not filling
    user_ids: Callable[[], list[str]]  # whose windows they are
    # Inputs that every device reads whole where a batch is divided along the first axis; zeros fill it up.
    shared: frozenset[str] = frozenset()


class _Pending(NamedTuple):
    """A step under way."""

    step: Step
    loss: tf.Tensor
    gradient_norm: tf.Tensor


@dataclass
class _Curves:
    """What the steps of one epoch gave."""

    losses: list[float] = field(default_factory=list)  # nats
    gradient_norms: list[float] = field(default_factory=list)
    windows: int = 0


def make_deterministic(seed: int) -> None:
    """Same seed, same machine → same weights, to the bit. Call before a model is made: it seeds the initial weights."""
    tf_keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


class TrainingLoop:
    """Trains a model that has `compute_loss(inputs, training)`; see `run`."""

    def __init__(self, model: tf_keras.Model, config: TrainingConfig, output: Path, log_dir: Path) -> None:
        """Args:
        model: with all its weights made, within the strategy that `trainer.devices` makes of `config`; initial
            weights are those that it has when `run` is called.
        config: of the loop.
        output: folder for checkpoints and history.json; training goes on from what is there.
        log_dir: folder for TensorBoard's event files.

        Raises:
            TrainingError: the model was not made for the devices or the precision of `config`.
        """
        check_model(model, config)
        self.model = model
        self.config = config
        self.output = output
        self.log_dir = log_dir
        self.epochs: list[Epoch] = []

    def run(self, steps: Callable[[int], Iterator[Step]], steps_per_epoch: int, validate: Callable[[], float]) -> None:
        """Train until the last epoch or until validation stops improving, and leave the best epoch's weights in place.

        What is validated, kept and left are the averages of the weights where `ema_decay` asks for them.

        Args:
            steps: epoch number from 0 → its steps, the same in every process; read in a thread of its own.
            steps_per_epoch: for the learning rate and the seconds left.
            validate: NDCG@10 of the model as it stands.

        Raises:
            TrainingError: the loss or its gradient is no longer a number (names epoch, step and shoppers), or the
                training in `output` is of another model or configuration.
        """
        train_step = TrainStep(self.model, self.config, self.config.epochs * steps_per_epoch)
        checkpoints = Checkpoints(self.output, self.model, train_step.state)
        self.epochs = checkpoints.restore()
        if self.epochs:
            _LOG.info("resumed after epoch %d in %s", len(self.epochs), self.output)
        writer = tf.summary.create_file_writer(str(self.log_dir))
        while not self._finished():
            start = time.monotonic()
            curves = self._train_epoch(train_step, steps(len(self.epochs)), steps_per_epoch)
            epoch = self._validate(train_step, curves, start, validate)
            self.epochs.append(epoch)
            _write_summaries(writer, epoch, curves)
            checkpoints.save(self.epochs, train_step.average.in_place())
            _LOG.info(
                "epoch %d/%d: loss %.4f, validation NDCG@10 %.4f, %.0f sequences/s, %.0f s",
                *(epoch.epoch, self.config.epochs, epoch.loss, epoch.validation_ndcg),
                *(epoch.sequences_per_second, epoch.seconds),
            )
        writer.close()
        best = checkpoints.restore_best(self.epochs)
        _LOG.info("kept epoch %d of %d: validation NDCG@10 %.4f", best.epoch, len(self.epochs), best.validation_ndcg)

    def _finished(self) -> bool:
        if not self.epochs:
            return False
        done = len(self.epochs)
        minutes = sum(epoch.seconds for epoch in self.epochs) / 60
        out_of_time = 0 < self.config.max_minutes <= minutes
        return done >= self.config.epochs or done - best_epoch(self.epochs).epoch >= self.config.patience or out_of_time

    def _train_epoch(self, train_step: TrainStep, steps: Iterator[Step], steps_per_epoch: int) -> _Curves:
        first_step = self.epochs[-1].steps if self.epochs else 0
        progress = _Progress(self.config.epochs, self.epochs, steps_per_epoch)
        curves = _Curves()

        def placed() -> Iterator[tuple[Step, Any]]:
            for number, step in enumerate(steps):
                seed = np.array([self.config.seed, first_step + number], np.int32)
                yield step, train_step.place({**step.inputs, "seed": seed}, step.shared | {"seed"})

        # The result of a step is read when the next is under way, so that the device need not wait for the host.
        pending: _Pending | None = None
        for step, inputs in prefetched(placed(), _AHEAD):
            result = _Pending(step, *train_step(inputs))
            if pending is not None:
                self._note(curves, pending, train_step)
                progress.line(curves)
            pending = result
        if pending is None:
            raise TrainingError("an epoch has no step: there is nothing to train on. Check the training span.")
        self._note(curves, pending, train_step)
        return curves

    def _note(self, curves: _Curves, done: _Pending, train_step: TrainStep) -> None:
        loss, norm = float(done.loss), float(done.gradient_norm)
        place = f"epoch {len(self.epochs) + 1}, step {len(curves.losses) + 1}"
        if not np.isfinite(loss):
            raise TrainingError(_diverged(f"loss is {loss} at {place}", done.step.user_ids()))
        if not np.isfinite(norm) and not train_step.forgives_overflow():
            raise TrainingError(_diverged(f"gradient's norm is {norm} at {place}", done.step.user_ids()))
        curves.losses.append(loss)
        curves.gradient_norms.append(norm)
        curves.windows += done.step.windows

    def _validate(self, train_step: TrainStep, curves: _Curves, start: float, validate: Callable[[], float]) -> Epoch:
        """`start`: when the epoch began."""
        trained = time.monotonic()
        with train_step.average.in_place():
            ndcg = float(validate())
        if not np.isfinite(ndcg):
            raise TrainingError(
                f"validation NDCG@10 is {ndcg} after epoch {len(self.epochs) + 1}: no epoch can be chosen by it. "
                "There must be validation data, and the model's scores must be numbers."
            )
        end = time.monotonic()
        return Epoch(
            epoch=len(self.epochs) + 1,
            steps=(self.epochs[-1].steps if self.epochs else 0) + len(curves.losses),
            loss=float(np.mean(curves.losses)),
            validation_ndcg=ndcg,
            learning_rate=float(tf.convert_to_tensor(train_step.optimizer.learning_rate)),
            sequences_per_second=curves.windows / (trained - start),
            seconds=end - start,
            validation_seconds=end - trained,
        )


class _Progress:
    """A line every few seconds: how far, how fast, how long still."""

    def __init__(self, epochs: int, done: list[Epoch], steps_per_epoch: int) -> None:
        """Args:
        epochs: to train at most.
        done: those behind.
        steps_per_epoch: for the seconds left.
        """
        self._epochs = epochs
        self._number = len(done) + 1
        self._steps_per_epoch = steps_per_epoch
        self._validation_seconds = done[-1].validation_seconds if done else None
        self._start = self._last = time.monotonic()

    def line(self, curves: _Curves) -> None:
        """Writes one if the last is some seconds ago."""
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        _LOG.info(
            "epoch %d/%d, step %d/%d: loss %.4f, %.0f sequences/s, at most %s",
            *(self._number, self._epochs, len(curves.losses), self._steps_per_epoch),
            *(np.mean(curves.losses[-50:]), curves.windows / (now - self._start)),
            self._left((now - self._start) / len(curves.losses), len(curves.losses)),
        )

    def _left(self, seconds_per_step: float, steps: int) -> str:
        epochs_left = self._epochs - self._number + 1
        left = seconds_per_step * (self._steps_per_epoch * epochs_left - steps)
        if self._validation_seconds is None:
            return f"{left:.0f} s left beside {epochs_left} validations"
        return f"{left + self._validation_seconds * epochs_left:.0f} s left"


def _write_summaries(writer: tf.summary.SummaryWriter, epoch: Epoch, curves: _Curves) -> None:
    """Once an epoch, before its checkpoint: what a killed run wrote of an epoch it writes again, the same."""
    first = epoch.steps - len(curves.losses) + 1
    with writer.as_default():
        for step, (loss, norm) in enumerate(zip(curves.losses, curves.gradient_norms, strict=True), first):
            tf.summary.scalar("loss", loss, step)
            tf.summary.scalar("gradient_norm", norm, step)
        tf.summary.scalar("learning_rate", epoch.learning_rate, epoch.steps)
        tf.summary.scalar("validation_ndcg@10", epoch.validation_ndcg, epoch.steps)
        tf.summary.scalar("sequences_per_second", epoch.sequences_per_second, epoch.steps)
    writer.flush()


def _diverged(what: str, user_ids: list[str]) -> str:
    shown = ", ".join(repr(user) for user in user_ids[:20])
    more = f" and {len(user_ids) - 20} more" if len(user_ids) > 20 else ""
    return (
        f"the {what}, whose windows are those of the shoppers {shown}{more}. "
        "Lower training.learning_rate or raise training.warmup_steps; look at these shoppers' rows if it stays."
    )
