"""From ranks and lists to the figures of one protocol, as they stand in metrics.json."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse

from trainer.bootstrap import Part, intervals, resampled_means
from trainer.config import EvaluationConfig
from trainer.data import Catalogue
from trainer.metrics import (
    COVERAGE_LENGTH,
    LIST_LENGTH,
    average_popularity,
    class_shares,
    coverage,
    diversity,
    exposures,
    gini,
    novelty,
    ranking_metrics,
)
from trainer.rank_systems import RANKER, RETRIEVAL, TWO_STAGE, Protocol
from trainer.segments import (
    HISTORY_LENGTH,
    ITEM_POPULARITY,
    NDCG,
    POPULARITY_CLASSES,
    Grouping,
    part_metrics,
    popularity_classes,
)

ATTAINABLE = "attainable"
_STAGES = (RETRIEVAL, RANKER, TWO_STAGE)


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
        systems that there are; None for a metric that is not defined. "popularity_classes" says how the candidates and
        the truth divide into classes, beside which a system's "head_share@10" … are to be read.
    """
    measured = query_metrics(protocol, catalogue, content, config)
    asked = np.flatnonzero(protocol.queries.truth.lengths > 0)
    means = _resampled(measured, protocol.queries.users[asked], config)
    report: dict[str, dict[str, Any]] = {}
    for system, metrics in measured.items():
        figures: dict[str, Any] = {name: _mean(array) for name, array in metrics.items()}
        figures.update(_of_all_lists(protocol, system, asked))
        defined = [name for name in metrics if figures[name] is not None]
        figures["intervals"] = _ends(means[system], list(metrics), defined)
        report[system] = figures
    return {
        "queries": len(asked),
        **arranged(report),
        "differences": _differences(measured, means),
        "popularity_classes": _class_sizes(protocol, catalogue),
    }


def query_metrics(
    protocol: Protocol, catalogue: Catalogue, content: sparse.csr_matrix | None, config: EvaluationConfig
) -> dict[str, dict[str, np.ndarray]]:
    """System → metric → float64 [Q'], over the queries that have truth. The same metrics for every system.

    Args:
        protocol: what every system did.
        catalogue: for popularity.
        content: of `content_vectors`, for diversity.
        config: cut-offs.
    """
    asked = np.flatnonzero(protocol.queries.truth.lengths > 0)
    truth = protocol.queries.truth.take(asked)
    classes = popularity_classes(catalogue.train_counts)
    measured = {}
    for system, ranked in protocol.systems.items():
        lists = ranked.lists[asked, :LIST_LENGTH]
        values = ranking_metrics(ranked.ranks, truth, protocol.candidates[asked], config.cutoffs)
        values[f"novelty@{LIST_LENGTH}"] = novelty(lists, catalogue.train_counts)
        if content is not None:
            values[f"diversity@{LIST_LENGTH}"] = diversity(lists, content)
        values[f"popularity@{LIST_LENGTH}"] = average_popularity(lists, catalogue.train_counts)
        shares = class_shares(lists, classes, len(POPULARITY_CLASSES))
        for place, name in enumerate(POPULARITY_CLASSES):
            values[f"{name}_share@{LIST_LENGTH}"] = shares[:, place]
        measured[system] = values
    return measured


def attainable_shares(report: dict[str, Any]) -> dict[str, float]:
    """NDCG@10 of every system as a share of the best attainable; `report` is one of `protocol_report`."""
    best = report[ATTAINABLE][NDCG]
    systems = {name: report[name] for name in _STAGES if name in report} | report["baselines"]
    return {name: figures[NDCG] / best for name, figures in systems.items()} if best else {}


