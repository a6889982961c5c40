"""What every baseline stands on: the training span, popularity where nothing else is known, choice on validation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from scipy import sparse

from trainer.config import EvaluationConfig
from trainer.data import Catalogue, Sequences
from trainer.metrics import mean_ndcg
from trainer.queries import Queries, Split, target_mask
from transform.tables import FIRST

_SECONDS_PER_DAY = 86_400
# Newest interactions of the training span that baselines other than popularity are fitted to: minutes, not hours.
MOST_INTERACTIONS = 5_000_000
# Newest interactions of a session or history that count together: pairs grow with the square.
_LONGEST_UNIT = 500
# Newest interactions of a query's history that count.
_LONGEST_HISTORY = 500

Unit = Literal["session", "history"]
# What becomes of the history's own products: "recommended" for having been there, as where people buy again;
# "as_others", for the sake of other products only; "left_out", behind everything, as where nobody comes back to one.
Seen = Literal["recommended", "as_others", "left_out"]


class Variant(Protocol):
    """One way to build a baseline: a frozen dataclass of settings."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


V = TypeVar("V", bound=Variant)
B = TypeVar("B", bound="Baseline")


class Baseline(Protocol):
    """A scorer that tells how it was set."""

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): float32 [B, V]; higher is better."""

    def settings(self) -> dict[str, Any]:
        """What was chosen on validation."""


class Chosen(NamedTuple, Generic[B]):
    """The best of several variants of a baseline."""

    baseline: B
    ndcg: float  # NDCG@10 on the validation queries that chose it


@dataclass(frozen=True)
class RecentPopularity:
    """The same list for everybody: products by target events in the last days of the training span.

    Equal counts are ordered by the count of the whole span, then by row.
    """

    days: int | None  # None = the whole training span
    order_scores: np.ndarray  # float32 [V], a whole number per place in that order, at most 0

    @classmethod
    def fit(
        cls, sequences: Sequences, catalogue: Catalogue, split: Split, config: EvaluationConfig, days: int | None
    ) -> "RecentPopularity":
        """Counts the interactions of the training span that carry a target type."""
        chosen = training_interactions(sequences) & (sequences.labels & target_mask(config.target_types) != 0)
        everything = np.bincount(sequences.rows[chosen], minlength=catalogue.size)
        recent = everything
        if days is not None and split.validation_start is not None:
            chosen &= sequences.timestamps >= split.validation_start - days * _SECONDS_PER_DAY
            recent = np.bincount(sequences.rows[chosen], minlength=catalogue.size)
        # Equal products share a place, so that the rule for ties is the one of every other ranking.
        pairs, places = np.unique(np.stack([recent, everything], axis=1), axis=0, return_inverse=True)
        return cls(days, (places.reshape(-1) + 1 - len(pairs)).astype(np.float32))

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): float32 [B, V], at most 0."""
        return np.broadcast_to(self.order_scores, (stop - start, len(self.order_scores)))

    def settings(self) -> dict[str, Any]:
        """What was chosen on validation."""
        return {"days": self.days}

    def behind(self, scores: np.ndarray, answered: np.ndarray) -> np.ndarray:
        """Keeps the scores that a baseline can answer for; the other products follow in the order of popularity.

        Args:
            scores: float32 [B, V].
            answered: bool [B, V] or [V].
        """
        # Whole numbers: a fraction added to a large place would be rounded, and with it the order.
        lowest = np.floor(scores.min(axis=1, keepdims=True, initial=0))
        return np.where(answered, scores, lowest - 1 + self.order_scores)


@dataclass(frozen=True)
class Units:
    """Sessions, or whole histories, of the training span, end to end; each the newest 500 of its interactions."""

    rows: np.ndarray  # int32 [N] catalogue rows, in time order within a unit
    owners: np.ndarray  # int64 [N], ascending: the unit of each
    ends: np.ndarray  # int64 [units], seconds: its newest interaction

    @classmethod
    def of(cls, sequences: Sequences, unit: Unit) -> "Units":
        """Units of the interactions that baselines are fitted to (`fitted_interactions`)."""
        chosen = fitted_interactions(sequences)
        shoppers = np.repeat(np.arange(len(sequences.offsets) - 1), sequences.lengths)[chosen]
        sessions = sequences.sessions[chosen] if unit == "session" else np.zeros(len(shoppers), np.int32)
        opens = np.ones(len(shoppers), bool)
        opens[1:] = (shoppers[1:] != shoppers[:-1]) | (sessions[1:] != sessions[:-1])
        owners = np.cumsum(opens) - 1
        stops = np.append(np.flatnonzero(opens)[1:], len(shoppers)) if len(shoppers) else np.zeros(0, np.int64)
        newest = stops[owners] - np.arange(len(shoppers)) <= _LONGEST_UNIT
        return cls(sequences.rows[chosen][newest], owners[newest], sequences.timestamps[chosen][stops - 1])

    def membership(self, size: int) -> sparse.csr_matrix:
        """1 where the unit holds the product: float32 [units, size]."""
        shape = (len(self.ends), size)
        members = sparse.csr_matrix((np.ones(len(self.rows), np.float32), (self.owners, self.rows)), shape)
        members.sum_duplicates()
        members.data[:] = 1
        return members


