"""One training step as one graph: gradient, sum over devices, clipping, AdamW, moving average."""

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from trainer.config import TrainingConfig
from trainer.schedule import WarmUpDecay
from trainer.staged_encoders import StagedEncoders
from trainer.weight_average import WeightAverage

Tensors = dict[str, tf.Tensor]


class TrainStep:
    """Changes a model's weights, batch by batch, on the devices of the strategy that the model was made within.

    With several devices a batch is divided among them. The loss of a batch is a mean weighted by the model's
    `loss_weight`, so the loss of the whole is the sum over devices of (weight of the part / weight of all) · loss of
    the part, and so is its gradient: what one device would get, up to the order of summation.

    Attributes:
        optimizer: AdamW (Loshchilov and Hutter 2019); biases and norms do not decay. In float16 it scales the loss, and
            passes over a step whose gradient overflows (Micikevicius et al. 2018).
        average: of the weights.
    """

    def __init__(self, model: tf_keras.Model, config: TrainingConfig, total_steps: int) -> None:
        """Args:
        model: with all its weights made and a `compute_loss(inputs, training)`; for several devices also a
            `loss_weight(inputs)`.
        config: of the loop.
        total_steps: of all epochs, where a falling learning rate ends.
        """
        self.model = model
        self.config = config
        self.strategy: tf.distribute.Strategy = model.distribute_strategy
        self.replicas: int = self.strategy.num_replicas_in_sync
        with self.strategy.scope():
            self.optimizer = _optimizer(model, config, total_steps)
        self.staged = StagedEncoders(model, config, total_steps)
        self.average = WeightAverage(model.trainable_variables, config.ema_decay, self.strategy)
        # XLA compiles for one device: with several, each one's part is compiled and the sum between them is not. A TPU
        # compiles by itself.
        jit_compile = config.jit_compile and config.strategy != "tpu"
        compile_part, compile_whole = jit_compile and self.replicas > 1, jit_compile and self.replicas == 1
        # With AutoGraph: TFRS's retrieval task asks for the `len` of a tensor, which it alone answers in a graph.
        self._gradient_of_part = tf.function(self._gradient, jit_compile=compile_part)
        self._compiled = tf.function(self._step, jit_compile=compile_whole)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the model, so that training goes on as if it had never stopped."""
        return {"optimizer": self.optimizer, "averages": self.average.averages}

    def place(self, inputs: Mapping[str, np.ndarray], shared: Set[str]) -> Any:
        """A batch where the step reads it: tensors, divided along their first axis where there are several devices.

        Args:
            inputs: name → array. Batches that do not divide evenly are filled up with zeros, which must weigh nothing.
            shared: names that every device reads whole; scalars are, too.
        """
        if self.replicas == 1:
            return {name: tf.convert_to_tensor(values) for name, values in inputs.items()}
        parts = [_part(inputs, shared, number, self.replicas) for number in range(self.replicas)]
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )

    def __call__(self, placed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Learns from one batch.

        Args:
            placed: by `place`.

        Returns:
            The loss (nats) before the step and the global norm of its gradient before clipping, float32 scalars.
        """
        return self._compiled(placed)

    def forgives_overflow(self) -> bool:
        """Whether a gradient that is no number is an overflow that a smaller loss scale may still cure."""
        return self._scales_loss and float(self.optimizer.loss_scale) > 1

    @property
    def _scales_loss(self) -> bool:
        return self.config.precision == "mixed_float16"

    def _step(self, placed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        before = self.staged.values()
        loss, norm = self.strategy.run(self._replica_step, args=(placed,))
        self.staged.restrain(before, self.optimizer.iterations - 1)
        self.average.update(self.optimizer.iterations - 1)
        if self.replicas == 1:
            return loss, norm
        return self.strategy.reduce("SUM", loss, axis=None), self.strategy.experimental_local_results(norm)[0]

    def _replica_step(self, inputs: Tensors) -> tuple[tf.Tensor, tf.Tensor]:
        """The part of the loss that this device's part of the batch makes, and the norm of the whole gradient."""
        if self.replicas == 1:
            loss, gradients = self._gradient(inputs, tf.constant(1.0))
        else:
            context = tf.distribute.get_replica_context()
            inputs = {**inputs, "seed": tf.random.experimental.stateless_fold_in(inputs["seed"], _number_of(context))}
            weight = tf.cast(self.model.loss_weight(inputs), tf.float32)
            share = tf.math.divide_no_nan(weight, context.all_reduce("SUM", weight))
            loss, gradients = self._gradient_of_part(inputs, share)
            gradients = context.all_reduce("SUM", gradients)
        norm = tf.linalg.global_norm(gradients)
        changes = zip(_clipped(gradients, norm, self.config), self.model.trainable_variables, strict=True)
        self.optimizer.apply_gradients(changes, skip_gradients_aggregation=True)
        return loss, norm

    def _gradient(self, inputs: Tensors, share: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """`share` · loss, and its gradient."""
        with tf.GradientTape() as tape:
            loss = self.model.compute_loss(inputs, training=True) * share
            scaled = self.optimizer.get_scaled_loss(loss) if self._scales_loss else loss
        gradients = tape.gradient(scaled, self.model.trainable_variables)
        gradients = [self._dense(*pair) for pair in zip(gradients, self.model.trainable_variables, strict=True)]
        return loss, self.optimizer.get_unscaled_gradients(gradients) if self._scales_loss else gradients

    def _dense(self, gradient: tf.Tensor | tf.IndexedSlices, weight: tf.Variable) -> tf.Tensor:
        """XLA compiles no sparse update, and Adam decays the moments of every row anyway."""
        # As large as its weight: where tables are divided because a device is small, it belongs beside its part.
        with tf.device(weight.device if self.config.embedding_devices else None):
            return tf.convert_to_tensor(gradient)


def _part(inputs: Mapping[str, np.ndarray], shared: Set[str], number: int, parts: int) -> Tensors:
    """What one of several devices reads of a batch."""
    part = {}
    for name, values in inputs.items():
        if name in shared or np.ndim(values) == 0:
            part[name] = tf.convert_to_tensor(values)
        else:
            size = -(-len(values) // parts)
            own = values[number * size : (number + 1) * size]
            filling = [(0, size - len(own))] + [(0, 0)] * (np.ndim(values) - 1)
            part[name] = tf.convert_to_tensor(np.pad(own, filling))
    return part


def _number_of(context: tf.distribute.ReplicaContext) -> tf.Tensor:
    return tf.cast(context.replica_id_in_sync_group, tf.int32)


def _clipped(gradients: list[tf.Tensor], norm: tf.Tensor, config: TrainingConfig) -> list[tf.Tensor]:
    """Gradients no longer than the limit, all shortened alike (Pascanu et al. 2013)."""
    limit = config.gradient_clip_norm
    if limit == 0:
        return gradients
    share = limit / tf.maximum(norm, limit)
    shortened = []
    for gradient in gradients:
        with tf.device(gradient.device):
            shortened.append(gradient * share)
    return shortened


def _optimizer(model: tf_keras.Model, config: TrainingConfig, total_steps: int) -> tf_keras.optimizers.Optimizer:
    schedule = WarmUpDecay(
        config.learning_rate,
        config.warmup_steps,
        config.learning_rate_decay,
        total_steps,
        config.final_learning_rate_share,
    )
    # AdamW: Keras' Adam decays weights in the same way, and spares the pass over them where they do not decay.
    optimizer = tf_keras.optimizers.Adam(
        schedule, beta_2=0.98, weight_decay=config.weight_decay or None, jit_compile=False
    )
    variables = model.trainable_variables
    optimizer.exclude_from_weight_decay([variable for variable in variables if variable.shape.rank < 2])
    if config.precision == "mixed_float16":
        optimizer = tf_keras.mixed_precision.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer
