"""Sessions that searches begin, their lengths, how long a look lasted, and robots: worked by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.transform.small_tables import config, event, write
from tests.transform.test_interactions import LEAVE_ONE_OUT, build, by_time, column
from transform.arrow_files import read_json
from transform.beam_transform import run_transform
from transform.checks import DataError
from transform.clock import DAY, HOUR
from transform.tables import EVENT_TYPES


def rules(**more: Any) -> Any:
    return replace(LEAVE_ONE_OUT, **more)


def test_a_search_begins_a_session_where_it_is_told_to() -> None:
    rows = [
        event("a", "w", 0),
        event("a", None, 10, "search"),
        event("a", None, 20, "search"),
        event("a", "x", 30),
        event("b", "y", 40),
    ]
    assert column(build(rows), "session") == [0, 0, 0]
    resets = rules(session_resets=frozenset([EVENT_TYPES["search"]]))
    assert column(build(rows, resets), "session") == [0, 1, 0]


def test_a_search_divides_no_session_that_the_shop_names() -> None:
    rows = [event("a", item, at, kind, session="s") for item, at, kind in (("w", 0, "view"), ("x", 20, "view"))]
    rows.insert(1, event("a", None, 10, "search", session="s"))
    assert column(build(rows, rules(session_resets=frozenset([EVENT_TYPES["search"]]))), "session") == [0, 0]


def test_long_sessions_are_divided_and_later_ones_numbered_on() -> None:
    rows = [event("a", item, at) for at, item in enumerate("vwxyz")] + [event("a", "v", 9_000)]
    assert column(build(rows, rules(max_session_length=2)), "session") == [0, 0, 1, 1, 2, 3]


def test_a_basket_stays_whole_in_the_part_where_it_begins() -> None:
    rows = [event("a", "v", 0)] + [event("a", item, 5, "purchase", order="o") for item in "wxy"] + [event("a", "z", 9)]
    assert column(build(rows, rules(max_session_length=2)), "session") == [0, 0, 0, 0, 1]


def test_short_sessions_are_left_out_and_counted() -> None:
    rows = [event("a", "v", 0), event("a", "w", 9_000), event("a", "x", 9_001), event("a", "y", 20_000)]
    bucket = build(rows, rules(min_session_length=2))
    assert column(bucket, "item_id") == ["w", "x"]
    assert column(bucket, "session") == [0, 0]
    assert column(bucket, "basket") == [0, 1]
    assert bucket.counts["short_sessions"] == 2


def test_what_follows_a_cut_keeps_no_session_in_the_training_span() -> None:
    rows = [event("a", "v", 0), event("a", "w", 60), event("a", "x", 70)]
    assert column(build(rows, replace(by_time(50, 1_000), min_session_length=2)), "item_id") == ["w", "x"]


def test_a_look_that_does_not_last_is_left_out() -> None:
    rows = [
        event("a", "bounce", 0),
        event("a", "shown", 1, "impression"),
        event("a", "stay", 2),
        event("a", "quick", 12, "add_to_cart"),
        event("a", "last", 13),
    ]
    bucket = build(rows, rules(min_dwell_seconds=5))
    assert column(bucket, "item_id") == ["stay", "quick", "last"]
    assert bucket.counts["bounces"] == 1


def test_an_impression_ends_no_look() -> None:
    rows = [event("a", "x", 0), event("a", "y", 1, "impression"), event("a", "z", 60)]
    assert column(build(rows, rules(min_dwell_seconds=5)), "item_id") == ["x", "z"]


def test_whoever_does_more_in_a_day_than_anybody_can_is_a_robot() -> None:
    slow = [event("human", "x", at * 8 * HOUR) for at in range(9)]
    fast = [event("robot", "y", 5 * DAY + at * 7 * HOUR) for at in range(4)] + [event("robot", "z", 0)]
    bucket = build(slow + fast, rules(max_daily_events=3))
    assert set(column(bucket, "user_id")) == {"human"}
    assert (bucket.counts["robots"], bucket.counts["robot_shoppers"], bucket.counts["shoppers"]) == (5, 1, 1)
    assert "y" not in [row["item_id"] for row in bucket.products.to_pylist() if row["train_count"]]


def test_the_transform_counts_what_it_leaves_out(tmp_path: Path) -> None:
    rows = [event("robot", f"i{at % 7}", at * 60) for at in range(50)]
    rows += [
        event(user, f"i{day}", day * DAY + user_place) for user_place, user in enumerate("abc") for day in range(10)
    ]
    (tmp_path / "out").mkdir()
    data = write(tmp_path / "data", "events", rows)
    run_transform(data, tmp_path / "out", config(max_daily_events=40))
    statistics = read_json(str(tmp_path / "out" / "statistics.json"))
    assert (statistics["robots"], statistics["robot_shoppers"], statistics["interactions"]) == (50, 1, 30)


def test_unknown_reset_is_named_with_what_there_is(tmp_path: Path) -> None:
    data = write(tmp_path / "data", "events", [event("a", "x", 0)])
    with pytest.raises(
        DataError, match=r"transform\.session_resets: must be some of .*search.*received 'serach'.*search"
    ):
        run_transform(data, tmp_path, config(session_resets=("serach",)))


def test_what_follows_a_cut_bounces_no_look_before_it() -> None:
    rows = [event("a", "x", 0), event("a", "y", 9), event("a", "z", 10)]
    strict = replace(by_time(10, 20), min_dwell_seconds=5)
    assert column(build(rows, strict), "item_id") == ["x", "y", "z"]
    assert column(build(rows, rules(min_dwell_seconds=5)), "item_id") == ["x", "z"]


def test_a_product_that_only_robots_met_is_in_no_catalogue() -> None:
    rows = [*(event("robot", item, at) for at, item in enumerate("uvw")), event("a", "x", 0)]
    assert build(rows, rules(max_daily_events=2)).products["item_id"].to_pylist() == ["x"]


def test_a_session_without_an_interaction_before_the_cut_leaves_no_gap() -> None:
    shown = event("ann", "x", 0, "impression", session="s1")
    looked = event("ann", "x", 0, session=None)
    later = event("ann", "x", 8 * DAY, session="s1")
    cut = by_time(8 * DAY, 9 * DAY)
    with_future = build([shown, looked, later], cut).interactions.to_pylist()
    assert [(row["session"], row["span"]) for row in with_future] == [(0, 0), (1, 1)]
    assert build([shown, looked], cut).interactions.to_pylist()[0] == with_future[0]
