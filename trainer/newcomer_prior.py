"""For those of whom nothing is known: recent popularity, told apart by device, region and hour where that helps."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from trainer.baselines import RecentPopularity, training_interactions
from trainer.config import EvaluationConfig
from trainer.data import Catalogue, Sequences
from trainer.metrics import LIST_LENGTH
from trainer.queries import Span, Split, sample_users, target_mask
from transform.feature_schema import clock_features
from transform.tables import FIRST

log = logging.getLogger(__name__)

DEVICE, REGION, HOUR = "device", "region", "hour"
SECONDS_PER_BUCKET = 6 * 3_600
BUCKETS_PER_DAY = 4
# Values of a feature that are told apart, the most frequent ones; a shop can have thousands of regions.
_LARGEST = 64
# Pseudo-counts α that are tried: how many interactions of a segment weigh as much as what is known of the whole shop.
_STRENGTHS = (30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
# Most popular products of all that are in the pool.
_POPULAR = 500
# Products of each value, beside the popular ones, whose deviation is kept.
_POOL_PER_VALUE = 200
# Gains of a choice among some forty that are taken for more than chance, in standard errors.
_STANDARD_ERRORS = 2.0
_FEWEST_VISITORS = 50
_MOST_VISITORS = 5_000
# Weight of the whole span in the overall shares: less than one recent interaction, so that it decides ties alone.
_WHOLE_SPAN = 0.5


@dataclass(frozen=True)
class Factor:
    """One feature of the request and what it changes; value 0 is unknown and changes nothing."""

    name: str  # DEVICE, REGION or HOUR
    # int32 [ids]: id of the context feature's vocabulary → value; of HOUR bucket + 1 → value, 0 = no time.
    value_of: np.ndarray
    # float32 [values, P + 1]: log of how much likelier each product of the pool is; the last column, of every other
    # product, is 0.
    log_odds: np.ndarray

    def values(self, ids: np.ndarray) -> np.ndarray:
        """Values of ids, int [n]; 0 for an id beyond those that were counted."""
        counted = ids < len(self.value_of)
        return np.where(counted, self.value_of[np.where(counted, ids, 0)], 0)


@dataclass(frozen=True)
class NewcomerPrior:
    """score(v | request) = scores[v] + Σ over factors of log_odds[value of the request, v]."""

    scores: np.ndarray  # float32 [V]
    pool: np.ndarray  # int32 [P] catalogue rows whose score may change
    factors: tuple[Factor, ...] = ()


@dataclass(frozen=True)
class Requests:
    """What is known of n requests or interactions: ids of the vocabularies (0 = absent), seconds (0 = no clock)."""

    devices: np.ndarray  # int32 [n]
    regions: np.ndarray  # int32 [n]
    timestamps: np.ndarray  # int64 [n]

    def ids(self, name: str) -> np.ndarray:
        """The feature's ids, int [n]; of HOUR bucket of the day (UTC) + 1."""
        if name == HOUR:
            return np.where(self.timestamps > 0, 1 + self.timestamps // SECONDS_PER_BUCKET % BUCKETS_PER_DAY, 0)
        return self.devices if name == DEVICE else self.regions


@dataclass(frozen=True)
class FirstTakes:
    """The first target interaction of shoppers without a history."""

    rows: np.ndarray  # int32 [Q] catalogue rows
    requests: Requests  # of Q


@dataclass(frozen=True)
class _Counts:
    """Target interactions of the window that the recent-popularity baseline was given."""

    rows: np.ndarray  # int32 [n]
    requests: Requests
    # float64 [V], of sum 1 over the products: (recent + ½ · share of the whole span + …) ÷ …; never 0
    shares: np.ndarray
    order: np.ndarray  # int32 [V − FIRST] rows, most popular first


def choose_newcomer_prior(
    sequences: Sequences,
    catalogue: Catalogue,
    split: Split,
    config: EvaluationConfig,
    popularity: RecentPopularity,
) -> tuple[NewcomerPrior, dict[str, Any]]:
    """The prior with the best NDCG@10 of what new visitors of the validation span took first.

    Overall popularity is smoothed into each value f of a feature as an empirical Bayes prior (Dirichlet):
    p(v | f) = (count_f(v) + α · p(v)) / (n_f + α), and the features of a request count as independent:
    log p(v | request) = log p(v) + Σ_f log p(v | f) − log p(v), up to a constant. A division is taken only if its gain
    over overall popularity is twice the standard error of the difference, paired over visitors.

    Args:
        sequences: interactions of all shoppers; the window of the training span is counted.
        catalogue: all products.
        split: where the spans begin.
        config: target types and seed.
        popularity: the baseline whose window is counted, and whose order holds where nothing is known.

    Returns:
        The prior, and what was tried and measured, for reports.
    """
    clock = HOUR in clock_features(catalogue.schema)
    counts = _counts(sequences, catalogue, split, config, popularity.days)
    overall = NewcomerPrior(popularity.order_scores, counts.order[:_POPULAR])
    takes = first_takes(sequences, "validation", config, clock)
    report: dict[str, Any] = {
        "window_days": popularity.days,
        "visitors": len(takes.rows),
        "chosen": {"by": [], "strength": None},
    }
    names = _told(counts.requests)
    if not names or len(takes.rows) < _FEWEST_VISITORS:
        why = f"{len(takes.rows)} new visitors in validation, {_FEWEST_VISITORS} are needed"
        why = why if names else "requests tell neither device nor region nor time"
        log.info("export: new visitors get overall popularity: %s", why)
        return overall, report | {"reason": why}
    plain = first_take_ndcg(_segmented(counts, (), 0.0), takes)
    settings = [
        (by, strength)
        for number in range(1, len(names) + 1)
        for by in combinations(names, number)
        for strength in _STRENGTHS
    ]
    tried = []
    for by, strength in settings:
        gains = first_take_ndcg(_segmented(counts, by, strength), takes) - plain
        tried.append((float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains))), by, strength))
    gain, error, by, strength = max(tried)
    kept = gain > _STANDARD_ERRORS * error
    found = {"by": list(by), "strength": strength, "gain": gain, "standard_error": error}
    report |= {"best": found, "chosen": {"by": list(by), "strength": strength} if kept else report["chosen"]}
    log.info(
        "export: new visitors, validation NDCG@10 of the first take %.4f overall, %+.4f ± %.4f by %s (α = %g): %s",
        *(plain.mean(), gain, error, " × ".join(by), strength),
        "kept" if kept else "within chance, overall popularity is kept",
    )
    best = _segmented(counts, by, strength)
    spans: tuple[Span, ...] = ("validation", "test")
    for span in spans:
        asked = first_takes(sequences, span, config, clock)
        if len(asked.rows):
            report[span] = {
                "visitors": len(asked.rows),
                "overall": float(first_take_ndcg(_segmented(counts, (), 0.0), asked).mean()),
                "by_segment": float(first_take_ndcg(best, asked).mean()),
            }
    return (best if kept else overall), report


