"""One training step as one graph: gradient, clipping, AdamW, moving average."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from trainer.config import TrainingConfig
from trainer.schedule import WarmUpDecay
from trainer.weight_average import WeightAverage


class TrainStep:
    """Changes a model's weights, batch by batch.

    Attributes:
        optimizer: AdamW (Loshchilov and Hutter 2019); biases and norms do not decay.
        average: of the weights.
    """

    def __init__(self, model: tf_keras.Model, config: TrainingConfig, total_steps: int) -> None:
        """Args:
        model: with all its weights made and a `compute_loss(inputs, training)`.
        config: of the loop.
        total_steps: of all epochs, where a falling learning rate ends.
        """
        self.model = model
        self.config = config
        self.optimizer = _optimizer(model, config, total_steps)
        self.average = WeightAverage(model.trainable_variables, config.ema_decay, model.distribute_strategy)
        self._compiled = tf.function(self._step, jit_compile=config.jit_compile)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the model, so that training goes on as if it had never stopped."""
        return {"optimizer": self.optimizer, "averages": self.average.averages}

    def __call__(self, inputs: Mapping[str, np.ndarray | tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Learns from one batch.

        Returns:
            The loss (nats) before the step and the global norm of its gradient before clipping, float32 scalars.
        """
        return self._compiled(inputs)

    def _step(self, inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = self.model.compute_loss(inputs, training=True)
        variables = self.model.trainable_variables
        # Dense: XLA compiles no sparse update, and Adam decays the moments of every row anyway.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
        norm = tf.linalg.global_norm(gradients)
        self.optimizer.apply_gradients(zip(_clipped(gradients, norm, self.config), variables, strict=True))
        self.average.update(self.optimizer.iterations - 1)
        return loss, norm


def _clipped(gradients: list[tf.Tensor], norm: tf.Tensor, config: TrainingConfig) -> list[tf.Tensor]:
    """Gradients no longer than the limit, all shortened alike (Pascanu et al. 2013)."""
    limit = config.gradient_clip_norm
    if limit == 0:
        return gradients
    share = limit / tf.maximum(norm, limit)
    return [gradient * share for gradient in gradients]


def _optimizer(model: tf_keras.Model, config: TrainingConfig, total_steps: int) -> tf_keras.optimizers.Optimizer:
    schedule = WarmUpDecay(
        config.learning_rate,
        config.warmup_steps,
        config.learning_rate_decay,
        total_steps,
        config.final_learning_rate_share,
    )
    # AdamW by Keras' own words: its Adam decays weights in the same way, and spares the pass over them at 0.
    optimizer = tf_keras.optimizers.Adam(
        schedule, beta_2=0.98, weight_decay=config.weight_decay or None, jit_compile=False
    )
    variables = model.trainable_variables
    optimizer.exclude_from_weight_decay([variable for variable in variables if variable.shape.rank < 2])
    optimizer.build(variables)
    return optimizer
