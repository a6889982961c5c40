"""The candidates of stage two: places for what training never met."""

import numpy as np

from tests.trainer.small_shop import TIME, VIEW, make_catalogue, make_sequences
from trainer.config import EvaluationConfig
from trainer.queries import build_queries
from trainer.ranking import candidate_rows, order_keys
from trainer.shortlist import Shortlist, make_shortlist, new_places

SIZE = 12
# Bob's history is 2; of the products 8 … 11, which training never met, the retrieval puts 10 and 9 first.
SCORES = np.array([[0, 0, 9, 8, 7, 6, 5, 4, 0.1, 0.3, 0.4, 0.2]])


def kept(shortlist: Shortlist) -> list[int]:
    catalogue = make_catalogue(SIZE)
    sequences = make_sequences({"bob": [(2, 10, VIEW), (3, 120, VIEW), (4, 210, VIEW)]})
    queries = build_queries(sequences, catalogue, TIME, "test", EvaluationConfig(exclude_seen=True), 1)
    keys = order_keys(SCORES, queries.excluded(0, 1))
    return candidate_rows(keys, shortlist.kept(queries, 0, 1, keys), shortlist.size)[0].tolist()


def shortlist_of(size: int, places: int) -> Shortlist:
    catalogue = make_catalogue(SIZE)
    catalogue.train_counts[2:8] = 1
    return make_shortlist(catalogue, size, places)


def test_unmet_products_have_places_of_their_own() -> None:
    # 2 and 3 are excluded, being seen; 4 is the truth.
    assert kept(shortlist_of(8, 2)) == [10, 9, 4, 5, 6, 7, 11, 8]
    assert set(kept(shortlist_of(4, 1))) == {10, 4, 5, 6}
    assert set(kept(shortlist_of(4, 0))) == {4, 5, 6, 7}


def test_places_are_as_many_as_wanted_as_there_are_and_a_quarter_at_most() -> None:
    assert (new_places(200, 20, 500), new_places(200, 20, 7), new_places(40, 20, 500), new_places(3, 20, 9)) == (
        20,
        7,
        10,
        0,
    )
