"""From ranks and lists to the figures of one protocol, as they stand in metrics.json."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse

from trainer.config import EvaluationConfig
from trainer.data import Catalogue
from trainer.metrics import (
    COVERAGE_LENGTH,
    LIST_LENGTH,
    bootstrap,
    coverage,
    diversity,
    ndcg,
    novelty,
    ranking_metrics,
    recall,
)
from trainer.rank_systems import RANKER, RETRIEVAL, TWO_STAGE, Protocol

ATTAINABLE = "attainable"
_STAGES = (RETRIEVAL, RANKER, TWO_STAGE)
_HEADLINE = f"ndcg@{LIST_LENGTH}"
# Interactions before the cut-off: lowest of each class.
_HISTORY_CLASSES = {"1-4": 1, "5-19": 5, "20-99": 20, "100+": 100}
# Shares of the training interactions that the most popular products make up.
_HEAD, _MID = 0.5, 0.8
POPULARITY_CLASSES = ("head", "mid", "tail", "new")


def protocol_report(
    protocol: Protocol, catalogue: Catalogue, content: sparse.csr_matrix | None, config: EvaluationConfig
) -> dict[str, Any]:
    """Metrics and 95 % intervals of every system, and of two stages minus every other.

    Args:
        protocol: queries without truth are left out.
        catalogue: for popularity.
        content: of `content_vectors`, for diversity.
        config: cut-offs, resamples, seed.

    Returns:
        {"queries", "retrieval", "ranker", "two_stage", "baselines": {name: …}, "attainable", "differences"}, the
        systems that there are; None for a metric that is not defined.
    """
    measured = _measure(protocol, catalogue, content, config)
    asked = np.flatnonzero(protocol.queries.truth.lengths > 0)
    values = {f"{system}|{name}": array for system, metrics in measured.items() for name, array in metrics.items()}
    others = [system for system in measured if system not in (TWO_STAGE, ATTAINABLE)] if TWO_STAGE in measured else []
    for system in others:
        for name, array in measured[TWO_STAGE].items():
            values[f"{TWO_STAGE}-{system}|{name}"] = array - measured[system][name]
    intervals = bootstrap(values, protocol.queries.users[asked], config.bootstrap_samples, config.seed)

    report: dict[str, dict[str, Any]] = {}
    for system, metrics in measured.items():
        figures: dict[str, Any] = {name: _mean(array) for name, array in metrics.items()}
        lists = protocol.systems[system].lists[asked]
        figures[f"coverage@{COVERAGE_LENGTH}"] = coverage(lists, protocol.reachable)
        figures["intervals"] = {
            name: list(intervals[f"{system}|{name}"]) for name in metrics if figures[name] is not None
        }
        report[system] = figures
    differences = {
        system: {
            name: {"difference": difference, "interval": list(intervals[f"{TWO_STAGE}-{system}|{name}"])}
            for name in measured[TWO_STAGE]
            if (difference := _mean(values[f"{TWO_STAGE}-{system}|{name}"])) is not None
        }
        for system in others
    }
    return {"queries": len(asked), **_arranged(report), "differences": differences}


def attainable_shares(report: dict[str, Any]) -> dict[str, float]:
    """NDCG@10 of every system as a share of the best attainable; `report` is one of `protocol_report`."""
    best = report[ATTAINABLE][_HEADLINE]
    systems = {name: report[name] for name in _STAGES if name in report} | report["baselines"]
    return {name: figures[_HEADLINE] / best for name, figures in systems.items()} if best else {}


def segment_report(protocol: Protocol, catalogue: Catalogue) -> dict[str, dict[str, Any]]:
    """recall@10 and ndcg@10 within groups, per system: {system: {segment: {group: {"queries", …}}}}.

    Segment "history_length" groups shoppers by their interactions before the cut-off. Segment "item_popularity" asks
    for the part of the truth in one class of products, at its rank among *all* candidates: head (the most popular that
    make up half of the training interactions), mid (the next 30 %), tail, and new (none in training).
    """
    truth = protocol.queries.truth
    lengths = np.searchsorted(list(_HISTORY_CLASSES.values()), protocol.queries.history_ends, side="right") - 1
    classes = popularity_classes(catalogue.train_counts)[truth.rows]
    groups: dict[str, dict[str, np.ndarray]] = {
        "history_length": {name: lengths[truth.owners] == i for i, name in enumerate(_HISTORY_CLASSES)},
        "item_popularity": {name: classes == i for i, name in enumerate(POPULARITY_CLASSES)},
    }
    return {
        system: {
            segment: {name: truth_metrics(protocol, system, kept) for name, kept in parts.items()}
            for segment, parts in groups.items()
        }
        for system in protocol.systems
    }


def truth_metrics(protocol: Protocol, system: str, kept: np.ndarray) -> dict[str, Any]:
    """recall@10 and ndcg@10 of a system for the part of the truth that `kept`, bool [T], marks."""
    part, ranks = protocol.queries.truth.where(kept), protocol.systems[system].ranks[kept]
    asked = np.flatnonzero(part.lengths)
    if not len(asked):
        return {"queries": 0}
    part = part.take(asked)
    return {
        "queries": len(asked),
        "truth": len(ranks),
        f"recall@{LIST_LENGTH}": _mean(recall(ranks, part, LIST_LENGTH)),
        _HEADLINE: _mean(ndcg(ranks, part, LIST_LENGTH)),
    }


def cold_start_report(protocol: Protocol, catalogue: Catalogue) -> dict[str, Any]:
    """How products are found that nobody had met in the training span: truth of that kind alone, among everything."""
    new = (catalogue.train_counts == 0)[protocol.queries.truth.rows]
    figures = {system: truth_metrics(protocol, system, new) for system in protocol.systems}
    return {"truth": int(new.sum()), "truth_share": float(new.mean()), **_arranged(figures)}


def popularity_classes(train_counts: np.ndarray) -> np.ndarray:
    """Class of each product, a place in POPULARITY_CLASSES: int64 [V]. Equal counts: the lower row is more popular."""
    order = np.argsort(-train_counts, kind="stable")
    before = np.cumsum(train_counts[order]) - train_counts[order]
    classes = np.empty(len(train_counts), np.int64)
    classes[order] = np.searchsorted(np.array([_HEAD, _MID]) * train_counts.sum(), before, side="right")
    classes[train_counts == 0] = POPULARITY_CLASSES.index("new")
    return classes


def _measure(
    protocol: Protocol, catalogue: Catalogue, content: sparse.csr_matrix | None, config: EvaluationConfig
) -> dict[str, dict[str, np.ndarray]]:
    """System → metric → float64 [Q'], over the queries that have truth."""
    asked = np.flatnonzero(protocol.queries.truth.lengths > 0)
    truth = protocol.queries.truth.take(asked)
    measured = {}
    for system, ranked in protocol.systems.items():
        lists = ranked.lists[asked, :LIST_LENGTH]
        values = ranking_metrics(ranked.ranks, truth, protocol.candidates[asked], config.cutoffs)
        values[f"novelty@{LIST_LENGTH}"] = novelty(lists, catalogue.train_counts)
        if content is not None:
            values[f"diversity@{LIST_LENGTH}"] = diversity(lists, content)
        measured[system] = values
    return measured


def _arranged(systems: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Baselines under one key, the stages and the attainable beside it."""
    beside = {name: figures for name, figures in systems.items() if name in (*_STAGES, ATTAINABLE)}
    return {**beside, "baselines": {name: figures for name, figures in systems.items() if name not in beside}}


def _mean(values: np.ndarray) -> float | None:
    """Mean over the queries for which the metric is defined; None if there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
