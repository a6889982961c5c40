"""What the ranker is trained to predict, and how it is asked in service: the next item, or a masked one."""

from typing import Protocol

import numpy as np
import tensorflow as tf

from trainer.config import RankerConfig
from trainer.history import HistoryBatch
from trainer.windows import NONE, TrainingWindows, WindowBatch
from transform.tables import PADDING, UNKNOWN


class Objective(Protocol):
    """A way to make questions out of histories.

    Attributes:
        causal: a slot looks at those before it only.
        appended: slots that a question has behind the history, for which as many of the oldest make room.
    """

    causal: bool
    appended: int

    def training(self, windows: TrainingWindows, batch: WindowBatch, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Model inputs of a batch of windows: histories as the encoder may see them, `targets` int32 [B, L] (catalogue
        rows, 0 = nothing to predict at the slot) and `target_weights` float32 [B, L] (0 where there is no target)."""

    def question(self, batch: HistoryBatch) -> HistoryBatch:
        """Histories of a request as the encoder sees them; the state of the newest slot is the answer."""


class NextItem:
    """Every slot predicts what comes next (SASRec, Kang and McAuley 2018)."""

    causal = True

    appended = 0
    def training(self, windows: TrainingWindows, batch: WindowBatch, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """See `Objective`; each slot's target is the interaction that follows it."""
        targets = windows.target_rows(batch)
        return {**windows.history(batch), "targets": targets, "target_weights": windows.weights(batch.targets)}

    def question(self, batch: HistoryBatch) -> HistoryBatch:
        """The history as it is: what follows its newest slot?"""
        return batch


class MaskedItem:
    """Slots drawn at random are masked and predicted from both sides (BERT4Rec, Sun et al. 2019).

    A masked interaction is an unknown product without an event type, at its time. A request appends one at its own
    time, as training does with a share of the windows, whose newest slot alone is masked.
    """

    causal = False

    def __init__(self, mask_share: float, newest_share: float) -> None:
    appended = 1
        """Args:
        mask_share: of the interactions of a window that are masked.
        newest_share: of the windows of which only the newest interaction is masked.
        """
        self.mask_share = mask_share
        self.newest_share = newest_share

    def training(self, windows: TrainingWindows, batch: WindowBatch, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """See `Objective`; the target of a masked slot is what it held."""
        history = windows.history(batch)
        there = batch.places != NONE
        masked = there & (rng.random(there.shape) < self.mask_share)
        newest_only = rng.random((len(there), 1)) < self.newest_share
        newest = np.zeros_like(there)
        newest[:, -1] = there[:, -1]
        masked = np.where(newest_only | ~masked.any(axis=1, keepdims=True), newest, masked)
        targets = np.where(masked, history["history_rows"], PADDING).astype(np.int32)
        return {
            **history,
            "history_rows": np.where(masked, UNKNOWN, history["history_rows"]).astype(np.int32),
            "history_types": np.where(masked, 0, history["history_types"]).astype(np.int32),
            "targets": targets,
            "target_weights": windows.weights(np.where(masked, batch.places, NONE)),
        }

    def question(self, batch: HistoryBatch) -> HistoryBatch:
        """The history with a masked interaction at the time of the request behind it; the oldest slot makes room."""

        def behind(values: tf.Tensor, newest: tf.Tensor) -> tf.Tensor:
            return tf.concat([values[:, 1:], newest[:, tf.newaxis]], axis=1)

        nothing = tf.zeros_like(batch["history_types"][:, 0])
        return {
            **batch,
            "history_rows": behind(batch["history_rows"], tf.fill(tf.shape(nothing), UNKNOWN)),
            "history_types": behind(batch["history_types"], nothing),
            "history_timestamps": behind(batch["history_timestamps"], batch["context_timestamp"]),
        }


def make_objective(config: RankerConfig) -> Objective:
    """The objective that a configuration names."""
    if config.objective == "next_item":
        return NextItem()
    return MaskedItem(config.mask_share, config.mask_newest_share)
