"""Events that come day by day: each day is read once, and the output is that of reading everything."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.transform.event_logs import Row, logs, with_every_span
from tests.transform.small_tables import START, by_user, config, event, files_of, table, write
from transform.beam_transform import run_transform
from transform.checks import DataError
from transform.clock import DAY, HOUR
from transform.config import SplitConfig
from transform.tables import DAYS_FOLDER, EVENTS

LAST_DAYS = SplitConfig(validation_days=1, test_days=1)
DAYS = [
    [event("ann", "a", 60), event("bob", "b", 3 * HOUR, "purchase"), event("ann", "b", 23 * HOUR + 3_500)],
    [event("ann", "c", DAY + 60), event("bob", "a", DAY + HOUR), event("bob", "a", DAY + HOUR + 5, "add_to_cart")],
    [event("cy", "a", 2 * DAY + 9), event("ann", "a", 2 * DAY + HOUR), event("bob", "d", 2 * DAY + HOUR)],
    [event("cy", "b", 3 * DAY + 9), event("dee", "d", 3 * DAY + HOUR), event("ann", "d", 3 * DAY + 2 * HOUR)],
    [event("cy", "d", 4 * DAY), event("dee", "b", 4 * DAY + 7), event("bob", "c", 4 * DAY + 8)],
]


def deliver(
    data: Path, day: int, rows: list[Row], name: str = "{}.parquet", columns: Sequence[str] | None = None
) -> Path:
    """Events that came on the day so many after START, as a file named by it; `columns`: of a delivery without rows."""
    file = data / "events" / name.format(f"2024-01-{day + 1:02d}")
    file.parent.mkdir(parents=True, exist_ok=True)
    made = table("events", rows)
    if columns is not None:
        made = pa.Table.from_pylist(rows, pa.schema([field for field in EVENTS if field.name in columns]))
    pq.write_table(made, file)
    return file


def spoil(file: Path) -> None:
    """Makes the rows unreadable; metadata, size and time stay."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[4 : len(content) // 3] = bytes(len(content) // 3 - 4)
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def transform(data: Path, output: Path, previous: Path | None = None, **more: Any) -> dict[str, Any]:
    """Statistics of a transform."""
    output.mkdir()
    run_transform(data, output, config(**{"split": LAST_DAYS} | more), previous)
    statistics: dict[str, Any] = json.loads((output / "statistics.json").read_text())
    return statistics


def results(output: Path) -> dict[str, bytes]:
    """What other steps read."""
    return {name: content for name, content in files_of(output).items() if not name.startswith(f"{DAYS_FOLDER}/")}