def first_takes(sequences: Sequences, span: Span, config: EvaluationConfig, clock: bool) -> FirstTakes:
    """Of shoppers whose first interaction of all lies in the span (at most 5,000, drawn by a hash of the shopper).

    Args:
        sequences: interactions of all shoppers.
        span: where they come for the first time.
        config: target types and seed.
        clock: whether timestamps are seconds, not an order, and are to be read.
    """
    starts = sequences.train_end if span == "validation" else sequences.validation_end
    stops = sequences.validation_end if span == "validation" else sequences.lengths
    users = sample_users(sequences, np.flatnonzero((starts == 0) & (stops > 0)), _MOST_VISITORS, config.seed)
    target = (sequences.labels & target_mask(config.target_types) != 0) & (sequences.rows >= FIRST)
    places = np.flatnonzero(target)
    first = np.searchsorted(places, sequences.offsets[users])
    inside = first < len(places)
    users, found = users[inside], places[first[inside]]
    found = found[found < sequences.offsets[users] + stops[users]]
    return FirstTakes(sequences.rows[found], _requests(sequences, found, clock))


def first_take_ndcg(prior: NewcomerPrior, takes: FirstTakes) -> np.ndarray:
    """NDCG@10 of each visitor's only right product among all products: 1 / log₂(1 + rank), 0 beyond 10; float64 [Q].

    A product outside of the prior's pool counts as missed. Of equal scores the one that stands first in the pool is
    ranked first.
    """
    place_of = np.full(len(prior.scores), -1)
    place_of[prior.pool] = np.arange(len(prior.pool))
    places = place_of[takes.rows]
    values = np.zeros((len(takes.rows), len(prior.factors)), np.int64)
    for column, factor in enumerate(prior.factors):
        values[:, column] = factor.values(takes.requests.ids(factor.name))
    kinds, kind_of = np.unique(values, axis=0, return_inverse=True)
    gains = np.zeros(len(takes.rows))
    for number, kind in enumerate(kinds):
        scores = prior.scores[prior.pool].astype(np.float64)
        for factor, value in zip(prior.factors, kind, strict=True):
            scores = scores + factor.log_odds[value, :-1]
        best = np.argsort(-scores, kind="stable")[:LIST_LENGTH]
        asked = np.flatnonzero(kind_of.reshape(-1) == number)
        hit, rank = np.nonzero(places[asked, None] == best[None, :])
        gains[asked[hit]] = 1 / np.log2(2.0 + rank)
    return gains


