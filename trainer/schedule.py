"""The learning rate of each step: a linear warm-up, then constant or falling."""

import math
from dataclasses import dataclass

import tensorflow as tf
import tf_keras

from trainer.config import Decay


@dataclass(frozen=True)
class WarmUpDecay(tf_keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that grows linearly over the first steps, then stays or falls to a share of its height.

        warm-up  rate · (step + 1) / warmup_steps
        linear   rate · (1 − (1 − final_share) · p)
        cosine   rate · (final_share + (1 − final_share) · (1 + cos πp) / 2)      (Loshchilov and Hutter 2017)

    with p from 0 at the first step after the warm-up to 1 at `total_steps`, and 1 ever after.
    """

    learning_rate: float
    warmup_steps: int
    decay: Decay
    total_steps: int  # of the whole training, warm-up included
    final_share: float

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Rate of a step, which counts from 0: float32 scalar."""
        step = tf.cast(step, tf.float32)
        rate = self.learning_rate * tf.minimum((step + 1.0) / max(self.warmup_steps, 1), 1.0)
        return rate * self._height(step)

    def _height(self, step: tf.Tensor) -> tf.Tensor | float:
        """Share of the rate that the decay leaves."""
        if self.decay == "constant":
            return 1.0
        falling_steps = max(self.total_steps - self.warmup_steps, 1)
        progress = tf.clip_by_value((step - self.warmup_steps) / falling_steps, 0.0, 1.0)
        left = 1.0 - progress if self.decay == "linear" else (1.0 + tf.cos(math.pi * progress)) / 2.0
        return self.final_share + (1.0 - self.final_share) * left
