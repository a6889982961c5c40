"""How good the lists beside a product are: what shoppers turn to next, and what they buy with it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from trainer.data import Sequences
from trainer.index import Index
from trainer.metrics import LIST_LENGTH
from trainer.neighbours import Neighbours, is_purchase
from trainer.queries import Span, sample_users
from transform.tables import FIRST, PADDING

SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_SHOPPERS = 2_000
_MOST_PAIRS = 5_000
_BLOCK = 256


@dataclass(frozen=True)
class Pairs:
    """A product that was looked at, and one that should stand in its list."""

    asked: np.ndarray  # int32 [n] catalogue rows
    wanted: np.ndarray  # int32 [n]

    def among(self, available: np.ndarray) -> "Pairs":
        """Those whose wanted product can be in a list: bool [V] → pairs."""
        kept = available[self.wanted]
        return Pairs(self.asked[kept], self.wanted[kept])


def next_clicks(sequences: Sequences, span: Span, seed: int) -> Pairs:
    """Each product of a session with the next other one in it, of 2,000 shoppers drawn by a hash; at most 5,000."""
    places, owners = _places(sequences, span, seed)
    first, second = places[:-1], places[1:]
    same = (owners[:-1] == owners[1:]) & (sequences.sessions[first] == sequences.sessions[second])
    return _pairs(sequences.rows[first[same]], sequences.rows[second[same]])


def bought_together(sequences: Sequences, span: Span, category: np.ndarray, seed: int) -> Pairs:
    """Ordered pairs of neighbouring purchases of one session that are of different categories, int32 [V].

    Shoppers and limit as for `next_clicks`; both directions, since what was bought first says little.
    """
    places, owners = _places(sequences, span, seed)
    bought = is_purchase(sequences)[places]
    places, owners = places[bought], owners[bought]
    first, second = places[:-1], places[1:]
    same = (owners[:-1] == owners[1:]) & (sequences.sessions[first] == sequences.sessions[second])
    a, b = sequences.rows[first[same]], sequences.rows[second[same]]
    other = category[a] != category[b]
    a, b = a[other], b[other]
    return _pairs(np.stack([a, b], axis=1).ravel(), np.stack([b, a], axis=1).ravel())


def found_by_share(
    index: Index,
    vectors: np.ndarray,
    neighbours: Neighbours,
    pairs: Pairs,
    shares: Sequence[float],
    category: np.ndarray | None = None,
) -> dict[float, float]:
    """Share of the pairs whose wanted product is in the list of ten of the asked one, by the weight of behaviour.

    The lists are those of the served graph without a history (trainer/item_search.py).

    Args:
        index: over the vectors of the recommendable rows.
        vectors: float32 [V, D].
        neighbours: of V rows.
        pairs: at least one.
        shares: weights of behaviour.
        category: int32 [V]; where given, the asked product's own category is left out.
    """
    asked, line_of = np.unique(pairs.asked, return_inverse=True)
    hits = dict.fromkeys(shares, 0)
    for start in range(0, len(asked), _BLOCK):
        rows = asked[start : start + _BLOCK]
        lists = _lists(index, vectors, neighbours, rows, shares, category)
        mine = np.flatnonzero((line_of >= start) & (line_of < start + len(rows)))
        for share, found in lists.items():
            hits[share] += int((found[line_of[mine] - start] == pairs.wanted[mine, None]).any(axis=1).sum())
    return {share: count / len(pairs.asked) for share, count in hits.items()}


def _lists(
    index: Index,
    vectors: np.ndarray,
    neighbours: Neighbours,
    asked: np.ndarray,
    shares: Sequence[float],
    category: np.ndarray | None,
) -> dict[float, np.ndarray]:
    """The ten best rows, int32 [n, 10], of each asked one by each share; 0 = fewer were found."""
    queries = tf.constant(vectors[asked])
    near = index(queries, k=2 * LIST_LENGTH + 1)[1].numpy()
    beside = neighbours.rows[asked]
    rows = np.concatenate([near, np.where((beside[:, :, None] == near[:, None, :]).any(axis=2), PADDING, beside)], 1)
    usable = (rows >= FIRST) & (rows != asked[:, None])
    if category is not None:
        usable &= category[rows] != category[asked][:, None]
    likeness = np.einsum("bd,bnd->bn", vectors[asked], vectors[rows])
    strength = ((rows[:, :, None] == beside[:, None, :]) * neighbours.strengths[asked][:, None, :]).sum(axis=2)
    known = (neighbours.strengths[asked] > 0).any(axis=1, keepdims=True)
    found = {}
    for share in shares:
        weight = np.where(known, share, 0.0)
        scores = np.where(usable, (1 - weight) * likeness + weight * strength, -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :LIST_LENGTH]
        kept = np.take_along_axis(usable, order, axis=1)
        found[share] = np.where(kept, np.take_along_axis(rows, order, axis=1), PADDING)
    return found


def _places(sequences: Sequences, span: Span, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Interactions of the span with known products: places int64 [n], in order, and their shoppers."""
    test = span == "test"
    starts = sequences.validation_end if test else sequences.train_end
    stops = sequences.lengths if test else sequences.validation_end
    users = sample_users(sequences, np.flatnonzero(stops > starts), _SHOPPERS, seed)
    numbers = (stops - starts)[users]
    owners = np.repeat(users, numbers)
    offsets = np.repeat((sequences.offsets[:-1] + starts)[users] - np.cumsum(numbers) + numbers, numbers)
    places = np.arange(len(owners)) + offsets
    known = sequences.rows[places] >= FIRST
    return places[known], owners[known]


def _pairs(asked: np.ndarray, wanted: np.ndarray) -> Pairs:
    different = np.flatnonzero(asked != wanted)[:_MOST_PAIRS]
    return Pairs(asked[different], wanted[different])
