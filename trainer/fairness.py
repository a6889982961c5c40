"""Whether everybody is served equally well: figures by group with intervals, and the gaps between the groups."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.bootstrap import Part, intervals, resampled_means
from trainer.config import EvaluationConfig
from trainer.rank_systems import Protocol
from trainer.segments import NDCG, OTHERS, RECALL, Grouping, part_metrics

METRICS = (NDCG, RECALL)
# A group of fewer queries is shown, but no interval is drawn and nothing is concluded from it.
MINIMUM_QUERIES = 100


def fairness_report(
    protocol: Protocol, groupings: Mapping[str, Grouping], config: EvaluationConfig
) -> dict[str, dict[str, Any]]:
    """NDCG@10 and recall@10 by group, and per attribute how far the groups lie apart.

    Every query counts in the groups to which its truth belongs, with that part of the truth, ranked among all
    candidates. All groups see the same resamples of shoppers: groups that share shoppers (those of products) are
    compared paired, others independently.

    Args:
        protocol: what every system did.
        groupings: attribute → groups of the truth.
        config: resamples, seed.

    Returns:
        {system: {attribute: {"groups": {name: {"queries", "judged", "ndcg@10", "recall@10", "intervals"}},
        "gaps": {"ndcg@10": …, "recall@10": …}}}}; groups without queries are left out, gaps are those of `gap`.
    """
    systems = list(protocol.systems)
    places = [
        (attribute, name, kept)
        for attribute, grouping in groupings.items()
        for place, name in enumerate(grouping.names)
        if (kept := grouping.groups == place).any()
    ]
    parts = [_part(protocol, systems, kept) for _, _, kept in places]
    resampled = resampled_means(parts, config.bootstrap_samples, config.seed)
    report: dict[str, dict[str, Any]] = {}
    for number, system in enumerate(systems):
        columns = slice(number * len(METRICS), (number + 1) * len(METRICS))
        attributes = report.setdefault(system, {})
        for attribute in groupings:
            own = [i for i, place in enumerate(places) if place[0] == attribute]
            means = {places[i][1]: parts[i].values[:, columns].mean(axis=0) for i in own}
            draws = {places[i][1]: resampled[i][:, columns] for i in own}
            attributes[attribute] = _attribute(means, draws, {places[i][1]: len(parts[i].shoppers) for i in own})
    return report


def gap(means: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
    """How far the best and the worst of G groups lie apart, and whether that is more than chance.

    Of many groups two always lie apart. The intervals of all pairs' differences therefore hold together: difference
    ± c · s, where s is the standard deviation of the pair's resampled difference, and c the 95 % quantile over the
    resamples of the largest |resampled − observed difference| / s of any pair (the bootstrap form of Tukey's and
    Kramer's comparison of all pairs; Romano & Wolf 2005, "Stepwise multiple testing as formalized data snooping").

    Args:
        means: float64 [G], G ≥ 2.
        draws: float64 [R, G], resampled means.

    Returns:
        {"best", "worst": places, "gap", "interval", "outside_chance": whether the interval excludes 0, "pairs",
        "pairs_outside_chance": of all groups, also those between}.
    """
    first, second = np.triu_indices(len(means), k=1)
    differences = means[first] - means[second]
    errors = draws[:, first] - draws[:, second] - differences
    deviations = errors.std(axis=0)
    scaled = np.divide(np.abs(errors), deviations, out=np.zeros_like(errors), where=deviations > 0)
    reach = float(np.quantile(scaled.max(axis=1), 0.95)) * deviations
    apart = np.abs(differences) > reach
    best, worst = int(means.argmax()), int(means.argmin())
    if best == worst:
        best, worst = 0, 1
    pair = np.flatnonzero((first == min(best, worst)) & (second == max(best, worst)))[0]
    distance = float(means[best] - means[worst])
    return {
        "best": best,
        "worst": worst,
        "gap": distance,
        "interval": [distance - float(reach[pair]), distance + float(reach[pair])],
        "outside_chance": bool(apart[pair]),
        "pairs": len(first),
        "pairs_outside_chance": int(apart.sum()),
    }


def _part(protocol: Protocol, systems: list[str], kept: np.ndarray) -> Part:
    """Both metrics of every system for one group, [n, 2 · systems]."""
    columns = []
    for system in systems:
        asked, values = part_metrics(protocol, system, kept)
        columns += [values[metric] for metric in METRICS]
    return Part(protocol.queries.users[asked], np.stack(columns, axis=1))


def _attribute(
    means: Mapping[str, np.ndarray], draws: Mapping[str, np.ndarray], queries: Mapping[str, int]
) -> dict[str, Any]:
    """Groups and gaps of one system and attribute.

    Args:
        means: group → float64 [2], by metric.
        draws: group → float64 [R, 2].
        queries: group → number.
    """
    # What stands together only because it is rare is no group.
    judged = [name for name in means if queries[name] >= MINIMUM_QUERIES and name != OTHERS]
    groups: dict[str, dict[str, Any]] = {}
    for name, values in means.items():
        figures = {metric: float(value) for metric, value in zip(METRICS, values, strict=True)}
        groups[name] = {"queries": queries[name], "judged": name in judged, **figures}
        if name in judged:
            ends = intervals(draws[name])
            groups[name]["intervals"] = {metric: ends[:, i].tolist() for i, metric in enumerate(METRICS)}
    gaps = {}
    if len(judged) > 1:
        for i, metric in enumerate(METRICS):
            found = gap(
                np.array([means[name][i] for name in judged]), np.stack([draws[name][:, i] for name in judged], axis=1)
            )
            gaps[metric] = {**found, "best": judged[found["best"]], "worst": judged[found["worst"]]}
    return {"groups": groups, "gaps": gaps}
