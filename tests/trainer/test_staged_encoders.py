"""Staged fine-tuning: tables that read content stay as they are, then move by a share of the step."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.trainer.worlds import checkerboard_catalogue
from trainer.catalogue_encoder import CatalogueEncoder
from trainer.config import ItemEncoderConfig, TrainingConfig
from trainer.item_encoder import ItemEncoder
from trainer.train_step import TrainStep

CATALOGUE = checkerboard_catalogue()
# Two epochs of one step.
CONFIG = TrainingConfig(epochs=2, warmup_steps=0, learning_rate=0.1)


class Shop(tf_keras.Model):
    """Wants every product's vector to be one."""

    def __init__(self) -> None:
        super().__init__()
        self.item_encoder = ItemEncoder(CATALOGUE.schema, ItemEncoderConfig(dim=4, id_dropout=0.0, ngram_buckets=8))
        self.products = CatalogueEncoder(CATALOGUE, self.item_encoder)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return tf.reduce_mean((self.products.table() - 1.0) ** 2)


def moves(config: TrainingConfig) -> tuple[list[list[float]], list[float]]:
    """Largest change of each table that reads content, and of a gate, in each of two steps."""
    tf_keras.utils.set_random_seed(3)
    model = Shop()
    step = TrainStep(model, config, total_steps=2)
    weights = [*model.item_encoder.content_tables(), model.item_encoder.fusion.gate.kernel]
    changes = []
    for _ in range(2):
        before = [weight.numpy() for weight in weights]
        step({})
        changes.append([float(np.abs(w.numpy() - b).max()) for w, b in zip(weights, before, strict=True)])
    return [change[:-1] for change in changes], [change[-1] for change in changes]


@pytest.fixture(scope="module")
def free() -> list[list[float]]:
    """Moves of tables that are not frozen."""
    return moves(CONFIG)[0]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_frozen_tables_move_from_the_second_epoch_on_by_their_share(free: list[list[float]], jit_compile: bool) -> None:
    tables, gates = moves(replace(CONFIG, frozen_encoder_epochs=1, encoder_rate=0.25, jit_compile=jit_compile))
    assert max(tables[0]) == 0
    assert min(free[0]) > 0.09
    # Adam's second step is as long as its first where the gradient has hardly changed: a quarter of the rate.
    assert all(0 < move <= 0.25 * 0.11 for move in tables[1])
    assert min(gates) > 0.05


def test_words_n_grams_and_values_are_what_reads_content() -> None:
    assert len(Shop().item_encoder.content_tables()) == 5
