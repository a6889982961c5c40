"""Which products stage one hands to stage two."""

from dataclasses import dataclass

import numpy as np

from trainer.data import Catalogue
from trainer.queries import Queries
from trainer.ranking import top_rows
from transform.tables import FIRST


@dataclass(frozen=True)
class Shortlist:
    """The candidates of a query: the shopper's own newest products, unless seen ones are excluded; of the products that
    training never met, those that the retrieval puts first; and the best of the retrieval.

    An unmet product has places of its own since its score cannot be as sure as that of one that thousands clicked:
    among millions it would hardly ever reach stage two, whose many features can judge it.
    """

    size: int  # C, candidates in all
    new_places: int  # of them for unmet products, at most; see `new_places`
    unmet: np.ndarray  # bool [V]

    def kept(self, queries: Queries, start: int, stop: int, retrieval: np.ndarray) -> np.ndarray:
        """What is a candidate of the queries [start, stop) whatever stands before it: bool [B, V].

        Args:
            queries: whose candidates they are.
            start: first query.
            stop: query after the last.
            retrieval: uint64 [B, V] keys of `ranking.order_keys`.
        """
        kept = queries.own_products(start, stop, self.size)
        places = new_places(self.size, self.new_places, int(self.unmet.sum()))
        if places:
            rows = top_rows(np.where(self.unmet, retrieval, np.uint64(0)), places)
            asked, place = np.nonzero(rows)
            kept[asked, rows[asked, place]] = True
        return kept


def new_places(size: int, wanted: int, unmet: int) -> int:
    """Places that `unmet` products get of `size` candidates where `wanted` are asked for: at most a quarter."""
    return min(wanted, size // 4, unmet)


def unmet_products(catalogue: Catalogue) -> np.ndarray:
    """Products that training never met: bool [V]."""
    unmet = catalogue.train_counts == 0
    unmet[:FIRST] = False
    return unmet


def make_shortlist(catalogue: Catalogue, size: int, new_places: int) -> Shortlist:
    """The rule for a catalogue."""
    return Shortlist(size, new_places, unmet_products(catalogue))
