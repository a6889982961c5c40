"""Content as values, vocabularies and ids; the catalogue's rows."""

import numpy as np
import pyarrow as pa
import pytest

from tests.transform.small_tables import table
from transform.catalogue import id_embedding_rows, make_catalogue
from transform.config import TransformConfig
from transform.feature_schema import Vocabulary
from transform.vocabularies import (
    category_prefixes,
    content_columns,
    content_ids,
    count_values,
    merge_counts,
    normalised_price,
    price_moments,
    vocabulary,
)


def test_a_category_is_every_level_of_its_path() -> None:
    paths = pa.array(["A > B > C", "A", None, "", "A > B > C > D"])
    assert category_prefixes(paths, 3).to_pylist() == [
        ["A", "A > B", "A > B > C"],
        ["A"],
        None,
        [],
        ["A", "A > B", "A > B > C"],
    ]


def test_vocabularies_go_by_count_then_bytes_and_leave_rare_values_out() -> None:
    items = table("items", [{"item_id": str(place), "brand": brand} for place, brand in enumerate("baacbé")])
    columns = content_columns(TransformConfig())
    counts = merge_counts([count_values(items.slice(0, 3), columns), count_values(items.slice(3), columns)])
    assert vocabulary(counts, "brand", 1) == ["a", "b", "c", "é"]
    assert vocabulary(counts, "brand", 2) == ["a", "b"]
    assert vocabulary(counts, "brand", 1, size=3) == ["a", "b", "c"]
    assert vocabulary(counts, "title", 1) == []


def test_ids_are_zero_for_absent_and_one_for_unknown() -> None:
    found = Vocabulary(["x", "y"]).ids(pa.array(["y", None, "z", "", "x"]))
    assert found.tolist() == [3, 0, 1, 0, 2]


def test_lists_are_cut_to_their_length() -> None:
    lists = pa.array([["x", "y", "x"], None, ["z"], []])
    found = content_ids(lists, Vocabulary(["x", "y"]), 2)
    assert found.values.tolist() == [2, 3, 1]
    assert found.offsets.tolist() == [0, 2, 2, 3, 3]


def test_price_moments_do_not_depend_on_the_order() -> None:
    prices = np.random.default_rng(1).uniform(0, 1_000, 10_000).astype(np.float32)
    mean, stddev = price_moments(prices)
    assert price_moments(prices[::-1]) == (mean, stddev)
    assert normalised_price(prices, mean, stddev).std() == pytest.approx(1.0, abs=1e-4)


def test_one_price_for_all_is_not_divided_by_zero() -> None:
    mean, stddev = price_moments(np.full(3, 5, np.float32))
    assert stddev == 1.0
    assert normalised_price(np.float32([5, np.nan]), mean, stddev).tolist() == pytest.approx(
        [0.0, np.nan], abs=1e-6, nan_ok=True
    )


def test_id_rows_go_by_count_then_catalogue_row() -> None:
    assert id_embedding_rows(np.array([1, 5, 0, 5, 2]), 2).tolist() == [1, 2, 1, 3, 4]


def test_the_catalogue_joins_events_and_items_by_bytes_of_the_id() -> None:
    products = pa.table({"item_id": ["b", "Z", "b"], "first_seen": [50, 7, 40], "train_count": [1, 2, 3]})
    products = products.append_column("train_carts", [[0, 1, 1]]).append_column("train_purchases", [[1, 0, 2]])
    keys = pa.table({"item_id": ["a", "b", "a"], "row": [2, 1, 0], "created_at": [None, 9, 5]})
    found = make_catalogue(products, keys, 1)
    assert found.item_ids.to_pylist() == ["Z", "a", "b"]
    assert found.source_row.tolist() == [-1, 0, 1]  # the first of two rows with one id
    assert found.known_from.tolist() == [7, 5, 9]
    assert found.train_count.tolist() == [2, 0, 4]
    assert (found.train_carts.tolist(), found.train_purchases.tolist()) == ([1, 0, 1], [0, 0, 3])
    assert found.in_events.tolist() == [True, False, True]
    assert found.rows(pa.array(["b", "Z"])).tolist() == [4, 2]