def test_a_new_day_is_read_alone_and_joined(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / "data"
    files = [deliver(data, day, rows) for day, rows in enumerate(DAYS[:4])]
    transform(data, tmp_path / "before")
    for file in files:
        spoil(file)
    deliver(data, 4, DAYS[4])
    with caplog.at_level(logging.INFO):
        transform(data, tmp_path / "joined", tmp_path / "before")
    assert "events: 4 of 5 deliveries were read before, 1 is new (2024-01-05.parquet)" in caplog.text

    whole = tmp_path / "whole"
    write(whole, "events", [row for rows in DAYS for row in rows])
    transform(whole, tmp_path / "at-once")
    assert results(tmp_path / "joined") == results(tmp_path / "at-once")
    assert not (tmp_path / "at-once" / DAYS_FOLDER).exists()
    with pytest.raises(DataError, match=r"2024-01-01.parquet, row group 0: cannot be read"):
        transform(data, tmp_path / "unkept", tmp_path / "before", incremental=False)


def test_nothing_new_reads_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / "data"
    files = [deliver(data, day, rows) for day, rows in enumerate(DAYS)]
    transform(data, tmp_path / "first")
    for file in files:
        spoil(file)
    with caplog.at_level(logging.INFO):
        transform(data, tmp_path / "second", tmp_path / "first")
    assert "events: all 5 deliveries were read before" in caplog.text
    assert results(tmp_path / "second") == results(tmp_path / "first")


def test_folders_are_days(tmp_path: Path) -> None:
    flat, nested = tmp_path / "flat", tmp_path / "nested"
    for day, rows in enumerate(DAYS):
        deliver(flat, day, rows)
        deliver(nested, day, rows[:1], "day={}/part-0.parquet")
        deliver(nested, day, rows[1:], "day={}/part-1.parquet")
        deliver(nested, day, rows, "day={}/_temporary/part-2.parquet")
    transform(flat, tmp_path / "of-files")
    transform(nested, tmp_path / "of-folders")
    assert results(tmp_path / "of-folders") == results(tmp_path / "of-files")
    assert len(list((tmp_path / "of-folders" / DAYS_FOLDER).iterdir())) == len(DAYS)
    deliver(nested, 4, [event("eve", "a", 4 * DAY + 99)], "day={}/part-9.parquet")
    transform(nested, tmp_path / "again", tmp_path / "of-folders")
    assert "eve" in by_user(tmp_path / "again")


def test_a_day_that_comes_twice_changes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for day, rows in enumerate(DAYS):
        deliver(data, day, rows)
    once = transform(data, tmp_path / "once")
    deliver(data, 3, DAYS[3])
    transform(data, tmp_path / "rewritten", tmp_path / "once")
    assert results(tmp_path / "rewritten") == results(tmp_path / "once")
    deliver(data, 3, DAYS[3], "{}-again.parquet")
    twice = transform(data, tmp_path / "twice", tmp_path / "once")
    assert by_user(tmp_path / "twice") == by_user(tmp_path / "once")
    assert (twice["duplicates"], twice["interactions"]) == (len(DAYS[3]), once["interactions"])


def test_a_corrected_day_replaces_what_it_was(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for day, rows in enumerate(DAYS):
        deliver(data, day, rows)
    transform(data, tmp_path / "wrong")
    deliver(data, 1, DAYS[1][:1])
    transform(data, tmp_path / "corrected", tmp_path / "wrong")
    transform(data, tmp_path / "anew")
    assert results(tmp_path / "corrected") == results(tmp_path / "anew")
    assert by_user(tmp_path / "corrected")["bob"]["timestamps"][:2] == [START + 3 * HOUR, START + 2 * DAY + HOUR]


def test_a_day_that_is_gone_counts_no_longer(tmp_path: Path) -> None:
    data = tmp_path / "data"
    files = [deliver(data, day, rows) for day, rows in enumerate(DAYS)]
    transform(data, tmp_path / "five")
    files[0].unlink()
    transform(data, tmp_path / "four", tmp_path / "five")
    transform(data, tmp_path / "anew")
    assert results(tmp_path / "four") == results(tmp_path / "anew")
    assert len(list((tmp_path / "four" / DAYS_FOLDER).iterdir())) == 4


def test_late_events_count_within_the_days_that_are_waited_for(tmp_path: Path) -> None:
    data = tmp_path / "data"
    late = [event("ann", "d", 2 * DAY + 5), event("ann", "b", 2 * DAY - 1), event("bob", "d", 30)]
    for day, rows in enumerate(DAYS):
        deliver(data, day, rows + late * (day == 4))
    every = transform(data, tmp_path / "every")
    assert (every["late"], every["rows_read"]) == (0, 18)
    waited = transform(data, tmp_path / "waited", tmp_path / "every", late_days=2)
    # The fifth day waits for those from the third on.
    assert (waited["late"], waited["rows_read"]) == (2, 18)
    assert waited["interactions"] == every["interactions"] - 2
    assert START + 2 * DAY + 5 in by_user(tmp_path / "waited")["ann"]["timestamps"]
    assert START + 2 * DAY - 1 not in by_user(tmp_path / "waited")["ann"]["timestamps"]


def test_nothing_but_late_events_is_an_error(tmp_path: Path) -> None:
    deliver(tmp_path / "data", 9, DAYS[0])
    with pytest.raises(DataError, match=r"events: all 3 came more than transform.late_days = 1 days after"):
        transform(tmp_path / "data", tmp_path / "output", late_days=1)


def test_a_first_file_of_all_that_was_has_no_late_events(tmp_path: Path) -> None:
    data = tmp_path / "data"
    deliver(data, 0, [row for rows in DAYS[:4] for row in rows], "history.parquet")
    deliver(data, 4, DAYS[4])
    found = transform(data, tmp_path / "output", late_days=0)
    assert (found["late"], found["rows_read"]) == (0, 15)
    assert len(list((tmp_path / "output" / DAYS_FOLDER).iterdir())) == 2


def test_what_comes_late_stands_where_it_belongs(tmp_path: Path) -> None:
    in_time, late = tmp_path / "in-time", tmp_path / "late"
    for day, rows in enumerate(DAYS):
        deliver(in_time, day, rows)
    for day, rows in enumerate(DAYS):
        deliver(late, day, rows[:2] + (DAYS[day - 1][2:] if day else []) + (rows[2:] if day == 4 else []))
    transform(in_time, tmp_path / "first")
    transform(late, tmp_path / "second", late_days=1)
    assert by_user(tmp_path / "second") == by_user(tmp_path / "first")


def test_days_without_names_have_no_late_events(tmp_path: Path) -> None:
    write(tmp_path / "data", "events", [row for rows in DAYS for row in rows])
    with pytest.raises(DataError, match=r"transform.late_days: received 2, but .* Name their files by the day"):
        transform(tmp_path / "data", tmp_path / "output", late_days=2)


def test_the_window_is_the_newest_days(tmp_path: Path) -> None:
    data, recent = tmp_path / "data", tmp_path / "recent"
    for day, rows in enumerate(DAYS):
        deliver(data, day, rows)
        if day >= 2:
            deliver(recent, day, rows)
    everything = transform(data, tmp_path / "everything")
    assert (everything["window_start"], everything["before_window"]) == (None, 0)
    window = transform(data, tmp_path / "window", tmp_path / "everything", window_days=3)
    assert (window["window_start"], window["before_window"]) == (START + 2 * DAY, 6)
    transform(recent, tmp_path / "alone")
    left_out = {"statistics.json"}
    assert {k: v for k, v in results(tmp_path / "window").items() if k not in left_out} == {
        k: v for k, v in results(tmp_path / "alone").items() if k not in left_out
    }


def test_the_window_may_begin_within_a_file(tmp_path: Path) -> None:
    write(tmp_path / "data", "events", [row for rows in DAYS for row in rows])
    found = transform(tmp_path / "data", tmp_path / "output", window_days=4)
    assert found["before_window"] == 3
    assert min(time for one in by_user(tmp_path / "output").values() for time in one["timestamps"]) == START + DAY + 60


def test_a_window_needs_times(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "timestamp"} for rows in DAYS for row in rows]
    write(tmp_path / "data", "events", rows)
    with pytest.raises(DataError, match=r"transform.window_days: received 3, but the events .* have no column"):
        transform(tmp_path / "data", tmp_path / "output", window_days=3, split=SplitConfig(method="leave_one_out"))


def test_settings_that_decide_about_rows_read_days_anew(tmp_path: Path) -> None:
    data = tmp_path / "data"
    files = [deliver(data, day, rows) for day, rows in enumerate(DAYS)]
    transform(data, tmp_path / "first")
    for file in files:
        spoil(file)
    # Sessions are made of what was read.
    transform(data, tmp_path / "sessions", tmp_path / "first", session_gap_minutes=5)
    with pytest.raises(DataError, match="cannot be read"):
        transform(data, tmp_path / "buckets", tmp_path / "first", buckets=2)


def test_bad_rows_of_days_read_before_are_still_told(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for day, rows in enumerate(DAYS):
        deliver(data, day, rows + [event("", "a", day * DAY)] * (day == 1))
    found = transform(data, tmp_path / "first", max_bad_share=0.5)
    again = transform(data, tmp_path / "second", tmp_path / "first", max_bad_share=0.5)
    assert again == found
    letters = tmp_path / "second" / "dead_letter" / "events-2024-01-02-00000.jsonl"
    assert [json.loads(line)["row"] for line in letters.read_text().splitlines()] == [3]
    with pytest.raises(DataError, match=r"2024-01-02.parquet, row 3"):
        transform(data, tmp_path / "strict", tmp_path / "first", max_bad_share=0.01)


def test_what_was_in_the_future_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    for day, rows in enumerate(DAYS):
        deliver(data, day, rows)
    monkeypatch.setattr("transform.beam_transform.time.time", lambda: START + 4 * DAY - HOUR)
    early = transform(data, tmp_path / "early", max_bad_share=0.5, max_future_hours=0)
    assert early["rejected"] == {"timestamp: must not be in the future": 3}
    monkeypatch.setattr("transform.beam_transform.time.time", lambda: START + 5 * DAY)
    assert transform(data, tmp_path / "late", tmp_path / "early", max_future_hours=0)["rejected"] == {}
    assert not (tmp_path / "late" / "dead_letter").exists()


def test_a_day_that_was_not_finished_is_read_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for day, rows in enumerate(DAYS):
        deliver(data, day, rows)
    transform(data, tmp_path / "first")
    expected = results(tmp_path / "first")
    for folder in (tmp_path / "first" / DAYS_FOLDER).iterdir():
        (folder / "whole.json").unlink()
    transform(data, tmp_path / "second", tmp_path / "first")
    assert results(tmp_path / "second") == expected


@settings(max_examples=4, suppress_health_check=list(HealthCheck), deadline=None, derandomize=True)
@given(logs(), st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_deliveries_in_any_cut_give_what_one_gives(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], deliveries: list[int]
) -> None:
    """The order of one shopper's events at one second is that of the files."""
    folder = tmp_path_factory.mktemp("cut")
    rows = with_every_span(rows)
    parts = [[row for row, part in zip(rows, deliveries, strict=False) if part == number] for number in range(4)]
    parts[3] += rows[len(deliveries) :]
    write(folder / "whole", "events", [row for part in parts for row in part])
    transform(folder / "whole", folder / "at-once", split=config().split)
    before = None
    for number in range(4):
        # Empty deliveries come, too; the last one completes what the split asks for.
        deliver(folder / "data", number, parts[number], columns=list(rows[0]))
        after = folder / f"after-{number}"
        try:
            transform(folder / "data", after, before, split=config().split)
            before = after
        except DataError:
            assert number < 3
    assert before is not None
    assert results(before) == results(folder / "at-once")
