"""Stage two: a transformer over the newest interactions, causal (SASRec) or masked (BERT4Rec)."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from trainer.attention import Attention, SlotPairs
from trainer.catalogue_encoder import CatalogueEncoder
from trainer.config import RankerConfig
from trainer.data import Catalogue
from trainer.devices import precision_policy
from trainer.full_softmax import first_seen_slots
from trainer.history import HistoryBatch, HistoryEmbedding, RequestGapEmbedding, times_after
from trainer.item_encoder import ItemEncoder
from trainer.model_files import load_weights, read_description
from trainer.objectives import make_objective
from trainer.ranker_loss import CatalogueLoss, NegativesLoss, make_loss
from trainer.repeats import RepeatWeights, add_repeat_gain, repeat_gain, shared_repeat_gain
from trainer.transformer import Block, dropout, split_seed
from transform.tables import FIRST, PADDING

Tensors = Mapping[str, tf.Tensor]
# Score of what is no rival of a target.
_NEVER = -1e9


class RankerState(NamedTuple):
    """What is known of shoppers before any candidate is looked at."""

    vector: tf.Tensor  # float32 [B, dim]
    history_rows: tf.Tensor  # int32 [B, L]
    repeat_weights: tf.Tensor  # float32 [B, L]: what a candidate gains by being the product of the slot


class Ranker(tf_keras.Model):
    """History → state; the score of a product is the dot product of the state and the fused item representation, plus
    what it gains by being in the history.

    The bias of the last layer norm gives every product a score of its own, whatever the history: a learned popularity.
    """

    def __init__(self, catalogue: Catalogue, config: RankerConfig) -> None:
        super().__init__()
        self.config = config
        self.item_encoder = ItemEncoder(catalogue.schema, config, embedding_devices=config.training.embedding_devices)
        self.products = CatalogueEncoder(catalogue, self.item_encoder)
        # Gradients of the softmax need no more digits than those of the layers.
        gradients = tf.bfloat16 if config.training.precision == "mixed_bfloat16" else tf.float32
        self.loss = make_loss(
            config.loss_of(catalogue.size), catalogue.trained_rows[FIRST:], _train_share(catalogue), gradients
        )
        self.objective = make_objective(config)
        self.has_timestamps = catalogue.schema.has_timestamps
        self.history_embedding = HistoryEmbedding(
            config.dim, config.history_length, self.has_timestamps, positions="absolute" in config.positions
        )
        # A masked slot is asked at its own time, which its neighbours' gaps tell.
        self.request_gap = RequestGapEmbedding(config.dim) if self.has_timestamps and self.objective.causal else None
        self.blocks = [self._block(number) for number in range(config.blocks)]
        self.state_norm = tf_keras.layers.LayerNormalization(epsilon=1e-6, name="state_norm")
        self.repeat_weights = RepeatWeights(config.dim, config.history_length) if config.repeats == "learned" else None
        for layer in (self.history_embedding, *self.blocks, self.state_norm, self.repeat_weights):
            if layer is not None:
                layer.build((None, None, config.dim))

    def _block(self, number: int) -> Block:
        config, dtype = self.config, precision_policy(self.config.training)
        attention = Attention(
            config.dim,
            config.heads,
            config.history_length,
            positions="relative" in config.positions,
            times=config.time_bias and self.has_timestamps,
            dtype=dtype,
        )
        return Block(attention, config.dropout, f"block_{number}", dtype)

    def encode(self, batch: HistoryBatch, table: tf.Tensor | None = None) -> RankerState:
        """States of shoppers, which `score` takes.

        Args:
            batch: left-padded histories, newest last: history_rows, history_types int32 [B, L], history_timestamps
                int64 [B, L] seconds; context_timestamp int64 [B], 0 = unknown.
            table: [V, dim] from `item_table()`, which spares encoding the catalogue anew.
        """
        batch = self.objective.question(batch)
        rows = batch["history_rows"]
        items = self.products.gather([rows])[0] if table is None else tf.gather(table, rows)
        states = self.states(items, batch)
        if self.repeat_weights is None:
            return RankerState(states[:, -1], rows, tf.zeros(tf.shape(rows)))
        return RankerState(states[:, -1], rows, self.repeat_weights(states, rows >= FIRST, newest_only=True)[:, 0])

    def states(self, items: tf.Tensor, batch: HistoryBatch, seed: tf.Tensor | None = None) -> tf.Tensor:
        """State at every slot, of a history as the objective shows it: items [B, L, dim] → [B, L, dim]."""
        slot_seed, gap_seed, *block_seeds = split_seed(seed, 2 + len(self.blocks))
        pairs = self._pairs(batch)
        slots = dropout(self._slots(items, batch, gap_seed), self.config.dropout, slot_seed)
        for block, block_seed in zip(self.blocks, block_seeds, strict=True):
            slots = block(slots, pairs, block_seed)
        return self.state_norm(slots)

    def attention_weights(self, items: tf.Tensor, batch: HistoryBatch) -> list[tf.Tensor]:
        """How much slot i takes from slot j in each block, of a history as the objective shows it.

        Items [B, L, dim] → one [B, heads, L, L] per block; lines sum to 1.
        """
        slots, pairs, weights = self._slots(items, batch), self._pairs(batch), []
        for block in self.blocks:
            weights.append(block.attention_weights(slots, pairs))
            slots = block(slots, pairs)
        return weights

    def _slots(self, items: tf.Tensor, batch: HistoryBatch, gap_seed: tf.Tensor | None = None) -> tf.Tensor:
        """What the first block reads, [B, L, dim]."""
        slots = self.history_embedding(items, batch)
        if self.request_gap is None:
            return slots
        return slots + self.request_gap(batch["history_timestamps"], times_after(batch), gap_seed)

    def _pairs(self, batch: HistoryBatch) -> SlotPairs:
        timed = self.config.time_bias and self.has_timestamps
        timestamps = batch["history_timestamps"] if timed else None
        biases = [block.attention.time_bias for block in self.blocks if block.attention.time_bias is not None]
        return SlotPairs(batch["history_rows"] > PADDING, timestamps, self.objective.causal, biases)

    def item_table(self) -> tf.Tensor:
        """Fused item representations of the whole catalogue, [V, dim]: what `encode` takes as `table`."""
        return self.products.table()

    def item_vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Vectors of catalogue rows as `score` takes them: int32 [N] → [N, dim]."""
        return self.products.vectors(rows)

    def score(self, state: RankerState, candidate_vectors: tf.Tensor, candidate_rows: tf.Tensor) -> tf.Tensor:
        """Scores of candidates: state of B shoppers, [B, C, dim], int32 [B, C] → [B, C]."""
        scores = tf.einsum("bd,bcd->bc", state.vector, candidate_vectors)
        if self.repeat_weights is None:
            return scores
        return scores + repeat_gain(state.history_rows, state.repeat_weights[:, tf.newaxis], candidate_rows)

    def score_catalogue(self, state: RankerState, table: tf.Tensor) -> tf.Tensor:
        """Scores of the whole catalogue: state of B shoppers, [V, dim] from `item_table()` → [B, V]."""
        scores = tf.matmul(state.vector, table, transpose_b=True)
        if self.repeat_weights is None:
            return scores
        return add_repeat_gain(scores, state.history_rows, state.repeat_weights[:, tf.newaxis])

    def compute_loss(self, inputs: Tensors, training: bool = False) -> tf.Tensor:
        """The loss that the configuration names, a weighted mean (nats) over the slots that have a target.

        Args:
            inputs: what `trainer.ranker_training` makes: histories [B, L] and context_timestamp [B]; targets int32
                [B, M] (0 = none) and target_weights float32 [B, M], see `trainer.objectives`; unless the loss is
                over the whole catalogue, negative_rows int32 [N] and negative_log_counts [N]; seed int32 [2].
            training: drops out, and hides ids.
        """
        seeds = split_seed(inputs["seed"] if training else None, 2)
        if isinstance(self.loss, CatalogueLoss):
            return self._loss_over_catalogue(self.loss, inputs, training, *seeds)
        return self._loss_over_negatives(self.loss, inputs, training, *seeds)

    def loss_weight(self, inputs: Tensors) -> tf.Tensor:
        """What `compute_loss` is a mean over, for the sum over several devices: the sum of the targets' weights."""
        return tf.reduce_sum(tf.where(inputs["targets"] >= FIRST, inputs["target_weights"], 0.0))

    def _loss_over_catalogue(
        self, loss: CatalogueLoss, inputs: Tensors, training: bool, item_seed: tf.Tensor | None, seed: tf.Tensor | None
    ) -> tf.Tensor:
        # Only what training may learn from is a rival of a target; all rows count among those.
        places = self.products.trained_places
        rows, targets = tf.gather(places, inputs["history_rows"]), tf.gather(places, inputs["targets"])
        table = self.products.trained_table(item_seed if training else None)
        states = _asked(self.states(tf.gather(table, rows), inputs, seed), inputs)
        # Without the reserved rows.
        products, met = table[FIRST:], rows - FIRST
        flat = tf.reshape(states, [-1, self.config.dim])
        targets = tf.reshape(targets, [-1]) - FIRST
        weights = tf.reshape(inputs["target_weights"], [-1])
        if self.repeat_weights is not None:
            gains = self.repeat_weights(states, rows >= FIRST)
            return loss.with_repeats(flat, products, targets, weights, met, gains)
        first_seen = first_seen_slots(met, products.shape[0])
        if not self.objective.causal:
            # What a masked slot may look at on either side is no rival.
            first_seen = tf.where(first_seen < rows.shape[1], 0, first_seen)
        return loss(flat, products, targets, weights, first_seen=first_seen)

    def _loss_over_negatives(
        self, loss: NegativesLoss, inputs: Tensors, training: bool, item_seed: tf.Tensor | None, seed: tf.Tensor | None
    ) -> tf.Tensor:
        rows, targets, negatives = inputs["history_rows"], inputs["targets"], inputs["negative_rows"]
        items, target_items, negative_items = self.products.gather([rows, targets, negatives], training, item_seed)
        states = _asked(self.states(items, inputs, seed), inputs)
        positive = tf.reduce_sum(states * target_items, axis=-1)
        negative = tf.matmul(states, negative_items, transpose_b=True)
        if self.repeat_weights is not None:
            weights = self.repeat_weights(states, rows >= FIRST)
            positive += repeat_gain(rows, weights, targets)
            negative += shared_repeat_gain(rows, weights, negatives)
        else:
            negative = tf.where(self._met(rows, negatives), _NEVER, negative)
        log_counts = inputs["negative_log_counts"]
        return loss(positive, negative, targets, inputs["target_weights"], negatives, log_counts)

    def _met(self, rows: tf.Tensor, negatives: tf.Tensor) -> tf.Tensor:
        """Negatives that a slot has met and that are therefore none: int32 [B, L], int32 [M] → bool [B, L or 1, M]."""
        same = rows[:, :, tf.newaxis] == negatives
        if not self.objective.causal:
            return tf.reduce_any(same, axis=1, keepdims=True)
        return tf.cumsum(tf.cast(same, tf.int32), axis=1) > 0


def _asked(states: tf.Tensor, inputs: Tensors) -> tf.Tensor:
    """States of the slots that predict something: [B, L, dim] → [B, M, dim]."""
    return tf.gather(states, inputs["target_slots"], batch_dims=1) if "target_slots" in inputs else states


def _train_share(catalogue: Catalogue) -> np.ndarray | None:
    """Share of each row among the training interactions, float64 [V]; None where there are no counts."""
    total = catalogue.train_counts.sum()
    return catalogue.train_counts / total if total else None


def load_ranker(directory: Path, catalogue: Catalogue) -> Ranker:
    """The model that `tandem train-ranker` left in `directory`, over the products of `catalogue`.

    Raises:
        ModelFilesError: `directory` holds none, or one for another feature schema.
    """
    config = RankerConfig(**read_description(directory, "ranker", catalogue.schema))
    model = Ranker(catalogue, config)
    load_weights(directory, model)
    return model
