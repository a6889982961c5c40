"""Groups of shoppers and products."""

import numpy as np
import pytest

from tests.trainer.small_shop import TIME, VIEW, make_catalogue, make_sequences
from trainer.config import EvaluationConfig
from trainer.queries import Queries, build_queries
from trainer.segments import groupings, popularity_classes


def queries_of(shoppers: int) -> Queries:
    """Shopper n has one interaction before the cut-off and chooses products 3 and 4 after it."""
    histories = {f"u{n}": [(2, 10, VIEW), (3, 210, VIEW), (4, 220, VIEW)] for n in range(shoppers)}
    return build_queries(make_sequences(histories), make_catalogue(), TIME, "test", EvaluationConfig(), 4)


def test_popularity_classes_follow_the_shares_of_training_interactions() -> None:
    # 4 + 3 + 2 + 1 = 10: before each stand 0, 4, 7 and 9 of ten.
    classes = popularity_classes(np.array([0, 0, 1, 4, 3, 0, 2]))
    assert classes.tolist() == [3, 3, 2, 0, 0, 3, 1]


def test_shoppers_are_grouped_by_the_value_of_their_request_and_products_by_their_own_class() -> None:
    queries = queries_of(4)
    newest = queries.context_places
    queries.sequences.regions[newest] = [3, 2, 3, 0]
    catalogue = make_catalogue()
    catalogue.train_counts[:] = [0, 0, 0, 5, 1, 0, 0, 0, 0, 0]
    found = groupings(queries, catalogue, {"region": ["", "\x01", "north", "south"]})
    region = found["region"]
    # Two products of truth each; the most frequent value first.
    assert [region.names[place] for place in region.groups[::2]] == ["south", "north", "south", "(not stated)"]
    assert region.groups[::2].tolist() == region.groups[1::2].tolist()
    popularity = found["item_popularity"]
    assert [popularity.names[place] for place in popularity.groups[:2]] == ["head", "tail"]
    assert {found["history_length"].names[place] for place in found["history_length"].groups} == {"1-4"}


@pytest.mark.parametrize("unknown", [1, 2, 9])
def test_value_unknown_to_the_vocabulary_is_called_rare(unknown: int) -> None:
    """Whether it has the unknown id or, behind those of the vocabulary, that of a bucket."""
    queries = queries_of(1)
    queries.sequences.devices[:] = unknown
    assert groupings(queries, make_catalogue(), {"device": ["", "\x01"]})["device"].names == ("(rare)",)


def test_rarest_of_many_values_stand_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.segments._LARGEST", 2)
    queries = queries_of(6)
    queries.sequences.regions[queries.context_places] = [5, 2, 2, 3, 3, 4]
    region = groupings(queries, make_catalogue(), {"region": ["", "", "a", "b", "c", "d"]})["region"]
    assert region.names == ("a", "b", "(others)")
    assert region.groups[::2].tolist() == [2, 0, 0, 1, 1, 2]
