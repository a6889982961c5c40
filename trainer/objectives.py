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
        """Model inputs of a batch of windows: histories as the encoder may see them, `targets` int32 [B, M] (catalogue
        rows, 0 = none) and `target_weights` float32 [B, M] (0 = none); `target_slots` int32 [B, M] says from which
        slots they are predicted; without it M is L, and each slot predicts its own."""

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
    time, as training does with a share of the windows, whose newest slot alone is masked. The number of masked slots is
    fixed by the length, so that scores over the catalogue are made for them alone.
    """

    causal = False
    appended = 1

    def __init__(self, mask_share: float, newest_share: float) -> None:
        """Args:
        mask_share: of the interactions of a window that are masked.
        newest_share: of the windows of which only the newest interaction is masked.
        """
        self.mask_share = mask_share
        self.newest_share = newest_share

    def training(self, windows: TrainingWindows, batch: WindowBatch, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """See `Objective`; the target of a masked slot is what it held. Every window has at least one."""
        history = windows.history(batch)
        slots, counted = self._masked_slots(batch.places != NONE, rng)
        masked = np.zeros(batch.places.shape, bool)
        np.put_along_axis(masked, np.where(counted, slots, slots[:, :1]), counted[:, :1], axis=1)
        places = np.where(counted, np.take_along_axis(batch.places, slots, axis=1), NONE)
        targets = np.where(counted, np.take_along_axis(history["history_rows"], slots, axis=1), PADDING)
        return {
            **history,
            "history_rows": np.where(masked, UNKNOWN, history["history_rows"]).astype(np.int32),
            "history_types": np.where(masked, 0, history["history_types"]).astype(np.int32),
            "target_slots": slots.astype(np.int32),
            "targets": targets.astype(np.int32),
            "target_weights": windows.weights(places),
        }

    def _masked_slots(self, there: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Slots to mask, int64 [B, M] of a width that L alone decides, and which of them count, the first ones."""
        length = there.shape[1]
        width = max(1, round(self.mask_share * length))
        # The smallest draws are masked; what is not there comes last.
        draws = np.where(there, rng.random(there.shape), 2.0)
        newest_only = there[:, -1] & (rng.random(len(there)) < self.newest_share)
        draws[newest_only, -1] = -1.0
        slots = np.argsort(draws, axis=1)[:, :width]
        interactions = there.sum(axis=1)
        number = np.minimum(np.maximum(np.round(self.mask_share * interactions), 1), interactions)
        number = np.where(newest_only, np.minimum(number, 1), number)
        return slots, np.arange(width) < number[:, np.newaxis]

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
