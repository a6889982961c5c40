"""How systems find what training could not learn by clicks: new and rare products, categories new to a shopper."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.bootstrap import Part, bootstrap, intervals, resampled_means
from trainer.config import EvaluationConfig
from trainer.data import Catalogue
from trainer.protocol_report import arranged
from trainer.queries import Queries
from trainer.rank_systems import TWO_STAGE, Protocol
from trainer.segments import NDCG, RECALL, part_metrics
from transform.tables import FIRST

KNOWN, NEW, RARE = "known_products", "new_products", "rare_products"
LISTED_LATER, OTHER_CATEGORY = "listed_later", "unvisited_categories"
# Interactions in training below which a product is rare: its id has hardly been learned, its content must place it.
RARE_BELOW = 5


def product_groups(catalogue: Catalogue, cut_off: int | None) -> dict[str, np.ndarray]:
    """Products by what training knows of them: name → bool [V].

    "known_products": met in the training span, for comparison. "new_products": nobody met them there.
    "rare_products": fewer than RARE_BELOW interactions. "listed_later": known from `cut_off` (seconds) on, so that
    neither training nor validation can have met them; only where there is a cut-off.
    """
    counts = catalogue.train_counts
    groups = {KNOWN: counts > 0, NEW: counts == 0, RARE: counts < RARE_BELOW}
    if cut_off is not None:
        groups[LISTED_LATER] = catalogue.known_from >= cut_off
    for group in groups.values():
        group[:FIRST] = False
    return groups


def cold_start_report(
    protocol: Protocol, catalogue: Catalogue, groups: Mapping[str, np.ndarray], config: EvaluationConfig
) -> dict[str, Any]:
    """recall@10 and ndcg@10 of every system where the truth is of a kind that training knows little of.

    Args:
        protocol: ranked with `groups`.
        catalogue: for the counts.
        groups: of `product_groups`.
        config: resamples, seed.

    Returns:
        {group: {"products", "truth", "truth_share", system: figures with "intervals" and, under "among_themselves",
        once more with all other products taken out of the ranking, "differences": two stages minus every other system's
        ndcg@10, with intervals}}. "rare_products" says under "below" what is rare.
    """
    report: dict[str, Any] = {}
    for name, members in groups.items():
        kept = members[protocol.queries.truth.rows]
        report[name] = {"products": int(members.sum()), **_size(kept), **part_report(protocol, kept, config, name)}
    report[RARE]["below"] = RARE_BELOW
    return report


def part_report(
    protocol: Protocol, kept: np.ndarray, config: EvaluationConfig, group: str | None = None
) -> dict[str, Any]:
    """Figures of every system for the part of the truth that `kept`, bool [T], marks; among `group` as well, if it is
    one."""
    figures = {system: _figures(protocol, system, kept, config, group) for system in protocol.systems}
    return {**arranged(figures), "differences": _differences(protocol, kept, config)}


def unvisited_category(queries: Queries, categories: np.ndarray) -> np.ndarray:
    """Truth whose category the shopper had not met before: bool [T]; products without a category are not asked about.

    Args:
        queries: histories up to each query, and truth.
        categories: int [V], 0 = none.
    """
    owners, rows, _ = queries.history(0, len(queries))
    width = int(categories.max()) + 1
    met = np.unique(owners * width + categories[rows])
    asked = queries.truth.owners * width + categories[queries.truth.rows]
    return (categories[queries.truth.rows] > 0) & ~np.isin(asked, met)


def other_category_report(protocol: Protocol, catalogue: Catalogue, config: EvaluationConfig) -> dict[str, Any]:
    """Figures for products of categories that are new to their shoppers: does taste carry across categories?"""
    _, categories = np.unique(catalogue.categories, return_inverse=True)
    kept = unvisited_category(protocol.queries, categories)
    return {**_size(kept), **part_report(protocol, kept, config)}


def _figures(
    protocol: Protocol, system: str, kept: np.ndarray, config: EvaluationConfig, group: str | None
) -> dict[str, Any]:
    if not kept.any():
        return {"queries": 0}
    found: dict[str, Any] = {"truth": int(kept.sum())}
    ranked = protocol.systems[system]
    among: dict[str, Any] = {}
    for ranks, target in ((ranked.ranks, found), (ranked.group_ranks.get(group or ""), among)):
        if ranks is None:
            continue
        asked, values = part_metrics(protocol, system, kept, ranks)
        ends = bootstrap(values, protocol.queries.users[asked], config.bootstrap_samples, config.seed)
        target |= {"queries": len(asked), **{name: float(array.mean()) for name, array in values.items()}}
        target["intervals"] = {name: list(interval) for name, interval in ends.items()}
    return {**found, "among_themselves": among} if among else found


def _differences(protocol: Protocol, kept: np.ndarray, config: EvaluationConfig) -> dict[str, dict[str, Any]]:
    """Two stages minus each other system, on the same resamples of shoppers."""
    if TWO_STAGE not in protocol.systems or not kept.any():
        return {}
    values = {system: part_metrics(protocol, system, kept) for system in protocol.systems}
    asked, ours = values.pop(TWO_STAGE)
    shoppers, found = protocol.queries.users[asked], {}
    for system, (_, theirs) in values.items():
        differences = np.stack([ours[name] - theirs[name] for name in (NDCG, RECALL)], axis=1)
        (means,) = resampled_means([Part(shoppers, differences)], config.bootstrap_samples, config.seed)
        ends = intervals(means)
        found[system] = {
            name: {"difference": float(differences[:, place].mean()), "interval": ends[:, place].tolist()}
            for place, name in enumerate((NDCG, RECALL))
        }
    return found


def _size(kept: np.ndarray) -> dict[str, Any]:
    """How much of the truth `kept`, bool [T], is."""
    return {"truth": int(kept.sum()), "truth_share": float(kept.mean()) if len(kept) else 0.0}