def segment_report(protocol: Protocol, groupings: Mapping[str, Grouping]) -> dict[str, dict[str, Any]]:
    """recall@10 and ndcg@10 by shoppers' history length and by products' popularity.

    Returns:
        {system: {"history_length" | "item_popularity": {group: {"queries", …}}}}.
    """
    return {
        system: {
            attribute: {
                name: truth_metrics(protocol, system, grouping.groups == place)
                for place, name in enumerate(grouping.names)
            }
            for attribute, grouping in groupings.items()
            if attribute in (HISTORY_LENGTH, ITEM_POPULARITY)
        }
        for system in protocol.systems
    }


def truth_metrics(protocol: Protocol, system: str, kept: np.ndarray) -> dict[str, Any]:
    """recall@10 and ndcg@10 of a system for the part of the truth that `kept`, bool [T], marks."""
    asked, values = part_metrics(protocol, system, kept)
    if not len(asked):
        return {"queries": 0}
    means = {name: _mean(array) for name, array in values.items()}
    return {"queries": len(asked), "truth": int(kept.sum()), **means}


def arranged(systems: Mapping[str, Any]) -> dict[str, Any]:
    """Baselines under one key, the stages and the attainable beside it."""
    beside = {name: figures for name, figures in systems.items() if name in (*_STAGES, ATTAINABLE)}
    return {**beside, "baselines": {name: figures for name, figures in systems.items() if name not in beside}}


def _resampled(
    measured: Mapping[str, Mapping[str, np.ndarray]], shoppers: np.ndarray, config: EvaluationConfig
) -> dict[str, np.ndarray]:
    """Resampled means of each system, float64 [R, M], on the same resamples; columns as its metrics."""
    values = [array for metrics in measured.values() for array in metrics.values()]
    (means,) = resampled_means([Part(shoppers, np.stack(values, axis=1))], config.bootstrap_samples, config.seed)
    return dict(zip(measured, np.split(means, len(measured), axis=1), strict=True))


def _ends(means: np.ndarray, names: list[str], wanted: list[str]) -> dict[str, list[float]]:
    """Both ends of the interval of each wanted metric; `means` [R, M] has a column per name."""
    ends = intervals(means)
    return {name: ends[:, names.index(name)].tolist() for name in wanted}


def _differences(
    measured: Mapping[str, Mapping[str, np.ndarray]], means: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Two stages minus each other system, the attainable apart, with intervals over the same resamples."""
    if TWO_STAGE not in measured:
        return {}
    ours = measured[TWO_STAGE]
    found: dict[str, dict[str, Any]] = {}
    for system, theirs in measured.items():
        if system in (TWO_STAGE, ATTAINABLE):
            continue
        differences = {name: _mean(array - theirs[name]) for name, array in ours.items()}
        defined = [name for name, difference in differences.items() if difference is not None]
        ends = _ends(means[TWO_STAGE] - means[system], list(ours), defined)
        found[system] = {name: {"difference": differences[name], "interval": ends[name]} for name in defined}
    return found


def _of_all_lists(protocol: Protocol, system: str, asked: np.ndarray) -> dict[str, float]:
    """What only all lists together have: no mean over queries, and no interval."""
    lists = protocol.systems[system].lists[asked]
    shown = exposures(lists[:, :LIST_LENGTH], len(protocol.reachable))
    return {
        f"coverage@{COVERAGE_LENGTH}": coverage(lists, int(protocol.reachable.sum())),
        f"gini@{LIST_LENGTH}": gini(shown[protocol.reachable]),
    }


def _class_sizes(protocol: Protocol, catalogue: Catalogue) -> dict[str, dict[str, float]]:
    """Shares of each popularity class among the candidates and among the truth."""
    classes = popularity_classes(catalogue.train_counts)
    members = {"candidates": classes[protocol.reachable], "truth": classes[protocol.queries.truth.rows]}
    return {
        of: {name: float((own == place).mean()) for place, name in enumerate(POPULARITY_CLASSES)}
        for of, own in members.items()
        if len(own)
    }


def _mean(values: np.ndarray) -> float | None:
    """Mean over the queries for which the metric is defined; None if there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
