"""Exponential moving average of a model's weights, kept beside the weights that are trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf


class WeightAverage:
    """average ← d · average + (1 − d) · weight after each step (Polyak and Juditsky 1992).

    The decay begins small and grows to the one asked for, d = min(decay, (1 + step) / (10 + step)), so that the drawn
    initial weights are forgotten at once.

    Attributes:
        averages: variables shaped as the weights; a checkpoint must hold them.
    """

    def __init__(self, weights: list[tf.Variable], decay: float, strategy: tf.distribute.Strategy) -> None:
        """Args:
        weights: to be averaged; the averages start where the weights are.
        decay: in [0, 1); 0 = off, and there are no averages.
        strategy: whose devices hold the weights.
        """
        self.decay = decay
        self._strategy = strategy
        self._weights = weights if decay > 0 else []
        self.averages = [self._beside(weight) for weight in self._weights]

    def update(self, step: tf.Tensor) -> None:
        """One move towards the weights as they stand; belongs into the training step, in cross-replica context.

        `step` counts from 0, int64 scalar.
        """
        if not self.averages:
            return
        done = tf.cast(step, tf.float32)
        move = 1.0 - tf.minimum(self.decay, (1.0 + done) / (10.0 + done))
        for average, weight in zip(self.averages, self._weights, strict=True):
            self._strategy.extended.update(average, _move_towards, args=(weight, move), group=False)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the model has the averages as its weights; afterwards it has its own again, to the bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _beside(self, weight: tf.Variable) -> tf.Variable:
        with self._strategy.scope(), self._strategy.extended.colocate_vars_with(weight):
            return tf.Variable(weight.read_value(), trainable=False)

    def _swap(self) -> None:
        for average, weight in zip(self.averages, self._weights, strict=True):
            own = weight.read_value()
            weight.assign(average.read_value())
            average.assign(own)


def _move_towards(average: tf.Variable, weight: tf.Tensor, move: tf.Tensor) -> None:
    average.assign_add(move * (weight - average))
