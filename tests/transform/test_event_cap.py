"""A shopper with too many events: the newest stay, with bounded memory, and all are counted."""

import json
import logging
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transform.small_tables import by_user, config, event, files_of, write
from transform.beam_transform import default_buckets, run_transform
from transform.clock import DAY, HOUR
from transform.event_cap import NewestEvents

ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=40)


def part(rows: list[tuple[int, str, int]]) -> pa.Table:
    """Place in the source, shopper, time."""
    places, users, times = zip(*rows, strict=True)
    return pa.table(
        {
            "row": pa.array(places, pa.int64()),
            "user_id": pa.array(users).dictionary_encode(),
            "timestamp": pa.array(times, pa.int64()),
        }
    )


@given(ROWS, st.integers(1, 6), st.integers(1, 9), st.randoms())
def test_the_newest_of_each_shopper_stay_in_whatever_order_they_come(rows, most, size, random) -> None:  # noqa: ANN001
    placed = [(place, user, time) for place, (user, time) in enumerate(rows)]
    shuffled = random.sample(placed, len(placed))
    newest = NewestEvents(most, held_rows=3)
    newest.add(part([(-1, "d", 0)]))
    for start in range(0, len(shuffled), size):
        newest.add(part(shuffled[start : start + size]))
    expected = {(-1, "d", 0)}
    for user in "abc":
        own = sorted((time, place) for place, name, time in placed if name == user)
        expected |= {(place, user, time) for time, place in own[-most:]}
    kept = [tuple(row.values()) for row in newest.table().to_pylist()]
    assert sorted(kept) == sorted(expected)
    lost = {name for _, name, _ in placed if sum(user == name for _, user, _ in placed) > most}
    assert newest.counts == {
        "events": len(rows) + 1,
        "over_cap": len(rows) + 1 - len(kept),
        "shoppers_over_cap": len(lost),
    }


def test_what_is_held_is_bounded_while_a_crawler_comes_in() -> None:
    newest = NewestEvents(10, held_rows=100)
    for start in range(0, 10_000, 50):
        newest.add(part([(place, "crawler", place) for place in range(start, start + 50)]))
        assert newest._rows <= 100 + 50
    assert newest.table().column("row").to_pylist() == list(range(9_990, 10_000))


def test_products_that_only_dropped_events_name_are_left_out_with_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crawler = [event("crawler", f"sku-{number}", number * HOUR) for number in range(10 * 24)]
    others = [event("ann", "sku-0", day * DAY) for day in (0, 8, 9)]
    write(tmp_path / "data", "events", [*crawler, *others], row_group_size=20)
    with caplog.at_level(logging.WARNING):
        run_transform(tmp_path / "data", tmp_path, config(max_events_per_shopper=200))
    found = json.loads((tmp_path / "statistics.json").read_text())
    assert (found["over_cap"], found["shoppers_over_cap"], found["interactions"]) == (40, 1, 203)
    assert found["rows_read"] == found["over_cap"] + found["interactions"]
    assert len(by_user(tmp_path)["crawler"]["rows"]) == 200
    assert found["items_in_events"] == 201  # sku-40 … sku-239 and sku-0
    assert "1 shoppers with more than 200 events each; the newest are kept, 40 older ones are left out" in caplog.text


def test_a_cap_that_nobody_reaches_changes_no_byte(tmp_path: Path) -> None:
    events = [event(user, f"sku-{number % 7}", number * HOUR) for user in "ab" for number in range(10 * 24)]
    write(tmp_path / "data", "events", events)
    for name, most in (("exact", 240), ("far", 1_000)):
        run_transform(tmp_path / "data", tmp_path / name, config(max_events_per_shopper=most))
    assert files_of(tmp_path / "exact") == files_of(tmp_path / "far")


def test_buckets_double_with_the_events() -> None:
    counts = (1, 8_000_000, 8_000_001, 16_000_000, 16_000_001, 40_000_000)
    assert [default_buckets(events) for events in counts] == [16, 16, 32, 32, 64, 128]
