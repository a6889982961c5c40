"""Exact counts and draws of days, against hand-worked numbers."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transform.small_tables import START
from transform.arrow_files import write_table
from transform.clock import DAY
from transform.day_counts import MOST_VALUES, OTHER, merge_day_counts
from transform.day_sample import day_shares, popularity_classes
from transform.interactions import Rules, build_bucket
from transform.tables import EVENT_TYPES

FIRST_DAY = START // DAY
RULES = Rules(True, 1800, frozenset({EVENT_TYPES["view"], EVENT_TYPES["purchase"]}), (START + 8 * DAY, START + 9 * DAY))


def bucket(rows: list[tuple[str, str, str, int, str | None, str | None]]) -> pa.Table:
    """Events (user, item, type, seconds after START, region, session) as the buckets get them."""
    users, items, types, seconds, regions, sessions = zip(*rows, strict=True)
    return pa.table(
        {
            "user_id": pa.array(users),
            "item_id": pa.array(items),
            "type": pa.array([EVENT_TYPES[name] for name in types], pa.int8()),
            "timestamp": pa.array([START + second for second in seconds]),
            "region": pa.array(regions, pa.string()),
            "session": pa.array(sessions, pa.string()),
            "row": pa.array(np.arange(len(rows))),
        }
    )


def counts_of(table: pa.Table) -> dict[tuple[int, str, str | None, str | None, str | None], int]:
    """Counts by (day after FIRST_DAY, measure, type, feature, value)."""
    return {
        (row["day"] - FIRST_DAY, row["measure"], row["type"], row["feature"], row["value"]): row["count"]
        for row in table.to_pylist()
    }


def test_a_small_shop_is_counted_by_hand() -> None:
    found = counts_of(
        build_bucket(
            bucket(
                [
                    ("ann", "x", "view", 0, "north", "s1"),
                    ("ann", "x", "view", 0, "north", "s1"),  # a copy
                    ("ann", "x", "impression", 3_600, "north", "s1"),
                    ("ann", "y", "purchase", 3_700, None, "s1"),
                    ("bob", "x", "view", 7_200, "south", "s1"),  # a session id of ann's
                    ("bob", "y", "view", DAY + 5, "south", None),
                ]
            ),
            RULES,
        ).days
    )
    content = {key: found.pop(key) for key in list(found) if key[1] == "content"}
    assert set(content) == {(0, "content", None, None, None), (1, "content", None, None, None)}
    assert found == {
        (0, "events", "view", None, None): 2,
        (0, "events", "impression", None, None): 1,
        (0, "events", "purchase", None, None): 1,
        (1, "events", "view", None, None): 1,
        (0, "events", "view", "region", "north"): 1,
        (0, "events", "view", "region", "south"): 1,
        (0, "events", "impression", "region", "north"): 1,
        (1, "events", "view", "region", "south"): 1,
        (0, "hours", None, None, "00"): 1,
        (0, "hours", None, None, "01"): 2,
        (0, "hours", None, None, "02"): 1,
        (1, "hours", None, None, "00"): 1,
        (0, "duplicates", None, None, None): 1,
        (0, "shoppers", None, None, None): 2,
        (1, "shoppers", None, None, None): 1,
        (1, "returning", None, None, None): 1,
        (0, "load", None, None, "1"): 3,  # ann's three lie between 2 and 3
        (0, "load", None, None, "0"): 1,
        (1, "load", None, None, "0"): 1,
        (0, "sessions", None, None, None): 2,
        (1, "sessions", None, None, None): 1,
        (0, "shared_sessions", None, None, None): 4,
        (0, "busiest", None, None, None): 3,
        (1, "busiest", None, None, None): 1,
    }


EVENT = st.tuples(
    st.sampled_from("abcdef"),
    st.sampled_from("xyz"),
    st.sampled_from(["view", "purchase", "impression"]),
    st.integers(0, 3 * DAY),
    st.sampled_from([None, "north", "south"]),
    st.none(),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(EVENT, min_size=1, max_size=40))
def test_buckets_add_up_to_the_whole(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    folder = tmp_path_factory.mktemp("buckets")

    def merged(parts: list[list]) -> list[dict]:
        files = []
        for number, part in enumerate(filter(None, parts)):
            files.append(str(folder / f"{number}.arrow"))
            write_table(files[-1], build_bucket(bucket(part), RULES).days)
        return merge_day_counts(files).to_pylist()

    assert merged([[row for row in rows if row[0] in users] for users in ("ab", "c", "def")]) == merged([rows[::-1]])


def test_rare_values_of_a_slice_become_one(tmp_path: pytest.TempPathFactory) -> None:
    rows = [
        ("ann", "x", "view", place, f"r{number:03d}", None)
        for number in range(MOST_VALUES + 5)
        for place in range(number * 100, number * 100 + (1 if number < 5 else 2))
    ]
    file = str(tmp_path / "days.arrow")
    write_table(file, build_bucket(bucket(rows), RULES).days)
    found = counts_of(merge_day_counts([file]))
    regions = {key[4]: count for key, count in found.items() if key[3] == "region"}
    assert len(regions) == MOST_VALUES + 1
    assert regions[OTHER] == 5


def test_a_day_delivered_under_another_date_has_the_same_content() -> None:
    rows = [("ann", "x", "view", 10, "north", None), ("bob", "y", "purchase", 50, None, None)]
    moved = [(*row[:3], row[3] + 2 * DAY, *row[4:]) for row in rows[::-1]]
    found = counts_of(build_bucket(bucket(rows + moved), RULES).days)
    assert found[0, "content", None, None, None] == found[2, "content", None, None, None]


def test_the_sample_of_a_day_has_the_size_that_was_asked_for() -> None:
    # Two days of 100 and 400 events that enter histories, half of all events.
    minutes = {str(FIRST_DAY * 1440): 100, str(FIRST_DAY * 1440 + 1440): 400}
    shares = day_shares(minutes, events=1_000, size=200)
    assert shares.first_day == FIRST_DAY
    assert shares.shares == pytest.approx((1.0, 0.25))
    assert shares.of(np.array([FIRST_DAY - 1, FIRST_DAY + 1, FIRST_DAY + 2])).tolist() == pytest.approx([0, 0.25, 0])


def test_popularity_classes_are_by_share_of_the_interactions() -> None:
    # Before each: 0, 0.5, 0.9 of the ten interactions, and none of its own.
    assert popularity_classes(np.array([4, 0, 1, 5])).to_pylist() == [
        "middle",
        "no training interaction",
        "tail",
        "head",
    ]
