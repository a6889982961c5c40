"""The questions an evaluation asks: whose history, up to when, and which products are the right answers."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from trainer.config import EvaluationConfig
from trainer.data import Catalogue, Sequences
from trainer.hash_order import hash_order
from transform.tables import EVENT_TYPES, FIRST

Span = Literal["validation", "test"]
Batch = dict[str, np.ndarray]
BLOCK = 256
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Split:
    """Where the transform divided the data; the times are epoch seconds, None without a clock or for leave-one-out."""

    method: Literal["time", "leave_one_out"]
    validation_start: int | None
    test_start: int | None

    def start(self, span: Span) -> int | None:
        """Cut-off of a span, epoch seconds."""
        return self.validation_start if span == "validation" else self.test_start


@dataclass(frozen=True)
class Lists:
    """One list of catalogue rows per query, end to end; query q owns [offsets[q], offsets[q + 1])."""

    offsets: np.ndarray  # int64 [Q + 1]
    rows: np.ndarray  # int32 [T]

    @property
    def lengths(self) -> np.ndarray:
        """Rows per query, int64 [Q]."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> np.ndarray:
        """Query of each row, int64 [T]."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)

    def take(self, queries: np.ndarray) -> "Lists":
        """The lists of the given queries, int64 [n], in that order."""
        rows = _ranges(self.offsets[queries], self.lengths[queries])
        return Lists(_offsets(self.lengths[queries]), self.rows[rows])

    def where(self, keep: np.ndarray) -> "Lists":
        """The same lists with only the rows that `keep`, bool [T], marks."""
        return Lists(_offsets(np.bincount(self.owners[keep], minlength=len(self.offsets) - 1)), self.rows[keep])


@dataclass(frozen=True)
class Queries:
    """Histories with the products that followed.

    A product is a candidate of a query if it was known before the query's cut-off and, where `exclude_seen`, is not
    in the history; a product of the truth is always a candidate.
    """

    sequences: Sequences
    history_length: int
    users: np.ndarray  # int64 [Q]: place in `sequences`
    history_ends: np.ndarray  # int64 [Q]: the history is the shopper's interactions [0, end)
    cut_offs: np.ndarray  # int64 [Q]
    context_timestamps: np.ndarray  # int64 [Q], seconds; 0 without a clock
    # int64 [Q]: the interaction whose device and region the request has; −1 = none. At a cut-off, where nothing is
    # known of the request, the newest of the history; elsewhere the one that is asked for.
    context_places: np.ndarray
    truth: Lists
    exclude_seen: bool
    known_from: np.ndarray  # int64 [V]: a candidate of queries with a later cut-off
    has_timestamps: bool
    # Reported: shoppers, queries, truth, and what was left out, by reason.
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.users)

    def take(self, queries: np.ndarray) -> "Queries":
        """Some of the queries, int64 [n], in that order."""
        return replace(
            self,
            users=self.users[queries],
            history_ends=self.history_ends[queries],
            cut_offs=self.cut_offs[queries],
            context_timestamps=self.context_timestamps[queries],
            context_places=self.context_places[queries],
            truth=self.truth.take(queries),
        )

    def batch(self, start: int, stop: int, size: int | None = None, history_length: int | None = None) -> Batch:
        """Model inputs of the queries [start, stop): int32 and int64 arrays [B, L], left-padded, newest last.

        Args:
            start: first query.
            stop: query after the last.
            size: B; queries with an empty history fill the batch up to it, so that shapes stay static.
            history_length: L, by default the queries' own.
        """
        length = history_length or self.history_length
        size = size or stop - start
        sequences, fill = self.sequences, size - (stop - start)
        first = np.pad(sequences.offsets[self.users[start:stop]], (0, fill))
        end = first + np.pad(self.history_ends[start:stop], (0, fill))
        request = np.pad(self.context_places[start:stop], (0, fill), constant_values=-1)
        places = end[:, None] - length + np.arange(length)
        valid = places >= first[:, None]
        places = np.where(valid, places, 0)
        timestamps = sequences.timestamps[places] if self.has_timestamps else np.int64(0)
        return {
            "history_rows": np.where(valid, sequences.rows[places], 0).astype(np.int32),
            "history_types": np.where(valid, sequences.types[places], 0).astype(np.int32),
            "history_timestamps": np.where(valid, timestamps, 0).astype(np.int64),
            "context_timestamp": np.pad(self.context_timestamps[start:stop], (0, fill)),
            "context_device": np.where(request < 0, 0, sequences.devices[request]).astype(np.int32),
            "context_region": np.where(request < 0, 0, sequences.regions[request]).astype(np.int32),
        }

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, int]]:
        """[start, stop) of consecutive blocks of at most `size` queries."""
        for start in range(0, len(self), size):
            yield start, min(start + size, len(self))

    def history(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whole histories of the queries [start, stop): block row, catalogue row, and age (0 = newest); each [n]."""
        ends = self.history_ends[start:stop]
        places = _ranges(self.sequences.offsets[self.users[start:stop]], ends)
        owners = np.repeat(np.arange(stop - start), ends)
        ages = _offsets(ends)[owners + 1] - 1 - np.arange(len(owners))
        return owners, self.sequences.rows[places], ages

    def own_products(self, start: int, stop: int, candidates: int) -> np.ndarray:
        """What the queries [start, stop) took lately, bool [B, V]: the newest L interactions, at most half of C.

        Where people buy again these are candidates of stage two without being retrieved. None where seen products are
        excluded: the answer itself, which is not, must have no advantage.
        """
        own = np.zeros((stop - start, len(self.known_from)), bool)
        if not self.exclude_seen:
            owners, rows, ages = self.history(start, stop)
            newest = ages < min(self.history_length, candidates // 2)
            own[owners[newest], rows[newest]] = True
        return own

    def excluded(self, start: int, stop: int) -> np.ndarray:
        """Products that are no candidates of the queries [start, stop): bool [B, V]."""
        cut_offs = self.cut_offs[start:stop]
        if len(cut_offs) and (cut_offs == cut_offs[0]).all():
            excluded = np.repeat((self.known_from >= cut_offs[0])[None], len(cut_offs), axis=0)
        else:
            excluded = self.known_from >= cut_offs[:, None]
        if self.exclude_seen:
            owners, rows, _ = self.history(start, stop)
            excluded[owners, rows] = True
            truth = self.truth.take(np.arange(start, stop))
            excluded[truth.owners, truth.rows] = False
        return excluded

    def excluding_seen(self) -> "Queries":
        """The same queries, in the same places, with products of the history neither candidates nor truth.

        A query whose whole truth was seen before stays, with an empty truth.
        """
        size = len(self.known_from)
        owners, rows, _ = self.history(0, len(self))
        seen = np.isin(self.truth.owners * size + self.truth.rows, owners * size + rows)
        truth = self.truth.where(~seen)
        counts = {
            **self.counts,
            "truth": len(truth.rows),
            "truth_seen_before": int(seen.sum()),
            "queries": int((truth.lengths > 0).sum()),
        }
        return replace(self, exclude_seen=True, truth=truth, counts=counts)


def load_split(transform_dir: Path) -> Split:
    """The split that `tandem transform` made, from its statistics.json."""
    split = json.loads((transform_dir / "statistics.json").read_text(encoding="utf-8"))["split"]
    return Split(split["method"], split["validation_start"], split["test_start"])


def build_queries(
    sequences: Sequences,
    catalogue: Catalogue,
    split: Split,
    span: Span,
    config: EvaluationConfig,
    history_length: int,
    *,
    new_visitors: bool = False,
) -> Queries:
    """One query per shopper at the cut-off of a span.

    Time split: the history is everything before the cut-off, the truth the distinct products of the shopper's target
    events in the span, the candidates the products known before the cut-off (a product whose first event is the
    cut-off's own second is not). Truth that was not yet known is dropped and counted. Whether a product is *available*
    is not asked: the catalogue tells it for the day it was written, which would leak what came after the cut-off.

    Leave-one-out: the history is everything before the held-out interaction, the request happens at its time, every
    product is a candidate. Products of the history are always excluded, as in papers that rank in full; the held-out
    product itself never is, as in SASRec's code (Kang & McAuley 2018), which excludes only among the others. RecTools'
    `filter_viewed` would count a repeat as a miss; SASRec's and S3-Rec's files hold no repeats, so there both agree.

    Args:
        sequences: interactions of all shoppers.
        catalogue: all products.
        split: how the transform divided the sequences.
        span: whose events are the truth; the history ends where the span starts.
        config: target types and `exclude_seen`.
        history_length: L of the model batches.
        new_visitors: the shoppers *without* a history instead of those with one.
    """
    starts, stops = _span_ends(sequences, span)
    mask, reached = target_mask(config.target_types), np.zeros(len(sequences.rows), bool)
    places = _ranges(sequences.offsets[:-1] + starts, stops - starts)
    reached[places] = (sequences.labels[places] & mask != 0) & (sequences.rows[places] >= FIRST)
    owners = np.repeat(np.arange(len(starts)), sequences.lengths)
    with_truth = np.bincount(owners[reached], minlength=len(starts)) > 0
    with_history = starts > 0

    users = np.flatnonzero(with_truth & (with_history != new_visitors))
    truth = _distinct(owners[reached], sequences.rows[reached], users, catalogue.size)
    leave_one_out = split.method == "leave_one_out"
    queries = _queries(sequences, catalogue, split, span, history_length, users, starts[users], truth, leave_one_out)
    counts = {
        "shoppers": len(starts),
        "shoppers_with_target_events": int(with_truth.sum()),
        "shoppers_without_history": int((with_truth & ~with_history).sum()),
        **queries.counts,
    }
    queries = replace(queries, counts=counts)
    if leave_one_out:
        return replace(queries, exclude_seen=True)
    return _drop_empty(queries.excluding_seen() if config.exclude_seen else queries)


def build_rolling_queries(
    sequences: Sequences, catalogue: Catalogue, split: Split, span: Span, config: EvaluationConfig, history_length: int
) -> Queries:
    """One query per basket of a span (mostly a single interaction), of `config.rolling_users` hash-drawn shoppers.

    The history is everything before the basket, the truth the distinct products of its target events, the request
    happens at its time, and the candidates are the products known before that. Only for a time split: under
    leave-one-out it would be the same table again.
    """
    starts, stops = _span_ends(sequences, span)
    users = sample_users(sequences, np.flatnonzero(stops > starts), config.rolling_users, config.seed)
    places = _ranges(sequences.offsets[users] + starts[users], (stops - starts)[users])
    owners = np.repeat(users, (stops - starts)[users])
    baskets = sequences.baskets[places]
    opens = np.ones(len(places), bool)
    opens[1:] = (owners[1:] != owners[:-1]) | (baskets[1:] != baskets[:-1])
    query_of = np.cumsum(opens) - 1
    ends = places[opens] - sequences.offsets[owners[opens]]
    target = (sequences.labels[places] & target_mask(config.target_types) != 0) & (sequences.rows[places] >= FIRST)
    kept = np.flatnonzero((np.bincount(query_of[target], minlength=len(ends)) > 0) & (ends > 0))
    truth = _distinct(query_of[target], sequences.rows[places[target]], kept, catalogue.size)
    users_of = owners[opens][kept]
    queries = _queries(sequences, catalogue, split, span, history_length, users_of, ends[kept], truth, True)
    queries = replace(queries, counts={"shoppers": len(users), **queries.counts})
    return _drop_empty(queries.excluding_seen() if config.exclude_seen else queries)


def validation_queries(
    transform_dir: Path,
    sequences: Sequences,
    catalogue: Catalogue,
    history_length: int,
    max_users: int,
    evaluation: EvaluationConfig | None = None,
) -> Queries:
    """Queries that choose the epoch in training: the validation span, at most `max_users` shoppers (0 = all).

    Args:
        transform_dir: output of `tandem transform`.
        sequences: interactions of all shoppers.
        catalogue: all products.
        history_length: L of the model batches.
        max_users: shoppers, drawn by a hash.
        evaluation: target types, `exclude_seen` and seed: the protocol by which the models are judged in the end, so
            that the epoch is chosen by the same question. None = the shipped defaults.

    Raises:
        ValueError: no shopper has both a history and a later event that is asked for.
    """
    config = evaluation or EvaluationConfig()
    queries = build_queries(sequences, catalogue, load_split(transform_dir), "validation", config, history_length)
    if not len(queries):
        raise ValueError(
            f"{transform_dir}: no shopper has interactions both in the training and in the validation span that are "
            f"asked for, received {queries.counts}. Move split.validation_start, widen evaluation.target_types, set "
            "evaluation.exclude_seen = false or give more data."
        )
    kept = sample_users(sequences, queries.users, max_users, config.seed)
    return queries.take(np.flatnonzero(np.isin(queries.users, kept)))


def sample_users(sequences: Sequences, users: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """At most `limit` (0 = all) of `users`, int64 [n], drawn by a hash of the shopper's id; sorted.

    The same shopper is drawn in every process and on every machine, whoever else is in the data.
    """
    if not limit or len(users) <= limit:
        return users
    return np.sort(users[hash_order(sequences.user_ids[users], seed)[:limit]])


def _queries(
    sequences: Sequences,
    catalogue: Catalogue,
    split: Split,
    span: Span,
    history_length: int,
    users: np.ndarray,
    ends: np.ndarray,
    truth: Lists,
    request_is_known: bool,
) -> Queries:
    """Queries without exclusion of seen products; truth that was not known at the cut-off is dropped and counted.

    Args:
        sequences: interactions of all shoppers.
        catalogue: all products.
        split: how the transform divided the sequences.
        span: whose start is the cut-off.
        history_length: L.
        users: int64 [Q].
        ends: int64 [Q].
        truth: of Q queries.
        request_is_known: the request happens with the interaction after the history, at its time and on its device;
            otherwise at the start of the span.
    """
    has_timestamps, start = catalogue.schema.has_timestamps, split.start(span)
    following = sequences.offsets[users] + ends
    context = np.zeros(len(users), np.int64)
    if has_timestamps:
        context = sequences.timestamps[following] if request_is_known else np.full(len(users), start, np.int64)
    places = following if request_is_known else np.where(ends > 0, following - 1, -1)
    if split.method == "time" and has_timestamps:
        known_from, cut_offs = catalogue.known_from.copy(), context
    else:
        # No product has a date before which it could not have been recommended.
        known_from, cut_offs = np.zeros(catalogue.size, np.int64), np.ones(len(users), np.int64)
    known_from[:FIRST] = _NEVER
    known = known_from[truth.rows] < cut_offs[truth.owners]
    kept = truth.where(known)
    counts = {"truth": int(known.sum()), "truth_not_yet_known": int((~known).sum())}
    counts["queries"] = int((kept.lengths > 0).sum())
    return Queries(
        sequences,
        history_length,
        users,
        ends,
        cut_offs,
        context,
        places,
        kept,
        False,
        known_from,
        has_timestamps,
        counts,
    )


def _drop_empty(queries: Queries) -> Queries:
    return queries.take(np.flatnonzero(queries.truth.lengths > 0))


def _span_ends(sequences: Sequences, span: Span) -> tuple[np.ndarray, np.ndarray]:
    """[start, stop) of a span, counted from each shopper's first interaction; int64 [U] each."""
    if span == "validation":
        return sequences.train_end, sequences.validation_end
    return sequences.validation_end, sequences.lengths


def target_mask(target_types: Sequence[str]) -> int:
    """Bit mask of the event types whose events are the truth; every bit if none is named."""
    unknown = sorted(set(target_types) - set(EVENT_TYPES))
    if unknown:
        raise ValueError(
            f"evaluation.target_types must be event types, received {unknown[0]!r}. Known: {', '.join(EVENT_TYPES)}."
        )
    return sum(1 << EVENT_TYPES[name] for name in set(target_types)) if target_types else -1


def _distinct(owners: np.ndarray, rows: np.ndarray, keep: np.ndarray, size: int) -> Lists:
    """Distinct rows of each owner in `keep` (sorted), renumbered from 0; rows ascend within a list."""
    kept = np.isin(owners, keep)
    pairs = np.unique(np.searchsorted(keep, owners[kept]) * np.int64(size) + rows[kept])
    return Lists(_offsets(np.bincount(pairs // size, minlength=len(keep))), (pairs % size).astype(np.int32))


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers of the ranges [start, start + length), end to end."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
