"""Neighbours by behaviour: for each product the few that go along with it in the sessions of the training span."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from trainer.baselines import Unit, strongest
from trainer.co_occurrence import similarities
from trainer.data import Catalogue, Sequences
from transform.tables import PADDING, PURCHASE


@dataclass(frozen=True)
class Neighbours:
    """A table of V lines, strongest first; row 0 with strength 0 fills up. 8 · V · N bytes."""

    rows: np.ndarray  # int32 [V, N]
    # float32 [V, N] in [0, 1]: cosine of co-occurrence, as a share of the line's strongest. What goes along is a small
    # number beside a cosine of vectors, and how small depends on the shop.
    strengths: np.ndarray


def neighbours_by_sessions(sequences: Sequences, catalogue: Catalogue, number: int) -> Neighbours:
    """Products that share sessions (without a clock: histories) with each product.

    Args:
        sequences: interactions of all shoppers; those of the training span count.
        catalogue: what is not available is nobody's neighbour.
        number: N.
    """
    return neighbour_table(_similarity(sequences, catalogue), catalogue.available, number)


def neighbours_by_purchases(
    sequences: Sequences, catalogue: Catalogue, category: np.ndarray, number: int
) -> Neighbours:
    """Products of other categories that are bought in one session (without a clock: history) with each product.

    Args:
        sequences: as in `neighbours_by_sessions`; interactions that hold a purchase count.
        catalogue: as there.
        category: int32 [V]: number of each row's category.
        number: N.
    """
    bought = replace(sequences, rows=np.where(is_purchase(sequences), sequences.rows, PADDING))
    pairs = _similarity(bought, catalogue).tocoo()
    others = category[pairs.row] != category[pairs.col]
    kept = (pairs.data[others], (pairs.row[others], pairs.col[others]))
    return neighbour_table(sparse.csr_matrix(kept, pairs.shape), catalogue.available, number)


def is_purchase(sequences: Sequences) -> np.ndarray:
    """Which interactions hold a purchase: bool [N]."""
    return sequences.labels & (1 << PURCHASE) != 0


def neighbour_table(similarity: sparse.csr_matrix, available: np.ndarray, number: int) -> Neighbours:
    """The strongest of each line, without the product itself and what is not available.

    Args:
        similarity: float32 [V, V], not negative.
        available: bool [V].
        number: N.
    """
    pairs = similarity.tocoo()
    kept = available[pairs.col] & (pairs.row != pairs.col)
    shape = similarity.shape
    chosen = strongest(sparse.csr_matrix((pairs.data[kept], (pairs.row[kept], pairs.col[kept])), shape), number)
    lines = np.repeat(np.arange(shape[0]), np.diff(chosen.indptr))
    # Within a line by column after `csr_matrix`: put in order of strength, equals by column.
    order = np.lexsort((chosen.indices, -chosen.data, lines))
    places = np.arange(len(order)) - chosen.indptr[lines]
    rows = np.full((shape[0], number), PADDING, np.int32)
    strengths = np.zeros((shape[0], number), np.float32)
    rows[lines, places] = chosen.indices[order]
    strengths[lines, places] = chosen.data[order]
    if number:
        strengths /= np.maximum(strengths[:, :1], np.finfo(np.float32).tiny)
    return Neighbours(rows, strengths)


def _similarity(sequences: Sequences, catalogue: Catalogue) -> sparse.csr_matrix:
    unit: Unit = "session" if catalogue.schema.has_timestamps else "history"
    return similarities(sequences, catalogue.size, unit, "cosine")
