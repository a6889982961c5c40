"""Properties of the transform over generated event logs: its rules, no leak, nothing lost, no trace of the reading."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.transform.event_logs import Row, logs, with_every_span, write_files
from tests.transform.plain_rules import Expected, expected, positions
from tests.transform.small_tables import START, by_user, config, examples, files_of, table, write
from tests.transform.test_interactions import HISTORY, LEAVE_ONE_OUT, by_time, places
from trainer.propensity import load_position_counts
from transform.beam_transform import run_transform
from transform.checks import conform
from transform.clock import DAY
from transform.config import BeamConfig
from transform.feature_schema import read_vocabulary
from transform.interactions import DROPS, Bucket, Rules, build_bucket
from transform.reading import EventRows
from transform.tables import EVENT_TYPES, FIRST

Folders = pytest.TempPathFactory
DirtyLog = tuple[list[Row], list[Row], int, int]
CUTS = by_time(8 * DAY, 9 * DAY)
# The last one leaves clicks and carts out of histories.
FEW_TYPES = Rules(True, 1_800, frozenset(EVENT_TYPES[name] for name in ("view", "purchase")), CUTS.cuts)
STRICT: dict[str, Any] = {
    "session_resets": frozenset([EVENT_TYPES["click"]]),
    "max_daily_events": 6,
    "min_dwell_seconds": 2,
    "max_session_length": 2,
    "min_session_length": 2,
}
# Robots aside, who are known by all that they did.
DWELLING = replace(by_time(2, 4_000), min_dwell_seconds=2)
DIVIDED = replace(by_time(2, 4_000), **STRICT | {"max_daily_events": 0})
RESETS = frozenset([EVENT_TYPES["impression"]])
RULES = st.sampled_from(
    [
        LEAVE_ONE_OUT,
        CUTS,
        by_time(1, 1_700),
        by_time(2, 4_000),
        FEW_TYPES,
        replace(LEAVE_ONE_OUT, max_session_length=1, session_resets=RESETS),
        replace(LEAVE_ONE_OUT, **STRICT),
        replace(by_time(2, 4_000), **STRICT),
    ]
)
NO_CLOCK = Rules(False, 1_800, HISTORY, None)
_COMPARED = ("user_id", "item_id", "type", "label", "timestamp", "session", "basket", "span")
_IF_PRESENT = ("device", "region", "quantity", "price", "surface", "position")

# Each example of these takes a second or two: four Beam pipelines.
FEW = settings(max_examples=1, suppress_health_check=list(HealthCheck), derandomize=True)
HALF = settings(max_examples=40)
MANY = settings(max_examples=40, suppress_health_check=list(HealthCheck))


# --- the rules, on columns


def spilled(rows: list[Row]) -> pa.Table:
    """Events as the reader spills them, all in one bucket."""
    events = conform(table("events", rows), "events", "", encoded=True).append_column(
        "row", pa.array(range(len(rows)), pa.int64())
    )
    ((_, found),) = EventRows(now=0, max_future_seconds=0, buckets=1, history_types=()).parts(events)
    return found


def build(rows: list[Row], rules: Rules) -> Bucket:
    return build_bucket(spilled(rows), rules)


def check_bucket(rows: list[Row], rules: Rules) -> None:
    """Interactions, counts, contexts, products and positions are those of the rules written event by event."""
    plain, bucket = expected(rows, rules), build(rows, rules)
    names = [*_COMPARED, *(name for name in _IF_PRESENT if name in rows[0])]
    found = [
        {name: row[name] if row[name] == row[name] else None for name in names}
        for row in bucket.interactions.to_pylist()
    ]
    assert found == [{name: row[name] for name in names} for row in plain.interactions]
    assert {name: bucket.counts[name] for name in (*DROPS, "interactions")} == dict.fromkeys(DROPS, 0) | plain.counts
    assert sum(plain.counts.values()) == len(rows)
    contexts = {(row["feature"], row["value"]): row["count"] for row in bucket.contexts.to_pylist() if row["count"]}
    assert contexts == Counter(
        (name, row[name]) for name in ("device", "region") for row in plain.training if row[name]
    )
    assert set(bucket.products["item_id"].to_pylist()) == {row["item_id"] for row in plain.events if row["item_id"]}
    for product in bucket.products.to_pylist():
        trained = [row for row in plain.training if row["item_id"] == product["item_id"]]
        bought = [row for row in trained if row["label"] & 1 << 6]
        assert (product["train_count"], product["train_purchases"]) == (len(trained), len(bought))
        seen = [row["timestamp"] for row in plain.events if row["item_id"] == product["item_id"]]
        assert product["first_seen"] == (min(seen) if rules.has_timestamps else None)
    shown: Counter[tuple[Any, ...]] = Counter()
    for item, surface, position, impressions, clicks in places(bucket):
        shown.update(
            {(item, surface, position, "impressions"): impressions, (item, surface, position, "clicks"): clicks}
        )
    assert +shown == positions(plain, rules)


@given(logs(), RULES)
def test_whole_columns_give_what_one_event_after_the_other_gives(rows: list[Row], rules: Rules) -> None:
    check_bucket(rows, rules)


@HALF
@given(logs())
def test_without_a_clock_the_source_order_gives_the_same(rows: list[Row]) -> None:
    check_bucket([{name: value for name, value in row.items() if name != "timestamp"} for row in rows], NO_CLOCK)


@pytest.mark.slow
@settings(max_examples=2_000)
@given(logs(), logs(), st.sampled_from([CUTS, by_time(2, 4_000), DWELLING, DIVIDED]))
def test_no_training_span_of_many_knows_the_future(rows: list[Row], others: list[Row], rules: Rules) -> None:
    check_future(rows, others, rules)


@pytest.mark.slow
@settings(max_examples=3_000)
@given(logs(max_events=60), RULES)
def test_long_logs_keep_the_rules_too(rows: list[Row], rules: Rules) -> None:
    check_bucket(rows, rules)


@HALF
@given(logs(), RULES)
def test_a_shoppers_spans_sessions_and_times_follow_each_other(rows: list[Row], rules: Rules) -> None:
    found = build(rows, rules).interactions.to_pandas()
    for _, own in found.groupby("user_id", observed=True):
        assert (np.diff(own["timestamp"]) >= 0).all()
        assert (np.diff(own["span"]) >= 0).all()
        # Baskets are numbered as they come; a shop's own sessions may be interleaved.
        assert sorted(set(own["session"])) == list(range(own["session"].nunique()))
        assert (np.diff(own["basket"], prepend=-1) <= 1).all()
    if rules.cuts:
        assert (np.searchsorted(rules.cuts, found["timestamp"], side="right") == found["span"]).all()
        of_basket = found.groupby(["user_id", "basket"], observed=True)
        assert (of_basket[["timestamp", "span"]].nunique() == 1).all(axis=None)


@HALF
@given(logs(), RULES, st.randoms(use_true_random=False))
def test_the_order_in_which_rows_are_read_does_not_matter(rows: list[Row], rules: Rules, random: Any) -> None:
    events = spilled(rows)
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    again, once = build_bucket(events.take(pa.array(shuffled)), rules), build_bucket(events, rules)
    np.testing.assert_equal(again.interactions.to_pydict(), once.interactions.to_pydict())
    assert (again.counts, places(again)) == (once.counts, places(once))


@HALF
@given(logs(distinct_times=True), RULES, st.randoms(use_true_random=False))
def test_the_order_of_the_source_does_not_matter_where_times_tell(rows: list[Row], rules: Rules, random: Any) -> None:
    shuffled = rows.copy()
    random.shuffle(shuffled)
    once, again = build(rows, rules), build(shuffled, rules)
    np.testing.assert_equal(again.interactions.to_pydict(), once.interactions.to_pydict())
    assert again.counts == once.counts


@given(logs(), logs(), st.sampled_from([CUTS, by_time(2, 4_000), DWELLING, DIVIDED]))
def test_the_training_span_does_not_know_the_future(rows: list[Row], others: list[Row], rules: Rules) -> None:
    check_future(rows, others, rules)


def check_future(rows: list[Row], others: list[Row], rules: Rules) -> None:
    """What a bucket tells of its training span is the same after `others` have taken the place of what came later."""
    assert rules.cuts is not None
    cut = rules.cuts[0]
    past = [row for row in rows if row["timestamp"] < cut]
    future = [{**dict.fromkeys(rows[0]), **row, "item_id": "new"} for row in others if row["timestamp"] >= cut]
    future = [{name: row[name] for name in rows[0]} for row in future]
    found, changed = build(rows, rules), build([*past, *future] or rows, rules)
    if not past:
        return
    assert known_in_training(found) == known_in_training(changed)


def known_in_training(bucket: Bucket) -> list[Any]:
    """All that a bucket tells of the training span."""
    interactions = [repr(row) for row in bucket.interactions.to_pylist() if row["span"] == 0]
    products = [row for row in bucket.products.to_pylist() if row["train_count"]]
    contexts = sorted(str(row) for row in bucket.contexts.to_pylist() if row["count"])
    return [interactions, sorted(map(str, products)), contexts, places(bucket)]


# --- the whole transform, files to files


def run(folders: Folders, rows: list[Row], files: int = 1, row_group_size: int = 1_000, **more: Any) -> Path:
    """Output of the transform over the events `rows`."""
    folder = folders.mktemp("run")
    write(write_files(folder / "data", rows, files, row_group_size), "items", ITEMS)
    output = folder / "output"
    output.mkdir()
    run_transform(folder / "data", output, config(max_bad_share=0.9, **more))
    return output


# Known before the cut, after it, and by nothing but the events.
ITEMS = [
    {"item_id": "x", "brand": "Acme", "created_at": START - DAY},
    {"item_id": "new", "brand": "Novum", "created_at": START + 8 * DAY},
]
BAD: list[Row] = [{"item_id": ""}, {"user_id": None}, {"type": "bought"}, {"timestamp": 0}, {"timestamp": 10**12}]


def check_output(rows: list[Row], output: Path) -> None:
    """TFRecords, vocabularies and counts are those of the rules written event by event."""
    plain = expected(rows, CUTS)
    found = by_user(output)
    ids = read_vocabulary(output / "vocabularies" / "item_ids.txt")
    named = {row["item_id"] for row in plain.events if row["item_id"]}
    assert ids[FIRST:] == sorted(named | {item["item_id"] for item in ITEMS})
    assert set(found) == {row["user_id"] for row in plain.interactions}
    for user, example in found.items():
        own = [row for row in plain.interactions if row["user_id"] == user]
        assert [ids[row] for row in example["rows"]] == [row["item_id"] for row in own]
        for feature in ("type", "label", "timestamp", "session", "basket"):
            assert example[f"{feature}s"] == [row[feature] for row in own]
        ends = [sum(row["span"] < span for row in own) for span in (1, 2)]
        assert [*example["train_end"], *example["validation_end"]] == ends
        for feature, plural in (("device", "devices"), ("region", "regions")):
            words = vocabulary_of(plain, feature)
            assert example[plural] == (
                [words.get(row[feature], 1) if row[feature] else 0 for row in own] if words else []
            )
    counts = Counter(row["item_id"] for row in plain.training)
    for item in examples(output, "items-*.tfrecord"):
        assert item["train_count"] == [counts[item["item_id"][0].decode()]]
    assert read_vocabulary(output / "vocabularies" / "brand.txt")[FIRST:] == ["Acme"]


def vocabulary_of(plain: Expected, feature: str) -> dict[str, int]:
    """Ids of the values of one context feature: the most frequent in training first, ties by bytes."""
    counts = Counter(row[feature] for row in plain.training if row[feature])
    words = sorted(counts, key=lambda word: (-counts[word], word.encode()))
    return {word: place for place, word in enumerate(words, start=FIRST)}


def check_nothing_lost(read: int, bad: int, plain: Expected, output: Path) -> None:
    """In = out + counted drops, in the statistics and in the files."""
    told = json.loads((output / "statistics.json").read_text())
    assert (told["rows_read"], sum(told["rejected"].values())) == (read, bad)
    assert {name: told[name] for name in (*DROPS, "interactions")} == dict.fromkeys(DROPS, 0) | plain.counts
    assert read == bad + told["interactions"] + sum(told[name] for name in DROPS)
    assert sum(len(example["rows"]) for example in by_user(output).values()) == told["interactions"]
    letters = [line for file in output.glob("dead_letter/*") for line in file.read_text().splitlines()]
    assert len(letters) == bad


@st.composite
def dirty_logs(draw: st.DrawFn) -> DirtyLog:
    """Good events, the same with bad ones in between, a number of files and a row group size."""
    good = with_every_span(draw(logs(max_events=40)))
    rows = list(good)
    for broken in draw(st.lists(st.sampled_from(BAD), max_size=4)):
        rows.insert(draw(st.integers(0, len(rows))), draw(st.sampled_from(good)) | broken)
    return good, rows, draw(st.integers(1, 4)), draw(st.integers(1, 9))


def check_whole(folders: Folders, log: DirtyLog) -> None:
    good, rows, files, row_group_size = log
    output = run(folders, rows, files, row_group_size)
    check_output(good, output)
    check_nothing_lost(len(rows), len(rows) - len(good), expected(good, CUTS), output)


@FEW
@given(dirty_logs())
def test_files_hold_what_the_rules_say_and_nothing_is_lost(tmp_path_factory: Folders, log: DirtyLog) -> None:
    check_whole(tmp_path_factory, log)


@pytest.mark.slow
@MANY
@given(dirty_logs())
def test_many_files_hold_what_the_rules_say(tmp_path_factory: Folders, log: DirtyLog) -> None:
    check_whole(tmp_path_factory, log)


def check_reading_leaves_no_trace(folders: Folders, rows: list[Row], random: Any, options: tuple[str, ...]) -> None:
    shuffled = rows.copy()
    random.shuffle(shuffled)
    again = run(folders, shuffled, 3, 2, beam=BeamConfig(options=options))
    assert files_of(again) == files_of(run(folders, rows))


_DISTINCT = logs(max_events=40, distinct_times=True).map(with_every_span)
_THREADS = ("--direct_running_mode=multi_threading", "--direct_num_workers=2")


@FEW
@given(_DISTINCT, st.randoms(use_true_random=False))
def test_shuffled_files_read_by_two_threads_change_no_byte(
    tmp_path_factory: Folders, rows: list[Row], random: Any
) -> None:
    check_reading_leaves_no_trace(tmp_path_factory, rows, random, _THREADS)


@pytest.mark.slow
@settings(MANY, max_examples=20)
@given(_DISTINCT, st.randoms(use_true_random=False), st.sampled_from([(), _THREADS]))
def test_no_shuffle_of_many_changes_a_byte(
    tmp_path_factory: Folders, rows: list[Row], random: Any, options: tuple[str, ...]
) -> None:
    check_reading_leaves_no_trace(tmp_path_factory, rows, random, options)


def check_no_leak(folders: Folders, rows: list[Row]) -> None:
    """What happens after the cut is another story; what is told of the training span stays as it was."""
    cut = START + 8 * DAY
    other = {"item_id": "new", "device": "tablet", "region": "south", "surface": "email"}
    story = {name: value for name, value in other.items() if name in rows[0]}
    changed = [row if row["timestamp"] < cut else row | story for row in rows]
    changed += [row | story for row in rows if row["timestamp"] >= cut + DAY]
    assert told_of_training(run(folders, changed)) == told_of_training(run(folders, rows))


def told_of_training(output: Path) -> dict[str, Any]:
    """Vocabularies but that of all products' ids, training parts of histories, counts and positions, by item id."""
    words = {file.name: file.read_text() for file in output.glob("vocabularies/*.txt") if file.name != "item_ids.txt"}
    ids = read_vocabulary(output / "vocabularies" / "item_ids.txt")
    histories = {}
    for user, example in by_user(output).items():
        end = example["train_end"][0]
        parts = {name: repr(example.get(name, [])[:end]) for name in _HISTORY}
        histories[user] = [ids[row] for row in example["rows"][:end]], parts
    items = {}
    for item in examples(output, "items-*.tfrecord"):
        if item["train_count"] != [0]:
            items[item["item_id"][0]] = [
                item[name] for name in ("id_row", "train_count", "train_carts", "train_purchases")
            ]
    counts = load_position_counts(output)
    shown = [ids[row] for row in counts.rows.tolist()]
    return {
        "vocabularies": words,
        "histories": {user: history for user, history in histories.items() if history[0]},
        "items": items,
        "positions": sorted(zip(shown, *(getattr(counts, name).tolist() for name in _POSITIONS), strict=True)),
    }


_HISTORY = (
    "types",
    "labels",
    "timestamps",
    "sessions",
    "baskets",
    "devices",
    "regions",
    "positions",
    "surfaces",
    "prices",
)
_POSITIONS = ("surfaces", "positions", "impressions", "clicks")


@FEW
@given(logs(max_events=40).map(with_every_span))
def test_the_files_tell_nothing_of_the_future(tmp_path_factory: Folders, rows: list[Row]) -> None:
    check_no_leak(tmp_path_factory, rows)


@pytest.mark.slow
@settings(MANY, max_examples=20)
@given(logs(max_events=40).map(with_every_span))
def test_no_file_of_many_tells_of_the_future(tmp_path_factory: Folders, rows: list[Row]) -> None:
    check_no_leak(tmp_path_factory, rows)
