"""The lists of an export: for new visitors and beside a product; what they are made of and how good they are."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.baselines import choose_recent_popularity
from trainer.config import EvaluationConfig, IndexKind
from trainer.data import Catalogue
from trainer.export_index import Products, index_of_styles
from trainer.export_world import World
from trainer.hash_order import hash_order
from trainer.index import Index
from trainer.list_quality import SHARES, Pairs, bought_together, found_by_share, next_clicks
from trainer.metrics import LIST_LENGTH
from trainer.neighbours import Neighbours, neighbours_by_purchases, neighbours_by_sessions
from trainer.newcomer_prior import NewcomerPrior, choose_newcomer_prior
from trainer.queries import Span, build_queries, load_split, sample_users
from trainer.recommender_module import Complements, ItemLists, RecommenderModule
from trainer.style import StyleClasses, style_classes

log = logging.getLogger(__name__)

# Shoppers whose validation chooses the window of the popularity prior.
_PRIOR_QUERIES = 2_000
# Products whose lists the report shows.
_EXAMPLES = 4
_SPANS: tuple[Span, ...] = ("validation", "test")


@dataclass(frozen=True)
class _Styles:
    """What stands beside a product as its complement."""

    classes: StyleClasses
    vectors: np.ndarray  # float32 [V, D]
    bought: Neighbours  # together, across categories


@dataclass(frozen=True)
class Beside:
    """What the lists beside a product are made of, whatever index searches them."""

    neighbours: Neighbours  # in one session
    styles: _Styles | None


def learn_beside(world: World, vectors: np.ndarray) -> Beside:
    """From vectors float32 [V, D] as the index holds them, and from what shoppers did in the training span."""
    config, catalogue = world.config, world.catalogue
    neighbours = neighbours_by_sessions(world.sequences, catalogue, config.neighbours)
    classes = style_classes(vectors, catalogue.categories) if config.complementary else None
    if classes is None:
        log.info("export: no signature complementary_items: %s", _why_none(world))
        return Beside(neighbours, None)
    bought = neighbours_by_purchases(world.sequences, catalogue, classes.category, config.neighbours)
    return Beside(neighbours, _Styles(classes, classes.styles(vectors), bought))


def item_lists(world: World, beside: Beside, kind: IndexKind) -> ItemLists:
    """The same with an index of the kind named."""
    config, complements = world.config, None
    if beside.styles is not None:
        start = time.perf_counter()
        rows = np.flatnonzero(world.catalogue.available).astype(np.int32)
        width = 2 * world.sizes.answer + world.sizes.excluded + 1
        index = index_of_styles(kind, Products(beside.styles.vectors, rows), width, config)
        share = config.complementary_behaviour_share
        complements = Complements(index, beside.styles.classes, beside.styles.bought, share)
        log.info("export: index of styles in %.1f s", time.perf_counter() - start)
    return ItemLists(beside.neighbours, config.similar_behaviour_share, config.history_share, complements)


def report_beside(world: World, beside: Beside, lists: ItemLists, index: Index, vectors: np.ndarray) -> dict[str, Any]:
    """How often what is served beside a product is what shoppers turn to or buy next.

    Args:
        world: models and data.
        beside: what the lists are made of.
        lists: as they are served.
        index: over the vectors of available products.
        vectors: as the index holds them, float32 [V, D].
    """
    catalogue, seed = world.catalogue, EvaluationConfig().seed
    clicks = {span: next_clicks(world.sequences, span, seed) for span in _SPANS}
    measure = partial(found_by_share, index, vectors, beside.neighbours)
    found = _found(world, clicks, measure, lists.behaviour_share)
    report: dict[str, Any] = {"similar_items": found | _with_behaviour(beside.neighbours, catalogue)}
    styles, complements = beside.styles, lists.complements
    if styles is None or complements is None:
        return report | {"complementary_items": {"reason": _why_none(world)}}
    category = styles.classes.category
    pairs = {span: bought_together(world.sequences, span, category, seed) for span in _SPANS}
    measure = partial(found_by_share, complements.index, styles.vectors, styles.bought, category=category)
    found = _found(world, pairs, measure, complements.behaviour_share)
    return report | {"complementary_items": found | _with_behaviour(styles.bought, catalogue)}


def _why_none(world: World) -> str:
    """Why there are no complementary products."""
    return "no product has a category" if world.config.complementary else "export.complementary is false"


def _found(
    world: World,
    pairs: dict[Span, Pairs],
    measure: Callable[[Pairs, Sequence[float]], dict[float, float]],
    served: float,
) -> dict[str, Any]:
    """Share of the wanted products in lists of ten by the weight of behaviour, for each span that tells any."""
    report: dict[str, Any] = {"behaviour_share": served}
    for span, told in pairs.items():
        told = told.among(world.catalogue.available)
        if len(told.asked):
            found = measure(told, sorted({*SHARES, served}))
            report[span] = {
                "pairs": len(told.asked),
                "found": [{"behaviour_share": share, "found": value} for share, value in found.items()],
            }
    return report


def list_examples(recommender: RecommenderModule, catalogue: Catalogue) -> list[dict[str, Any]]:
    """A few products that were met in training, drawn by a hash, with the lists that are served beside them."""
    rows = np.flatnonzero(catalogue.available & (catalogue.train_counts > 0))
    rows = rows[hash_order(catalogue.item_ids[rows], EvaluationConfig().seed)[:_EXAMPLES]]
    examples = []
    for item_id in catalogue.item_ids[rows]:
        lists = {}
        for name in ("similar", "complementary"):
            function = recommender.functions.get(f"{name}_items")
            found = function(item_ids=tf.constant([item_id]))["item_ids"].numpy()[0] if function else None
            lists[name] = None if found is None else [one.decode() for one in found[:LIST_LENGTH] if one]
        examples.append({"item_id": str(item_id), **lists})
    return examples


def _with_behaviour(neighbours: Neighbours, catalogue: Catalogue) -> dict[str, Any]:
    known = (neighbours.strengths > 0).any(axis=1) & catalogue.available
    return {"neighbours": neighbours.rows.shape[1], "products_with_neighbours": int(known.sum())}


def learn_prior(world: World) -> tuple[NewcomerPrior, dict[str, Any]]:
    """The recent-popularity baseline, told apart by request where that helps, and what was measured of it.

    What an evaluation calls popularity is what is served to those whose request tells nothing.
    """
    split, config = load_split(world.transform_dir), EvaluationConfig()
    length = world.retrieval.config.history_length
    validation = build_queries(world.sequences, world.catalogue, split, "validation", config, length)
    kept = sample_users(world.sequences, validation.users, _PRIOR_QUERIES, config.seed)
    validation = validation.take(np.flatnonzero(np.isin(validation.users, kept)))
    ((popularity, _),) = choose_recent_popularity(world.sequences, world.catalogue, split, config, [validation])
    prior, report = choose_newcomer_prior(world.sequences, world.catalogue, split, config, popularity)
    return prior, {"new_visitors": report}