def training_interactions(sequences: Sequences) -> np.ndarray:
    """Which interactions lie in the training span and name a known product: bool [N]."""
    places = np.arange(len(sequences.rows)) - np.repeat(sequences.offsets[:-1], sequences.lengths)
    return (places < np.repeat(sequences.train_end, sequences.lengths)) & (sequences.rows >= FIRST)


def fitted_interactions(sequences: Sequences) -> np.ndarray:
    """The newest `MOST_INTERACTIONS` of `training_interactions`, bool [N]: what bounds the fitting of a large shop.

    Equal times: the shopper who comes later in the data.
    """
    chosen = training_interactions(sequences)
    places = np.flatnonzero(chosen)
    if len(places) > MOST_INTERACTIONS:
        order = np.argsort(sequences.timestamps[places], kind="stable")
        chosen[places[order[:-MOST_INTERACTIONS]]] = False
    return chosen


def decayed_history(queries: Queries, start: int, stop: int, decay: float) -> sparse.csr_matrix:
    """Histories of the queries [start, stop) with decay^age for each of the newest 500 interactions: float32 [B, V].

    A product that was met several times has the sum of its weights.
    """
    owners, rows, ages = queries.history(start, stop)
    newest = (ages < _LONGEST_HISTORY) & (rows >= FIRST)
    weights = np.float32(decay) ** ages[newest].astype(np.float32)
    shape = (stop - start, len(queries.known_from))
    history = sparse.csr_matrix((weights, (owners[newest], rows[newest])), shape)
    history.sum_duplicates()
    return history


def leave_out_seen(scores: np.ndarray, queries: Queries, start: int, stop: int) -> None:
    """Puts the products of the histories of the queries [start, stop) behind everything else, in place."""
    owners, rows, _ = queries.history(start, stop)
    scores[owners, rows] = scores.min() - 1


def strongest(matrix: sparse.csr_matrix, number: int) -> sparse.csr_matrix:
    """The largest `number` of each row of a positive float32 matrix, among equals the lower columns."""
    matrix.sort_indices()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    # One key per entry, row before value: the bits of a positive float32 ascend with it. Ten times as fast as lexsort.
    descending = np.uint64(0xFFFFFFFF) - matrix.data.view(np.uint32)
    order = np.argsort((rows.astype(np.uint64) << np.uint64(32)) | descending, kind="stable")
    order = order[np.arange(len(order)) - matrix.indptr[rows] < number]
    return sparse.csr_matrix((matrix.data[order], (rows[order], matrix.indices[order])), matrix.shape)


def choose_recent_popularity(
    sequences: Sequences, catalogue: Catalogue, split: Split, config: EvaluationConfig, validations: Sequence[Queries]
) -> list[Chosen[RecentPopularity]]:
    """For each validation the window of `popularity_days`, or the whole span, with the best NDCG@10; and that."""
    windows: list[int | None] = [None]
    if catalogue.schema.has_timestamps and split.validation_start is not None:
        windows += config.popularity_days
    fitted = [RecentPopularity.fit(sequences, catalogue, split, config, days) for days in windows]
    return [max((_measured(one, queries) for one in fitted), key=lambda found: found.ndcg) for queries in validations]


def choose_variant(
    start: V, options: Mapping[str, Sequence[Any]], build: Callable[[V], B], validation: Queries
) -> Chosen[B]:
    """Chooses one setting after the other by NDCG@10 on validation, each with the others as found best so far.

    A tie leaves what was there.

    Args:
        start: the first guess.
        options: for each setting that is chosen, its values, in the order of choosing.
        build: a baseline of a variant; may keep what variants share.
        validation: at least one query.
    """
    best, chosen = start, _measured(build(start), validation)
    for name, values in options.items():
        for variant in [replace(best, **{name: value}) for value in values]:
            if variant != best:
                found = _measured(build(variant), validation)
                if found.ndcg > chosen.ndcg:
                    best, chosen = variant, found
    return chosen


def _measured(baseline: B, queries: Queries) -> Chosen[B]:
    return Chosen(baseline, mean_ndcg(lambda start, stop: baseline.scores(queries, start, stop), queries))
