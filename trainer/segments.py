"""Groups of shoppers and of products, and how well a system serves each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data import Catalogue
from trainer.metrics import LIST_LENGTH, ndcg, recall
from trainer.queries import Queries
from trainer.rank_systems import Protocol
from transform.tables import PADDING, UNKNOWN

NDCG, RECALL = f"ndcg@{LIST_LENGTH}", f"recall@{LIST_LENGTH}"
HISTORY_LENGTH, ITEM_POPULARITY = "history_length", "item_popularity"
POPULARITY_CLASSES = ("head", "mid", "tail", "new")
NOT_STATED, RARE, OTHERS = "(not stated)", "(rare)", "(others)"
# Interactions before the cut-off: lowest of each class.
_HISTORY_CLASSES = {"1-4": 1, "5-19": 5, "20-99": 20, "100+": 100}
# Shares of the training interactions that the most popular products make up.
_HEAD, _MID = 0.5, 0.8
# Values of one feature that are kept apart; a shop can have thousands of regions.
_LARGEST = 30


@dataclass(frozen=True)
class Grouping:
    """Divides the truth of a protocol, by whose it is or by the product itself."""

    names: tuple[str, ...]
    groups: np.ndarray  # int64 [T], place in `names`


def groupings(
    queries: Queries, catalogue: Catalogue, context_names: Mapping[str, Sequence[str]]
) -> dict[str, Grouping]:
    """Every attribute by which figures are told apart.

    "history_length" groups shoppers by their interactions before the cut-off, from new to loyal. "item_popularity"
    groups the products they chose: head (the most popular that make up half of the training interactions), mid (the
    next 30 %), tail, and new (none in training). "device" and "region", where the data has them, are those of the
    request, or of the shopper's newest interaction where nothing is known of the request.

    Args:
        queries: of the protocol.
        catalogue: for popularity.
        context_names: "device", "region" → values by id, the two reserved lines included.
    """
    truth = queries.truth
    lengths = np.searchsorted(list(_HISTORY_CLASSES.values()), queries.history_ends, side="right") - 1
    popularity = popularity_classes(catalogue.train_counts)[truth.rows]
    found = {
        HISTORY_LENGTH: Grouping(tuple(_HISTORY_CLASSES), lengths[truth.owners]),
        ITEM_POPULARITY: Grouping(POPULARITY_CLASSES, popularity),
    }
    stated = {"device": queries.sequences.devices, "region": queries.sequences.regions}
    for name, words in context_names.items():
        places = queries.context_places
        ids = np.where(places < 0, PADDING, stated[name][places])
        # Buckets of values outside of the vocabulary.
        ids = np.where(ids < len(words), ids, UNKNOWN)
        found[name] = _by_value(ids, words, truth.owners)
    return found


def popularity_classes(train_counts: np.ndarray) -> np.ndarray:
    """Class of each product, a place in POPULARITY_CLASSES: int64 [V]. Equal counts: the lower row is more popular."""
    order = np.argsort(-train_counts, kind="stable")
    before = np.cumsum(train_counts[order]) - train_counts[order]
    classes = np.empty(len(train_counts), np.int64)
    classes[order] = np.searchsorted(np.array([_HEAD, _MID]) * train_counts.sum(), before, side="right")
    classes[train_counts == 0] = POPULARITY_CLASSES.index("new")
    return classes


def part_metrics(
    protocol: Protocol, system: str, kept: np.ndarray, ranks: np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """How a system ranks the part of the truth that `kept`, bool [T], marks, among *all* candidates.

    Args:
        protocol: what every system did.
        system: which of them.
        kept: bool [T].
        ranks: int64 [T], other ranks of the same truth: among fewer candidates.

    Returns:
        The queries that have such truth, int64 [n], and ndcg@10 and recall@10 of each, float64 [n].
    """
    part = protocol.queries.truth.where(kept)
    ranks = (protocol.systems[system].ranks if ranks is None else ranks)[kept]
    asked = np.flatnonzero(part.lengths)
    part = part.take(asked)
    return asked, {RECALL: recall(ranks, part, LIST_LENGTH), NDCG: ndcg(ranks, part, LIST_LENGTH)}


def _by_value(ids: np.ndarray, words: Sequence[str], owners: np.ndarray) -> Grouping:
    """Groups of queries by the id of a value, [Q]; the rarest values beyond `_LARGEST` stand together, last."""
    values, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    largest = np.argsort(-counts, kind="stable")[:_LARGEST]
    reserved = {PADDING: NOT_STATED, UNKNOWN: RARE}
    names = [reserved.get(int(value), words[value]) for value in values[largest]]
    group_of = np.full(len(values), len(largest))
    group_of[largest] = np.arange(len(largest))
    if len(values) > len(largest):
        names.append(OTHERS)
    return Grouping(tuple(names), group_of[inverse][owners])
