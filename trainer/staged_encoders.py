"""Staged fine-tuning: fusion first, the tables that read content later and at a low rate."""

import tensorflow as tf
import tf_keras

from trainer.config import TrainingConfig


class StagedEncoders:
    """Takes back a part of what a step did to the tables that read content: all of it in the first epochs, as gradual
    unfreezing does (Howard and Ruder 2018, "Universal Language Model Fine-tuning"), and the agreed share later.

    Scaling gradients would do nothing, since Adam divides by their size.
    """

    def __init__(self, model: tf_keras.Model, config: TrainingConfig, total_steps: int) -> None:
        """Args:
        model: with an `item_encoder`, where anything is staged.
        config: of the loop.
        total_steps: of all epochs.
        """
        staged = config.frozen_encoder_epochs > 0 or config.encoder_rate < 1
        self.tables: list[tf.Variable] = model.item_encoder.content_tables() if staged else []
        self.frozen_steps = config.frozen_encoder_epochs * (total_steps // config.epochs)
        self.rate = config.encoder_rate

    def values(self) -> list[tf.Tensor]:
        """The tables before a step."""
        return [tf.identity(table) for table in self.tables]

    def restrain(self, before: list[tf.Tensor], step: tf.Tensor) -> None:
        """Moves the tables back towards what they were.

        Args:
            before: of `values`.
            step: number of the step that was made, from 0.
        """
        rate = tf.where(step < self.frozen_steps, 0.0, self.rate)
        for table, value in zip(self.tables, before, strict=True):
            table.assign(value + rate * (tf.convert_to_tensor(table) - value))
