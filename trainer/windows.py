"""Training windows over whole training histories: left-padded, of a few static shapes, in an order given by a seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trainer.data import Sequences

# Windows are padded to L, L/2, L/4 or L/8, so that short histories do not pay for long ones.
_HALVINGS = 4
NONE = -1


@dataclass(frozen=True)
class WindowBatch:
    """Windows of one padded length; `NONE` marks what is not there."""

    users: np.ndarray  # int64 [B]: shopper of each window
    places: np.ndarray  # int64 [B, L]: interaction in each slot
    targets: np.ndarray  # int64 [B, L]: interaction to predict from each slot

    @property
    def windows(self) -> int:
        """Windows that belong to a shopper (a batch is filled up with empty ones)."""
        return int((self.users != NONE).sum())


class TrainingWindows:
    """Cuts each shopper's training interactions into windows, each slot with its target.

    A shopper with interactions 0 … n − 1 has the slots −1 … n − 1. Slot −1 is an empty history, whose target is where
    the shopper began; slot t has seen the interactions up to t. Slots are cut into windows from the newest backwards;
    where there is more than one window, the length of the newest is drawn anew in each epoch, so that the slots at the
    start of a window, which see little before them, are not always the same.

    The target of a slot is the next interaction. A basket has no inner order, so the target is drawn anew in each epoch
    from the whole *next* basket (or the next few): a product is never predicted from its own basket, in which nothing
    occurs twice, whereas across baskets people do buy again. Slots of the last training basket have no target.
    """

    def __init__(
        self,
        sequences: Sequences,
        history_length: int,
        batch_size: int,
        seed: int,
        target_weights: np.ndarray | None = None,
        target_baskets: int = 1,
    ) -> None:
        """Args:
        sequences: all interactions; only those before `train_end` are read.
        history_length: L, slots of the longest windows.
        batch_size: windows of length L in a batch; shorter windows come in proportionally larger batches.
        seed: of order and draws.
        target_weights: float32 [N], how much each interaction counts as a target; None = all the same.
        target_baskets: number of baskets that follow a slot from which its target is drawn.
        """
        self.sequences = sequences
        self._target_weights = target_weights
        self.history_length = history_length
        self.seed = seed
        self._place, self._next_first, self._next_size, slot_offsets = _slots(sequences, target_baskets)
        self._slot_offsets = slot_offsets
        self._batch_size = batch_size

    @property
    def count(self) -> int:
        """Windows of the first epoch; the others differ by a few."""
        return len(self._cut(self._rng(0))[0])

    @property
    def steps(self) -> int:
        """Batches of the first epoch; the others differ by a few."""
        _, first, last = self._cut(self._rng(0))
        return sum(-(-len(windows) // size) for _, size, windows in self._buckets(last - first))

    def target_share(self, catalogue_size: int) -> np.ndarray:
        """Share of each catalogue row among all targets, in expectation over the draws: float64 [V], sums to 1."""
        drawn = np.flatnonzero(self._next_size)
        share = np.zeros(len(self.sequences.rows))
        first, size = self._next_first[drawn], self._next_size[drawn]
        # Each slot spreads one target evenly over the interactions [first, first + size).
        edges = np.zeros(len(share) + 1)
        np.add.at(edges, first, 1.0 / size)
        np.add.at(edges, first + size, -1.0 / size)
        share = np.maximum(np.cumsum(edges[:-1]), 0.0)
        rows = np.bincount(self.sequences.rows, weights=share, minlength=catalogue_size)
        return rows / rows.sum()

    def epoch(self, number: int) -> Iterator[WindowBatch]:
        """Batches of an epoch; the same epoch number gives the same batches in every process."""
        rng = self._rng(number)
        users, first, last = self._cut(rng)
        batches = []
        for length, size, windows in self._buckets(last - first):
            order = rng.permutation(windows)
            batches += [(length, size, order[start : start + size]) for start in range(0, len(order), size)]
        for index in rng.permutation(len(batches)):
            length, size, chosen = batches[index]
            yield self._batch(length, size, (users[chosen], first[chosen], last[chosen]), rng)

    def user_ids(self, batch: WindowBatch) -> list[str]:
        """Shoppers whose windows these are."""
        return sorted(set(self.sequences.user_ids[batch.users[batch.users != NONE]]))

    def history(self, batch: WindowBatch) -> dict[str, np.ndarray]:
        """Model inputs of the windows.

        history_rows, history_types int32 and history_timestamps int64, all [B, L]; context_timestamp int64 [B]: when
        the newest slot's target came, 0 = it has none.
        """
        there, newest = batch.places != NONE, batch.targets[:, -1]
        return {
            "history_rows": np.where(there, self.sequences.rows[batch.places], 0).astype(np.int32),
            "history_types": np.where(there, self.sequences.types[batch.places], 0).astype(np.int32),
            "history_timestamps": np.where(there, self.sequences.timestamps[batch.places], 0).astype(np.int64),
            "context_timestamp": np.where(newest != NONE, self.sequences.timestamps[newest], 0).astype(np.int64),
        }

    def target_rows(self, batch: WindowBatch) -> np.ndarray:
        """Catalogue rows to predict, int32 [B, L]; 0 = none."""
        return np.where(batch.targets != NONE, self.sequences.rows[batch.targets], 0).astype(np.int32)

    def weights(self, places: np.ndarray) -> np.ndarray:
        """How much the interactions at `places` count as targets, float32 of the same shape; `NONE` counts nothing."""
        there = places != NONE
        if self._target_weights is None:
            return there.astype(np.float32)
        return np.where(there, self._target_weights[places], 0).astype(np.float32)

    def _rng(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch])

    def _cut(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Windows of an epoch: shopper, first slot, slot after the last; int64 [W] each."""
        longest = self.history_length
        newest = np.full(len(self._slot_offsets) - 1, longest)
        long = np.diff(self._slot_offsets) > longest
        newest[long] = rng.integers(longest // 2, longest, long.sum(), endpoint=True).clip(1)
        return _cut(self._slot_offsets, longest, newest)

    def _buckets(self, lengths: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
        """Padded length, windows in a batch, and which windows: of each length that occurs."""
        longest = self.history_length
        padded = sorted({-(-longest // 2**halving) for halving in range(_HALVINGS)})
        bucket = np.searchsorted(padded, lengths)
        return [
            (length, self._batch_size * longest // length, np.flatnonzero(bucket == number))
            for number, length in enumerate(padded)
            if (bucket == number).any()
        ]

    def _batch(
        self, length: int, size: int, windows: tuple[np.ndarray, np.ndarray, np.ndarray], rng: np.random.Generator
    ) -> WindowBatch:
        count = len(windows[0])
        users = np.full(size, NONE, np.int64)
        first, last = np.zeros((2, size, 1), np.int64)
        users[:count], first[:count, 0], last[:count, 0] = windows
        slots = last - length + np.arange(length)
        inside = slots >= first
        inside[count:] = False
        slots = np.where(inside, slots, 0)
        sizes = self._next_size[slots]
        draws = self._next_first[slots] + (rng.random(slots.shape) * sizes).astype(np.int64)
        return WindowBatch(
            users,
            places=np.where(inside, self._place[slots], NONE),
            targets=np.where(inside & (sizes > 0), draws, NONE),
        )


def _slots(sequences: Sequences, target_baskets: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Slots of all shoppers end to end: place, first and number of the interactions of the next baskets [S]; offsets.

    Shoppers without training interactions have no slot.
    """
    counts = sequences.train_end
    slots = np.where(counts > 0, counts + 1, 0)
    offsets = np.concatenate([[0], np.cumsum(slots)])
    owner = np.repeat(np.arange(len(counts)), slots)
    step = np.arange(offsets[-1]) - offsets[:-1][owner]
    place = sequences.offsets[:-1][owner] + step - 1
    # The basket that follows slot t is the one that follows the basket of interaction t.
    train_stop = (sequences.offsets[:-1] + counts)[owner]
    basket_stop = _basket_stops(sequences)
    next_first = np.where(step == 0, place + 1, basket_stop[place])
    exists = next_first < train_stop
    next_stop = next_first
    for _ in range(target_baskets):
        inside = next_stop < train_stop
        next_stop = np.where(inside, basket_stop[np.where(inside, next_stop, 0)], next_stop)
    next_size = np.where(exists, next_stop - next_first, 0)
    return np.where(step == 0, NONE, place), np.where(exists, next_first, 0), next_size, offsets


def _basket_stops(sequences: Sequences) -> np.ndarray:
    """For each interaction, the interaction after its basket's last: int64 [N]."""
    owner = np.repeat(np.arange(len(sequences.lengths)), sequences.lengths)
    opens = np.ones(len(owner), bool)
    opens[1:] = (owner[1:] != owner[:-1]) | (sequences.baskets[1:] != sequences.baskets[:-1])
    starts = np.append(np.flatnonzero(opens), len(owner))
    return starts[np.cumsum(opens)]


def _cut(offsets: np.ndarray, length: int, newest: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows from each shopper's newest slot backwards: shopper, first slot, slot after.

    Args:
        offsets: int64 [U + 1] of the shoppers' slots.
        length: slots of a window, at most.
        newest: int64 [U] slots of each shopper's newest window, at most.
    """
    counts = np.diff(offsets)
    pieces = np.where(counts > 0, 1 + -(-np.maximum(counts - newest, 0) // length), 0)
    users = np.repeat(np.arange(len(pieces)), pieces)
    number = np.arange(len(users)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    last = offsets[1:][users] - np.where(number == 0, 0, newest[users] + (number - 1) * length)
    size = np.where(number == 0, newest[users], length)
    return users, np.maximum(last - size, offsets[:-1][users]), last
