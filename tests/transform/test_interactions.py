"""The rules of one bucket: order, duplicates, sessions, collapsing, baskets, split."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transform.small_tables import START, event, table
from transform.interactions import DROPS, Bucket, Rules, build_bucket
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


# --- against the rules written event by event

EVENTS = st.lists(
    st.builds(
        lambda user, item, seconds, type, order, session, place: event(
            user, item, seconds, type, order=order, session=session, surface=place[0], position=place[1]
        ),
        st.sampled_from("ab"),
        st.sampled_from("xyz"),
        st.sampled_from([0, 1, 2, 1_700, 1_801, 4_000, 9_000]),
        st.sampled_from(["view", "click", "impression", "add_to_cart", "purchase"]),
        st.sampled_from([None, None, None, "o1", "o2"]),
        st.sampled_from([None, None, "s1", "s2"]),
        st.sampled_from([(None, None), ("home", 1), ("home", 2), ("search", 1)]),
    ),
    min_size=1,
    max_size=25,
)
STRICT = {
    "session_resets": frozenset([EVENT_TYPES["click"]]),
    "max_daily_events": 6,
    "min_dwell_seconds": 2,
    "max_session_length": 2,
    "min_session_length": 2,
}
RULES = st.sampled_from(
    [
        LEAVE_ONE_OUT,
        by_time(2, 4_000),
        by_time(1, 2),
        replace(LEAVE_ONE_OUT, max_session_length=1, session_resets=frozenset([EVENT_TYPES["impression"]])),
        replace(LEAVE_ONE_OUT, **STRICT),
        replace(by_time(2, 4_000), **STRICT),
    ]
)


def expected(rows: list[dict[str, Any]], rules: Rules) -> list[tuple[Any, ...]]:
    """user, item, type, label, time, surface and position of every interaction, one event after the other."""
    found = []
    numbered = [row | {"row": place} for place, row in enumerate(rows)]
    for user in sorted({row["user_id"] for row in rows}):
        events = sorted(
            (row for row in numbered if row["user_id"] == user), key=lambda row: (row["timestamp"], row["row"])
        )
        unique: list[dict[str, Any]] = []
        for row in events:
            if all({**row, "row": 0} != {**other, "row": 0} for other in unique):
                unique.append(row)
        if rules.max_daily_events and is_robot([row["timestamp"] for row in unique], rules.max_daily_events):
            continue
        number_sessions(unique, rules)
        history = [row for row in unique if EVENT_TYPES[row["type"]] in rules.history_types]
        history = [row for row in history if not bounces(row, unique, rules.min_dwell_seconds)]
        found += [(user, *interaction) for interaction in merge(history, rules)]
    return found


def is_robot(times: list[int], limit: int) -> bool:
    return any(sum(0 <= other - time < 86_400 for other in times) > limit for time in times)


def bounces(row: dict[str, Any], events: list[dict[str, Any]], seconds: int) -> bool:
    later = events[events.index(row) + 1 :]
    following = [other for other in later if other["number"] == row["number"] and other["type"] != "impression"]
    looks = row["type"] in ("view", "click")
    return looks and bool(following) and following[0]["timestamp"] - row["timestamp"] < seconds


def number_sessions(events: list[dict[str, Any]], rules: Rules) -> None:
    named: dict[Any, int] = {}
    count, last, unnamed = 0, None, None
    for row in events:
        if row["session"] is not None:
            if row["session"] not in named:
                named[row["session"]], count = count, count + 1
            row["number"] = named[row["session"]]
            continue
        if last is None or row["timestamp"] - last > 1_800 or EVENT_TYPES[row["type"]] in rules.session_resets:
            unnamed, count = count, count + 1
        row["number"], last = unnamed, row["timestamp"]


def merge(history: list[dict[str, Any]], rules: Rules) -> list[tuple[Any, ...]]:
    def basket(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["timestamp"], row["order"]

    def first(row: dict[str, Any], same: Any) -> int:
        return next(place for place, other in enumerate(history) if same(row) == same(other))

    def key(row: dict[str, Any]) -> tuple[int, ...]:
        return row["number"], first(row, basket), first(row, lambda r: (basket(r), r["item_id"])), row["row"]

    groups: list[list[dict[str, Any]]] = []
    for row in sorted(history, key=key):
        before = groups[-1] if groups else []
        orders = [other["order"] for other in before if other["order"] is not None]
        joins = (
            before
            and (before[-1]["number"], before[-1]["item_id"]) == (row["number"], row["item_id"])
            and span_of(before[-1], rules) == span_of(row, rules)
            and (row["order"] is None or not orders or orders[-1] == row["order"])
        )
        if joins:
            before.append(row)
        else:
            groups.append([row])
    chosen = [(max(group, key=lambda row: EVENT_TYPES[row["type"]]), group) for group in groups]
    chosen.sort(key=lambda pair: (first(pair[0], basket), history.index(pair[0])))
    found = []
    for row, group in chosen:
        labels = sum({1 << EVENT_TYPES[other["type"]] for other in group})
        way_in = next((other for other in group if other["position"]), row)
        place = way_in["surface"], way_in["position"] or 0
        found.append((row["item_id"], EVENT_TYPES[row["type"]], labels, row["timestamp"], *place))
    sessions = divide([(row["number"], basket(row)) for row, _ in chosen], rules.max_session_length)
    keys = [(session, span_of(row, rules)) for session, (row, _) in zip(sessions, chosen, strict=True)]
    return [one for one, key in zip(found, keys, strict=True) if keys.count(key) >= rules.min_session_length]


def divide(interactions: list[tuple[int, Any]], longest: int) -> list[Any]:
    """Session and part of each interaction, given as session and basket."""
    if not longest:
        return [session for session, _ in interactions]
    found: list[Any] = []
    for place, (session, basket) in enumerate(interactions):
        before = [other for other, _ in interactions[:place]]
        part = before.count(session) // longest
        first = interactions.index((session, basket))
        # In the part of the first of its basket.
        found.append((session, found[first][1] if first < place else part))
    return found


def span_of(row: dict[str, Any], rules: Rules) -> int:
    return sum(row["timestamp"] >= cut for cut in rules.cuts) if rules.cuts else 0


@given(EVENTS, RULES)
def test_whole_columns_give_what_one_event_after_the_other_gives(rows: list[dict[str, Any]], rules: Rules) -> None:
    names = ("user_id", "item_id", "type", "label", "timestamp", "surface", "position")
    found = build(rows, rules)
    assert list(zip(*(column(found, name) for name in names), strict=True)) == expected(rows, rules)


@given(EVENTS, RULES)
def test_no_event_is_lost_or_doubled(rows: list[dict[str, Any]], rules: Rules) -> None:
    counts = build(rows, rules).counts
    assert counts["interactions"] + sum(counts[name] for name in DROPS) == len(rows)
    spans = ("train", "validation", "test")
    assert sum(counts[f"{span}_interactions"] for span in spans) == counts["interactions"]


@given(EVENTS, RULES)
def test_positions_count_each_training_impression_and_click_once(rows: list[dict[str, Any]], rules: Rules) -> None:
    bucket = build(rows, rules)
    clicked = [row for row in bucket.interactions.to_pylist() if row["span"] == 0 and row["position"]]
    assert sum(row["clicks"] for row in bucket.positions.to_pylist()) == len(clicked)
    if rules.cuts and not bucket.counts["robots"]:
        before = [row for row in rows if row["type"] == "impression" and row["timestamp"] < rules.cuts[0]]
        shown = {tuple(row.values()) for row in before if row["position"]}
        assert sum(row["impressions"] for row in bucket.positions.to_pylist()) == len(shown)


@given(EVENTS, RULES)
def test_no_training_interaction_is_later_than_one_held_out(rows: list[dict[str, Any]], rules: Rules) -> None:
    bucket = build(rows, rules)
    users, times, spans = (np.array(column(bucket, name)) for name in ("user_id", "timestamp", "span"))
    for user in np.unique(users):
        own = users == user
        assert (np.diff(times[own]) >= 0).all()
        assert (np.diff(spans[own]) >= 0).all()
    if rules.cuts:
        assert all(
            times[spans == early].max(initial=0) < times[spans == late].min(initial=2**62)
            for early, late in pairwise(range(3))
        )


@given(EVENTS, RULES, st.randoms(use_true_random=False))
def test_the_order_in_which_rows_are_read_does_not_matter(
    rows: list[dict[str, Any]], rules: Rules, random: Any
) -> None:
    events = spilled(rows)
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    again = build_bucket(events.take(pa.array(shuffled)), rules)
    once = build_bucket(events, rules)
    assert again.interactions.to_pylist() == once.interactions.to_pylist()
    assert again.counts == once.counts
    assert places(again) == places(once)


@given(EVENTS, st.sampled_from([by_time(2, 4_000), by_time(1, 2)]))
def test_a_time_split_never_divides_a_basket(rows: list[dict[str, Any]], rules: Rules) -> None:
    bucket = build(rows, rules)
    of_basket: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for row in bucket.interactions.to_pylist():
        of_basket.setdefault((row["user_id"], row["basket"]), []).append((row["timestamp"], row["span"]))
    assert all(len(set(members)) == 1 for members in of_basket.values())


@pytest.mark.parametrize("rules", [LEAVE_ONE_OUT, by_time(10, 20)])
def test_columns_that_the_shop_lacks_are_left_out(rules: Rules) -> None:
    bucket = build([event("a", "x", 1)], rules)
    assert {"device", "region", "price", "quantity"}.isdisjoint(bucket.interactions.column_names)
