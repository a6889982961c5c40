"""The rules of one bucket: order, duplicates, sessions, collapsing, baskets, split."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.transform.small_tables import START, event, table
from transform.interactions import Bucket, Rules, build_bucket
from transform.tables import EVENT_TYPES

HISTORY = frozenset(EVENT_TYPES[name] for name in ("view", "click", "add_to_cart", "purchase"))
VIEW, CART, BUY = (EVENT_TYPES[name] for name in ("view", "add_to_cart", "purchase"))
LEAVE_ONE_OUT = Rules(True, 1_800, HISTORY, None)


def by_time(validation: int, test: int) -> Rules:
    """A split at these seconds after START."""
    return Rules(True, 1_800, HISTORY, (START + validation, START + test))


def spilled(rows: list[dict[str, Any]]) -> pa.Table:
    """Events as the reader spills them: types as numbers, the place in the source as `row`."""
    events = table("events", rows)
    types = pa.array([EVENT_TYPES[row["type"]] for row in rows], pa.int8())
    return events.set_column(events.column_names.index("type"), "type", types).append_column(
        "row", pa.array(range(len(rows)), pa.int64())
    )


def build(rows: list[dict[str, Any]], rules: Rules = LEAVE_ONE_OUT) -> Bucket:
    return build_bucket(spilled(rows), rules)


def column(bucket: Bucket, name: str) -> list[Any]:
    return bucket.interactions[name].to_pylist()


def test_shoppers_by_bytes_then_time_then_source() -> None:
    bucket = build([event("b", "x", 9), event("é", "x", 1), event("a", "y", 5), event("a", "x", 5), event("a", "z", 2)])
    assert list(zip(column(bucket, "user_id"), column(bucket, "item_id"), strict=True)) == [
        ("a", "z"),
        ("a", "y"),
        ("a", "x"),
        ("b", "x"),
        ("é", "x"),
    ]


def test_exact_duplicates_are_dropped_and_counted() -> None:
    bucket = build([event("a", "x", 1, price=2.0), event("a", "y", 1, price=2.0), event("a", "x", 1, price=2.0)])
    assert bucket.counts["duplicates"] == 1
    assert column(bucket, "item_id") == ["x", "y"]


def test_events_that_differ_in_any_column_are_no_duplicates() -> None:
    first = event("a", "x", 1, "purchase", order="o", quantity=1, price=2.0, device="mobile")
    bucket = build([first, first | {"quantity": 2}, first | {"device": None}, first | {"price": None}])
    assert bucket.counts["duplicates"] == 0
    assert bucket.counts["collapsed"] == 3


def test_an_empty_text_says_nothing_as_a_missing_one_does() -> None:
    first, second = event("a", "x", 1, device="", session=""), event("a", "x", 1, device=None, session=None)
    bucket = build([first, second, event("a", "y", 9_000, device="", session="")])
    assert bucket.counts["duplicates"] == 1
    assert column(bucket, "session") == [0, 1]
    assert column(bucket, "device") == [None, None]
    assert sum(bucket.contexts["count"].to_pylist()) == 0


def test_events_that_differ_in_the_columns_kept_as_fingerprint_are_no_duplicates() -> None:
    events = spilled([event("a", "x", 1), event("a", "x", 1)])
    different = events.append_column("rest", pa.array([1, 2], pa.uint64()))
    equal = events.append_column("rest", pa.array([2, 2], pa.uint64()))
    assert build_bucket(different, LEAVE_ONE_OUT).counts["duplicates"] == 0
    assert build_bucket(equal, LEAVE_ONE_OUT).counts["duplicates"] == 1


def test_a_session_ends_after_more_than_thirty_minutes() -> None:
    bucket = build([event("a", "w", 0), event("a", "x", 1_800), event("a", "y", 3_601), event("b", "x", 3_602)])
    assert column(bucket, "session") == [0, 0, 1, 0]


def test_impressions_and_searches_keep_a_session_alive_but_stay_out_of_histories() -> None:
    bucket = build(
        [
            event("a", "x", 0),
            event("a", None, 1_500, "search"),
            event("a", "z", 2_900, "impression"),
            event("a", "y", 4_000),
        ]
    )
    assert column(bucket, "item_id") == ["x", "y"]
    assert column(bucket, "session") == [0, 0]
    assert (bucket.counts["searches"], bucket.counts["impressions"]) == (1, 1)


def test_the_shops_sessions_may_be_interleaved_and_outlast_the_gap() -> None:
    bucket = build(
        [
            event("a", "w", 0, session="s2"),
            event("a", "x", 10, session="s1"),
            event("a", "y", 20, session="s2"),
            event("a", "z", 9_000, session="s1"),
        ]
    )
    assert column(bucket, "session") == [0, 1, 0, 1]


def test_repeats_collapse_to_the_strongest_event_at_its_time_with_all_labels() -> None:
    bucket = build(
        [
            event("a", "x", 0, "view", price=9.0),
            event("a", "x", 60, "add_to_cart", price=8.0),
            event("a", "x", 90, "purchase", quantity=2, price=7.0),
            event("a", "x", 95, "purchase", quantity=3, price=6.0),
            event("a", "x", 99, "view"),
        ]
    )
    found = bucket.interactions.to_pylist()
    assert len(found) == 1
    assert found[0]["type"] == BUY
    assert found[0]["label"] == 1 << VIEW | 1 << CART | 1 << BUY
    assert found[0]["timestamp"] == START + 90
    assert (found[0]["quantity"], found[0]["price"]) == (5.0, 7.0)
    assert bucket.counts["collapsed"] == 4


def test_nothing_collapses_across_another_product_or_session() -> None:
    bucket = build([event("a", "x", 0), event("a", "y", 1), event("a", "x", 2), event("a", "x", 5_000)])
    assert column(bucket, "item_id") == ["x", "y", "x", "x"]


def test_two_orders_of_one_product_stay_two_interactions() -> None:
    bucket = build(
        [
            event("a", "x", 0, "purchase", order="o1"),
            event("a", "x", 5, "view", order=None),
            event("a", "x", 9, "purchase", order="o2"),
        ]
    )
    assert column(bucket, "timestamp") == [START, START + 9]
    assert column(bucket, "label") == [1 << VIEW | 1 << BUY, 1 << BUY]


def test_a_purchase_after_the_cut_is_not_told_to_the_training_span() -> None:
    bucket = build([event("a", "x", 0), event("a", "x", 60, "purchase")], by_time(30, 100))
    assert column(bucket, "type") == [VIEW, BUY]
    assert column(bucket, "span") == [0, 1]


def test_a_basket_shares_a_number_and_keeps_each_product_once() -> None:
    bucket = build(
        [
            event("a", "w", 0, "purchase", order="o1", quantity=1),
            event("a", "x", 0, "purchase", order="o2", quantity=1),
            event("a", "y", 0, "purchase", order="o1", quantity=1),
            event("a", "w", 0, "purchase", order="o1", quantity=4),
            event("a", "z", 7, "view"),
        ]
    )
    assert column(bucket, "item_id") == ["w", "y", "x", "z"]
    assert column(bucket, "basket") == [0, 0, 1, 2]
    assert column(bucket, "quantity")[:2] == [5.0, 1.0]


def test_a_product_looked_at_before_the_order_stays_in_its_basket() -> None:
    bucket = build(
        [event("a", "x", 0), event("a", "x", 9, "purchase", order="o"), event("a", "y", 9, "purchase", order="o")]
    )
    assert column(bucket, "item_id") == ["x", "y"]
    assert column(bucket, "timestamp") == [START + 9, START + 9]
    assert column(bucket, "basket") == [0, 0]


def test_a_cut_belongs_to_the_span_that_it_begins() -> None:
    bucket = build(
        [event("a", item, second) for second, item in ((9, "w"), (10, "x"), (19, "y"), (20, "z"))], by_time(10, 20)
    )
    assert column(bucket, "span") == [0, 1, 1, 2]
    assert bucket.counts["train_interactions"] == bucket.counts["test_interactions"] == 1


def test_leave_one_out_takes_the_last_two_of_shoppers_with_three() -> None:
    bucket = build(
        [event(user, item, place) for user, items in (("a", "wxyz"), ("b", "xy")) for place, item in enumerate(items)]
    )
    assert column(bucket, "span") == [0, 0, 1, 2, 0, 0]


def test_without_a_clock_the_source_order_is_time_and_nothing_is_a_duplicate() -> None:
    rows = [{"user_id": user, "item_id": item, "type": "view"} for user, item in ("ax", "by", "ax", "az", "ax")]
    bucket = build(rows, Rules(False, 1_800, HISTORY, None))
    assert column(bucket, "item_id") == ["x", "z", "x", "y"]
    assert column(bucket, "timestamp") == [0, 1, 2, 0]
    assert column(bucket, "basket") == [0, 1, 2, 0]
    assert (bucket.counts["duplicates"], bucket.counts["collapsed"]) == (0, 1)


def test_products_know_first_sight_and_training_interactions() -> None:
    bucket = build(
        [event("a", "x", 5, "impression"), event("a", "x", 8), event("a", "y", 12), event("b", "x", 30)],
        by_time(10, 20),
    )
    none = {"train_carts": 0, "train_purchases": 0}
    assert {row["item_id"]: row for row in bucket.products.to_pylist()} == {
        "x": {"item_id": "x", "first_seen": START + 5, "train_count": 1, **none},
        "y": {"item_id": "y", "first_seen": START + 12, "train_count": 0, **none},
    }


def test_products_know_what_was_carted_and_bought_in_training() -> None:
    # The view and the cart of one session are one interaction that has both labels; the last purchase is validation.
    rows = [event("a", "x", 5), event("a", "x", 6, "add_to_cart"), event("b", "x", 7, "purchase")]
    (product,) = build([*rows, event("c", "x", 12, "purchase")], by_time(10, 20)).products.to_pylist()
    assert (product["train_count"], product["train_carts"], product["train_purchases"]) == (2, 1, 1)


def test_contexts_are_counted_in_the_training_span_only() -> None:
    bucket = build(
        [event("a", "x", 5, device="mobile"), event("a", "y", 12, device="tablet"), event("b", "x", 6, device=None)],
        by_time(10, 20),
    )
    assert bucket.contexts.to_pylist() == [
        {"feature": "device", "value": "mobile", "count": 1},
        {"feature": "device", "value": "tablet", "count": 0},
    ]


def test_a_bucket_of_impressions_alone_has_no_interactions() -> None:
    bucket = build([event("a", "x", 5, "impression", device="mobile"), event("b", "x", 5, "impression")])
    assert bucket.interactions.num_rows == 0
    assert bucket.counts["interactions"] == bucket.counts["users"] == 0
    assert bucket.counts["shoppers"] == 2


# --- positions


def places(bucket: Bucket) -> list[tuple[Any, ...]]:
    """item, surface, position, impressions and clicks, sorted."""
    names = ("item_id", "surface", "position", "impressions", "clicks")
    rows = [tuple(row[name] for name in names) for row in bucket.positions.to_pylist()]
    return sorted(rows, key=lambda row: tuple(map(str, row)))


def test_the_way_in_is_the_first_event_with_a_position() -> None:
    bucket = build(
        [
            event("a", "x", 0, "view"),
            event("a", "x", 5, "click", surface="search", position=3),
            event("a", "x", 9, "click", surface="home", position=1),
            event("a", "x", 20, "purchase"),
            event("a", "y", 30, "view", surface="home"),
        ]
    )
    assert column(bucket, "type") == [BUY, VIEW]
    assert column(bucket, "position") == [3, 0]
    assert column(bucket, "surface") == ["search", "home"]


def test_a_logged_propensity_comes_with_its_position() -> None:
    events = spilled([event("a", "x", 0), event("a", "x", 5, "click", position=2), event("a", "y", 9, position=1)])
    logged = events.append_column("propensity", pa.array([np.nan, 0.25, np.nan], pa.float32()))
    found = build_bucket(logged, LEAVE_ONE_OUT).interactions
    assert found["propensity"].to_pylist() == [0.25, pytest.approx(np.nan, nan_ok=True)]


def test_impressions_and_clicks_are_counted_by_product_surface_and_position() -> None:
    seen = [("x", 1), ("y", 2), ("z", 3)]
    bucket = build(
        [
            *(event("a", item, 0, "impression", surface="search", position=place) for item, place in seen),
            event("a", "y", 5, "click", surface="search", position=2),
            event("a", "y", 9, "purchase"),
            *(event("b", item, 0, "impression", surface="search", position=place) for item, place in seen),
            event("b", "x", 0, "impression", surface=None, position=1),
            event("b", "z", 5, "click", surface="home", position=4),
            event("b", "x", 0, "impression", surface="search"),
        ]
    )
    assert places(bucket) == [
        ("x", None, 1, 1, 0),
        ("x", "search", 1, 2, 0),
        ("y", "search", 2, 2, 1),
        ("z", "home", 4, 0, 1),
        ("z", "search", 3, 2, 0),
    ]


def test_positions_after_the_cut_are_not_counted() -> None:
    bucket = build(
        [
            event("a", "x", 9, "impression", position=1),
            event("a", "x", 10, "impression", position=1),
            event("a", "x", 9, "click", position=2),
            event("a", "x", 11, "click", position=2),
        ],
        by_time(10, 20),
    )
    assert places(bucket) == [("x", None, 1, 1, 0), ("x", None, 2, 0, 1)]


@pytest.mark.parametrize("has_timestamps", [True, False])
def test_without_a_cut_what_was_shown_before_a_held_out_choice_is_not_counted(has_timestamps: bool) -> None:
    rows = [event("b", "v", 1, "impression", position=7)]
    for second, item in ((10, "w"), (20, "x"), (30, "y")):
        rows += [event("a", item, second - 1, "impression", position=1), event("a", item, second, "click", position=1)]
    if not has_timestamps:
        rows = [{name: value for name, value in row.items() if name != "timestamp"} for row in rows]
    bucket = build(rows, Rules(has_timestamps, 1_800, HISTORY, None))
    assert places(bucket) == [("v", None, 7, 1, 0), ("w", None, 1, 1, 1)]


def test_a_shop_without_positions_has_none_to_count() -> None:
    bucket = build([event("a", "x", 1, "impression"), event("a", "x", 2)])
    assert bucket.positions.num_rows == 0
    assert {"position", "surface", "propensity"}.isdisjoint(bucket.interactions.column_names)


@pytest.mark.parametrize("rules", [LEAVE_ONE_OUT, by_time(10, 20)])
def test_columns_that_the_shop_lacks_are_left_out(rules: Rules) -> None:
    bucket = build([event("a", "x", 1)], rules)
    assert {"device", "region", "price", "quantity"}.isdisjoint(bucket.interactions.column_names)