def _counts(
    sequences: Sequences, catalogue: Catalogue, split: Split, config: EvaluationConfig, days: int | None
) -> _Counts:
    chosen = training_interactions(sequences) & (sequences.labels & target_mask(config.target_types) != 0)
    whole = np.bincount(sequences.rows[chosen], minlength=catalogue.size)
    if days is not None and split.validation_start is not None:
        chosen &= sequences.timestamps >= split.validation_start - days * 86_400
    places = np.flatnonzero(chosen)
    recent = np.bincount(sequences.rows[places], minlength=catalogue.size)
    weights = recent + _WHOLE_SPAN * (whole + 1) / (whole.sum() + catalogue.size)
    weights[:FIRST] = 0
    order = FIRST + np.argsort(-weights[FIRST:], kind="stable")
    shares = weights / weights.sum()
    clock = HOUR in clock_features(catalogue.schema)
    return _Counts(sequences.rows[places], _requests(sequences, places, clock), shares, order.astype(np.int32))


def _requests(sequences: Sequences, places: np.ndarray, clock: bool) -> Requests:
    times = sequences.timestamps[places]
    return Requests(sequences.devices[places], sequences.regions[places], times if clock else np.zeros_like(times))


def _told(requests: Requests) -> tuple[str, ...]:
    """Features of which at least two values are known."""
    known = {name: np.unique(requests.ids(name)) for name in (DEVICE, REGION, HOUR)}
    first = {DEVICE: FIRST, REGION: FIRST, HOUR: 1}
    return tuple(name for name, ids in known.items() if (ids >= first[name]).sum() > 1)


def _segmented(counts: _Counts, by: Sequence[str], strength: float) -> NewcomerPrior:
    """The prior that tells the features `by` apart, with α = `strength`."""
    shares = counts.shares
    tables, picked = [], [counts.order[:_POPULAR]]
    for name in by:
        ids = counts.requests.ids(name)
        known, numbers = np.unique(ids[ids >= (1 if name == HOUR else FIRST)], return_counts=True)
        kept = np.sort(known[np.argsort(-numbers, kind="stable")[:_LARGEST]])
        value_of = np.zeros(max(int(ids.max(initial=0)), BUCKETS_PER_DAY) + 1, np.int32)
        value_of[kept] = 1 + np.arange(len(kept))
        values = value_of[ids]
        deviations = []
        for value in range(1, len(kept) + 1):
            own = np.bincount(counts.rows[values == value], minlength=len(shares))
            rows = np.flatnonzero(own)
            smoothed = (own[rows] + strength * shares[rows]) / (own.sum() + strength)
            # Products that the segment never took are less likely there, all by the same factor.
            never = np.log(strength / (own.sum() + strength))
            deviations.append((rows, np.log(smoothed / shares[rows]), never))
            best = np.argsort(-smoothed, kind="stable")[:_POOL_PER_VALUE]
            picked.append(rows[best])
        tables.append((name, value_of, deviations))
    wanted = np.zeros(len(shares), bool)
    for rows in picked:
        wanted[rows] = True
    pool = counts.order[wanted[counts.order]]
    with np.errstate(divide="ignore"):
        scores = np.log(shares)
    # The reserved rows are never answered; finite, so that nothing that is added to them is undefined.
    scores[:FIRST] = scores[FIRST:].min() - 1
    factors = tuple(Factor(name, value_of, _log_odds(deviations, pool)) for name, value_of, deviations in tables)
    return NewcomerPrior(scores.astype(np.float32), pool, factors)


def _log_odds(deviations: Sequence[tuple[np.ndarray, np.ndarray, float]], pool: np.ndarray) -> np.ndarray:
    """Lines of `Factor.log_odds`.

    Each is shifted so that a product which the segment never took has 0, as the products outside of the pool have:
    the shift is the same for all products of a request and moves none.
    """
    table = np.zeros((len(deviations) + 1, len(pool) + 1), np.float32)
    order = np.argsort(pool)
    for line, (rows, values, never) in enumerate(deviations, start=1):
        found = np.isin(rows, pool)
        table[line, order[np.searchsorted(pool, rows[found], sorter=order)]] = values[found] - never
    return table
