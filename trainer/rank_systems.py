"""Ranks every system on the same queries, each system's scores computed once for all protocols."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.metrics import COVERAGE_LENGTH
from trainer.queries import Lists, Queries
from trainer.ranking import candidate_rows, order_keys, rank_truth, reordered_keys, top_rows, two_stage_keys
from trainer.scorers import HeadScorer, Scorer

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 5.0
RETRIEVAL, RANKER, TWO_STAGE = "retrieval", "ranker", "two_stage"


@dataclass(frozen=True)
class Ranked:
    """What one system did with the queries of one protocol."""

    ranks: np.ndarray  # int64 [T], of the truth
    lists: np.ndarray  # int32 [Q, 100], the first hundred rows; 0 = none
    # Group → int64 [T]: ranks among the products of the group alone; 0 = not of the group.
    group_ranks: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """One set of queries and what every system did with it."""

    queries: Queries
    candidates: np.ndarray  # int64 [Q], products that were ranked
    reachable: np.ndarray  # bool [V], products that were a candidate of some query
    systems: dict[str, Ranked]


def rank_systems(
    name: str,
    variants: Sequence[tuple[Queries, Mapping[str, Scorer]]],
    candidates: int,
    block: int,
    head: HeadScorer | None = None,
    groups: Mapping[str, np.ndarray] | None = None,
) -> list[Protocol]:
    """Ranks the candidates of every query by every system, and by both stages together if both are there.

    Args:
        name: for the log.
        variants: the same shoppers and histories with other truth or exclusions, each with its systems by name. A
            scorer that several variants share is asked once.
        candidates: C, what stage one hands to stage two.
        block: queries at once.
        head: orders the candidates of both stages together; without one they stand in the ranker's order.
        groups: name → bool [V], products whose truth is also ranked among them alone: the same order, all others taken
            out.

    Returns:
        One protocol per variant.
    """
    first = variants[0][0]
    pieces = [_Pieces(len(queries.known_from), head, groups or {}) for queries, _ in variants]
    started = said = time.monotonic()
    for start, stop in first.blocks(block):
        distinct = {id(scorer): scorer for _, scorers in variants for scorer in scorers.values()}
        scores = {key: scorer.scores(first, start, stop) for key, scorer in distinct.items()}
        for (queries, scorers), piece in zip(variants, pieces, strict=True):
            own = {system: scores[id(scorer)] for system, scorer in scorers.items()}
            piece.add(own, queries, start, stop, candidates)
        now = time.monotonic()
        if now - said > _SECONDS_BETWEEN_LINES or stop == len(first):
            left = (now - started) / stop * (len(first) - stop)
            _LOG.info("evaluate %s: %d of %d queries, %.0f s left", name, stop, len(first), left)
            said = now
    return [piece.protocol(queries) for piece, (queries, _) in zip(pieces, variants, strict=True)]


class _Pieces:
    """What the blocks of one variant gave so far."""

    def __init__(self, size: int, head: HeadScorer | None, groups: Mapping[str, np.ndarray]) -> None:
        self.head = head
        self.groups = groups
        self.candidates: list[np.ndarray] = []
        self.reachable = np.zeros(size, bool)
        self.ranks: dict[str, list[np.ndarray]] = {}
        self.lists: dict[str, list[np.ndarray]] = {}
        self.group_ranks: dict[str, dict[str, list[np.ndarray]]] = {}

    def add(self, scores: Mapping[str, np.ndarray], queries: Queries, start: int, stop: int, candidates: int) -> None:
        excluded = queries.excluded(start, stop)
        truth = queries.truth.take(np.arange(start, stop))
        self.candidates.append((~excluded).sum(axis=1))
        self.reachable |= ~excluded.all(axis=0)
        keys = {system: order_keys(values, excluded) for system, values in scores.items()}
        if RETRIEVAL in keys and RANKER in keys:
            chosen = queries.own_products(start, stop, candidates)
            if self.head is None:
                keys[TWO_STAGE] = two_stage_keys(keys[RETRIEVAL], keys[RANKER], chosen, candidates)
            else:
                rows = candidate_rows(keys[RETRIEVAL], chosen, candidates)
                given = (np.take_along_axis(scores[stage], rows, axis=1) for stage in (RANKER, RETRIEVAL))
                keys[TWO_STAGE] = reordered_keys(keys[RETRIEVAL], rows, self.head.scores(queries, start, rows, *given))
        for system, own in keys.items():
            self.ranks.setdefault(system, []).append(rank_truth(own, truth))
            self.lists.setdefault(system, []).append(top_rows(own, COVERAGE_LENGTH))
            within = self.group_ranks.setdefault(system, {})
            for name, group in self.groups.items():
                within.setdefault(name, []).append(_ranks_within(group, own, truth))

    def protocol(self, queries: Queries) -> Protocol:
        systems = {
            system: Ranked(
                np.concatenate(ranks),
                np.concatenate(self.lists[system]),
                {name: np.concatenate(found) for name, found in self.group_ranks[system].items()},
            )
            for system, ranks in self.ranks.items()
        }
        return Protocol(queries, np.concatenate(self.candidates), self.reachable, systems)


def _ranks_within(group: np.ndarray, keys: np.ndarray, truth: Lists) -> np.ndarray:
    """Ranks of the truth among the products that `group`, bool [V], marks: int64 [T], 0 = not of the group."""
    ranks = np.zeros(len(truth.rows), np.int64)
    own = group[truth.rows]
    part, rows = truth.where(own), np.flatnonzero(group)
    asked = np.flatnonzero(part.lengths)
    if len(asked):
        part = part.take(asked)
        columns = Lists(part.offsets, np.searchsorted(rows, part.rows).astype(np.int32))
        ranks[own] = rank_truth(keys[np.ix_(asked, rows)], columns)
    return ranks
