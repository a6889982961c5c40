"""Canonical tables to TFRecords, through Beam."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.transform.small_tables import (
    PNG,
    START,
    by_user,
    config,
    event,
    examples,
    files_of,
    table,
    write,
)
from trainer.propensity import load_position_counts
from transform.beam_transform import run_transform
from transform.checks import DataError
from transform.clock import DAY, HOUR
from transform.config import BeamConfig, SplitConfig
from transform.feature_schema import read_schema, read_vocabulary
from transform.fingerprints import fingerprint
from transform.read_report import Report
from transform.read_step import check_report
from transform.sources import Source

EVENTS = [
    event("ann", "sku-b", 0, device="mobile", price=2.0),
    event("ann", "sku-b", 60, "purchase", device="mobile", price=2.0, quantity=2),
    event("ann", "sku-a", 90, "impression", device="mobile", surface="search", position=3),
    event("ann", "sku-a", 90, device="mobile", price=1.0, surface="search", position=3),
    event(
        "bob",
        "sku-b",
        3 * DAY,
        device="desktop",
        price=2.0,
        surface="home",
        position=1,
        attributes=["list=top", "propensity=0.5"],
    ),
    event("ann", "sku-new", 8 * DAY, device="tablet", price=4.0, surface="email", position=2),
    event("bob", "sku-only-here", 8 * DAY + 5, device="desktop"),
    event("ann", "sku-a", 9 * DAY + HOUR, "add_to_cart", device="mobile", price=1.0),
    event("bob", "sku-a", 9 * DAY + 7_200, "impression", device="desktop", surface="home", position=1),
]
ITEMS = [
    {
        "item_id": "sku-b",
        "title": "Blue shirt, blue!",
        "category": "Clothing > Shirts",
        "brand": "Acme",
        "price": 2.0,
        "attributes": ["colour=blue", "fit=slim"],
        "created_at": START - DAY,
        "available": False,
        "image": PNG,
    },
    {"item_id": "sku-a", "title": "Red shirt", "category": "Clothing", "brand": "Bolt", "price": 1.0},
    {"item_id": "sku-new", "title": "Green hat", "category": "Hats", "brand": "New brand", "price": 99.0},
]
ROWS = {"sku-a": 2, "sku-b": 3, "sku-new": 4, "sku-only-here": 5}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder, "events", EVENTS, row_group_size=3)
    return write(folder, "items", ITEMS)


@pytest.fixture(scope="module")
def output(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("output")
    run_transform(data, folder, config())
    return folder


def test_sequences_hold_collapsed_interactions_with_their_spans(output: Path) -> None:
    ann = by_user(output)["ann"]
    assert ann["rows"] == [ROWS["sku-b"], ROWS["sku-a"], ROWS["sku-new"], ROWS["sku-a"]]
    assert ann["types"] == [6, 2, 2, 5]
    assert ann["labels"] == [1 << 2 | 1 << 6, 1 << 2, 1 << 2, 1 << 5]
    assert ann["timestamps"] == [START + 60, START + 90, START + 8 * DAY, START + 9 * DAY + HOUR]
    assert ann["sessions"] == [0, 0, 1, 2]
    assert ann["baskets"] == [0, 1, 2, 3]
    assert ann["quantities"] == [2.0, 1.0, 1.0, 1.0]
    assert ann["prices"] == [2.0, 1.0, 4.0, 1.0]
    assert (ann["train_end"], ann["validation_end"]) == ([2], [3])


def test_context_ids_come_from_the_training_span(output: Path) -> None:
    # mobile twice, desktop once, tablet only afterwards.
    assert read_vocabulary(output / "vocabularies" / "device.txt")[2:] == ["mobile", "desktop"]
    assert by_user(output)["ann"]["devices"] == [2, 2, 1, 2]
    assert by_user(output)["ann"]["regions"] == []


def test_positions_and_surfaces_are_the_ways_in(output: Path) -> None:
    # home and search happen as often in training, email only afterwards.
    assert read_vocabulary(output / "vocabularies" / "surface.txt")[2:] == ["search", "home"]
    assert by_user(output)["ann"]["positions"] == [0, 3, 2, 0]
    assert by_user(output)["ann"]["surfaces"] == [0, 2, 1, 0]
    assert np.isnan(by_user(output)["ann"]["propensities"]).all()
    np.testing.assert_array_equal(by_user(output)["bob"]["propensities"], [0.5, np.nan])


def test_positions_are_counted_exactly_in_the_training_span(output: Path) -> None:
    home = {"surface": "home", "position": 1, "impressions": 0, "clicks": 1}
    search = {"surface": "search", "position": 3, "impressions": 1, "clicks": 1}
    assert json.loads((output / "statistics.json").read_text())["positions"] == [home, search]
    counts = load_position_counts(output)
    assert (counts.rows.tolist(), counts.surfaces.tolist()) == ([ROWS["sku-b"], ROWS["sku-a"]], [3, 2])


def test_shoppers_are_sorted_within_the_file_of_their_bucket(output: Path, data: Path) -> None:
    files = sorted(path.name for path in output.glob("sequences-*"))
    assert files == [f"sequences-{bucket:05d}-of-00003.tfrecord" for bucket in range(3)]
    users = table("events", EVENTS)["user_id"].unique()
    for user, bucket in zip(users.to_pylist(), (fingerprint(users) % np.uint64(3)).tolist(), strict=True):
        ids = [example["user_id"][0].decode() for example in examples(output, files[bucket])]
        assert user in ids
        assert ids == sorted(ids)


def test_catalogue_rows_are_sorted_by_id_and_include_products_of_events_alone(output: Path) -> None:
    items = examples(output, "items-*.tfrecord")
    assert {item["item_id"][0].decode(): item["row"][0] for item in items} == ROWS
    assert [item["row"][0] for item in items] == [2, 3, 4, 5]
    assert read_vocabulary(output / "vocabularies" / "item_ids.txt")[2:] == list(ROWS)


def test_id_rows_follow_training_counts_and_share_one_for_the_rest(output: Path) -> None:
    items = examples(output, "items-*.tfrecord")
    assert [item["train_count"][0] for item in items] == [1, 2, 0, 0]
    assert [item["id_row"][0] for item in items] == [3, 2, 1, 1]


def test_known_from_is_creation_or_else_first_sight(output: Path) -> None:
    known = [item["known_from"][0] - START for item in examples(output, "items-*.tfrecord")]
    assert known == [90, -DAY, 8 * DAY, 8 * DAY + 5]


def test_raw_content_is_kept_and_absent_content_is_an_empty_list(output: Path) -> None:
    first, second, _, only_here = examples(output, "items-*.tfrecord")
    assert (second["title"], second["image"], second["available"]) == ([b"Blue shirt, blue!"], [PNG], [0])
    assert (first["image"], first["available"], first["price_raw"]) == ([], [1], [1.0])
    assert only_here["title"] == only_here["brand"] == only_here["title_ids"] == only_here["price"] == []


def test_vocabularies_know_only_what_was_known_before_the_cut(output: Path) -> None:
    folder = output / "vocabularies"
    assert read_vocabulary(folder / "brand.txt")[2:] == ["Acme", "Bolt"]
    assert read_vocabulary(folder / "category.txt")[2:] == ["Clothing", "Clothing > Shirts"]
    assert read_vocabulary(folder / "title.txt")[2:] == ["blue", "shirt", "red"]
    assert read_vocabulary(folder / "attributes.txt")[2:] == ["colour=blue", "fit=slim"]


def test_content_ids_are_lines_of_the_vocabularies(output: Path) -> None:
    _, shirt, new, _ = examples(output, "items-*.tfrecord")
    assert shirt["category_ids"] == [2, 3]
    assert shirt["brand_ids"] == [2]
    assert shirt["attributes_ids"] == [2, 3]
    assert shirt["title_ids"] == [2, 3, 2]
    assert (new["category_ids"], new["brand_ids"], new["title_ids"]) == ([1], [1], [1, 1])


def test_prices_are_normalised_by_the_products_known_in_training(output: Path) -> None:
    logs = np.log1p([1.0, 2.0])
    price = {feature.name: feature for feature in read_schema(output).item}["price"]
    assert (price.mean, price.stddev) == pytest.approx((logs.mean(), logs.std()))
    normalised = [item["price"] for item in examples(output, "items-*.tfrecord")]
    assert normalised[0] == pytest.approx([-1.0], abs=1e-6)
    assert normalised[2] == pytest.approx([(np.log1p(99) - logs.mean()) / logs.std()])


def test_schema_lists_the_features_of_this_shop_in_order(output: Path) -> None:
    schema = read_schema(output)
    assert [feature.name for feature in schema.item] == ["category", "brand", "attributes", "price", "title"]
    assert [(feature.name, feature.vocabulary_size) for feature in schema.context] == [("device", 4)]
    assert (schema.catalogue_size, schema.id_embedding_size, schema.has_timestamps) == (6, 4, True)


def test_statistics_are_exact(output: Path) -> None:
    found = json.loads((output / "statistics.json").read_text())
    assert (found["rows_read"], found["interactions"], found["collapsed"], found["impressions"]) == (9, 6, 1, 2)
    assert found["spans"] == {
        "train": {"interactions": 3, "users": 2},
        "validation": {"interactions": 2, "users": 2},
        "test": {"interactions": 1, "users": 1},
    }
    assert (found["items_catalogue"], found["items_in_events"], found["items_only_in_events"]) == (3, 4, 1)
    assert (found["first_timestamp"], found["last_timestamp"]) == (START, START + 9 * DAY + 7_200)
    assert found["split"] == {"method": "time", "validation_start": START + 8 * DAY, "test_start": START + 9 * DAY}


def test_samples_are_flat_and_told_by_span(output: Path) -> None:
    (sample,) = examples(output, "samples/events-test.tfrecord")
    assert sample == {
        "item_id": [b"sku-a"],
        "type": [b"add_to_cart"],
        "known_item": [1],
        "device": [b"mobile"],
        "hour": [1],
        "weekday": [2],  # 10 January 2024, a Wednesday
        "price": [1.0],
        "quantity": [1.0],
        "position": [],
        "category": [b"Clothing"],
    }
    assert len(examples(output, "samples/events-train.tfrecord")) == 3


def test_nothing_but_results_is_left(output: Path) -> None:
    assert not (output / "tmp").exists()
    assert not list(output.rglob("*.partial"))
    assert not (output / "dead_letter").exists()


def test_row_groups_files_and_their_order_change_no_byte(data: Path, output: Path, tmp_path: Path) -> None:
    parts = tmp_path / "data" / "events"
    parts.mkdir(parents=True)
    events = table("events", EVENTS)
    pq.write_table(events.slice(5), parts / "a.parquet")
    pq.write_table(events.slice(0, 5), parts / "b.parquet", row_group_size=2)
    write(tmp_path / "data", "items", ITEMS[::-1], row_group_size=1)
    (tmp_path / "output").mkdir()
    run_transform(tmp_path / "data", tmp_path / "output", config())
    assert files_of(tmp_path / "output") == files_of(output)


def test_the_order_of_events_counts_only_within_a_second(tmp_path: Path) -> None:
    rows = [event(user, f"sku-{hour % 5}", hour * HOUR) for user in ("ann", "bob") for hour in range(10 * 24)]
    tied = [event("ann", item, 3) for item in ("sku-1", "sku-2")]
    for name, events in {
        "ordered": [*rows, *tied],
        "reversed": [*tied, *rows[::-1]],
        "tied": [*rows, *tied[::-1]],
    }.items():
        write(tmp_path / f"{name}-data", "events", events, row_group_size=100)
        run_transform(tmp_path / f"{name}-data", tmp_path / name, config())
    assert files_of(tmp_path / "reversed") == files_of(tmp_path / "ordered")
    assert by_user(tmp_path / "tied")["ann"]["rows"][1:3] == by_user(tmp_path / "ordered")["ann"]["rows"][2:0:-1]


@pytest.mark.parametrize(
    "mode", ["multi_threading", pytest.param("multi_processing", marks=pytest.mark.slow)]
)  # each of the four pipelines starts its own workers
def test_several_workers_write_the_same_bytes(mode: str, data: Path, output: Path, tmp_path: Path) -> None:
    workers = BeamConfig(options=(f"--direct_running_mode={mode}", "--direct_num_workers=2"))
    run_transform(data, tmp_path, config(beam=workers))
    assert files_of(tmp_path) == files_of(output)


def test_an_attempt_after_one_that_was_killed_leaves_no_trace_of_it(data: Path, output: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp" / "events").mkdir(parents=True)
    (tmp_path / "tmp" / "events.json").write_text("{")
    (tmp_path / "sequences-00007-of-00009.tfrecord").write_bytes(b"half")
    (tmp_path / "items-00000-of-00001.tfrecord.abc.partial").write_bytes(b"half")
    run_transform(data, tmp_path, config())
    assert files_of(tmp_path) == files_of(output)


# --- without a clock


def test_order_alone_is_enough_for_leave_one_out(tmp_path: Path) -> None:
    rows = [{"user_id": user, "item_id": item, "type": "view"} for user in "ab" for item in ("x", "y", "z", "x")]
    write(tmp_path / "data", "events", rows)
    run_transform(tmp_path / "data", tmp_path, config(split=SplitConfig(method="leave_one_out")))
    assert by_user(tmp_path)["b"]["timestamps"] == [0, 1, 2, 3]
    assert {"positions", "surfaces", "propensities"}.isdisjoint(by_user(tmp_path)["b"])
    assert json.loads((tmp_path / "statistics.json").read_text())["positions"] == []
    assert (by_user(tmp_path)["b"]["train_end"], by_user(tmp_path)["b"]["validation_end"]) == ([2], [3])
    schema = read_schema(tmp_path)
    assert (schema.has_timestamps, list(schema.item), schema.catalogue_size) == (False, [], 5)
    assert [item["known_from"] for item in examples(tmp_path, "items-*.tfrecord")] == [[0], [0], [0]]


# --- bad rows


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("dirty")
    bad = [event("ann", "sku-a", 10**12), event("ann", "", 9 * DAY + 1)]
    write(folder, "events", [*EVENTS, *bad], row_group_size=9)
    write(folder, "items", [*ITEMS, ITEMS[1] | {"title": "Again"}], row_group_size=3)
    return folder


def test_bad_rows_go_to_the_dead_letters_with_place_and_reason(dirty: Path, output: Path, tmp_path: Path) -> None:
    run_transform(dirty, tmp_path, config(max_bad_share=0.5))
    letters = [json.loads(line) for file in sorted((tmp_path / "dead_letter").iterdir()) for line in file.open()]
    assert [(letter["file"], letter["row"]) for letter in letters] == [
        (str(dirty / "events.parquet"), 9),
        (str(dirty / "events.parquet"), 10),
        (str(dirty / "items.parquet"), 3),
    ]
    assert "It looks like milliseconds" in letters[0]["reason"]
    assert letters[0]["user_id"] == "ann"
    assert letters[1]["reason"] == "item_id: must not be empty, received ''."
    assert letters[2]["reason"] == "item_id: must occur once in the table, received 'sku-a'."
    found = json.loads((tmp_path / "statistics.json").read_text())
    assert (found["rows_read"], sum(found["rejected"].values()), found["items_repeated"]) == (11, 2, 1)
    records = [name for name in files_of(output) if name.endswith(".tfrecord")]
    assert [files_of(tmp_path)[name] for name in records] == [files_of(output)[name] for name in records]


def test_too_many_bad_rows_stop_with_counts_and_the_first_example(dirty: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run_transform(dirty, tmp_path, config(max_bad_share=0.1))
    message = str(caught.value)
    assert "2 of 11 rows of the table 'events' are bad (18.18%; transform.max_bad_share allows 10.00%)" in message
    assert "item_id: must not be empty (1 rows)" in message
    assert f"The first: {dirty / 'events.parquet'}, row 9 (from 0): timestamp: must be in seconds" in message


# --- errors


def failing(tmp_path: Path, rows: list[dict[str, Any]], match: str, **more: Any) -> None:
    write(tmp_path / "data", "events", rows)
    with pytest.raises(DataError, match=match):
        run_transform(tmp_path / "data", tmp_path / "output", config(**more))


def test_no_events_table_names_both_places(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"events.parquet or Parquet files in .*events/"):
        run_transform(tmp_path, tmp_path, config())


def test_empty_events_table_is_refused(tmp_path: Path) -> None:
    pq.write_table(table("events", EVENTS).slice(0, 0), tmp_path / "events.parquet")
    with pytest.raises(DataError, match=r"the table 'events' has no rows"):
        run_transform(tmp_path, tmp_path, config())


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "events.parquet").write_text("user,item\n")
    with pytest.raises(DataError, match=r"events.parquet: not a readable Parquet file"):
        run_transform(tmp_path, tmp_path, config())


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    write(tmp_path, "events", EVENTS * 50, row_group_size=200)
    file = tmp_path / "events.parquet"
    content = bytearray(file.read_bytes())
    place = pq.read_metadata(file).row_group(1).column(0).data_page_offset
    content[place : place + 40] = b"\xff" * 40
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"events.parquet, row group 1: cannot be read"):
        run_transform(tmp_path, tmp_path / "output", config())


def test_text_that_is_not_utf8_names_file_and_column(tmp_path: Path) -> None:
    latin = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xe9"))
    events = table("events", EVENTS[:1])
    pq.write_table(events.set_column(1, "item_id", latin), tmp_path / "events.parquet")
    with pytest.raises(
        DataError, match=r"events.parquet, row group 0: cannot be read: .*column 'item_id' does not fit"
    ):
        run_transform(tmp_path, tmp_path / "output", config())


def test_a_wrong_column_type_names_file_and_column(tmp_path: Path) -> None:
    events = table("events", EVENTS)
    place = events.column_names.index("timestamp")
    pq.write_table(
        events.set_column(place, "timestamp", events["timestamp"].cast("string")), tmp_path / "events.parquet"
    )
    with pytest.raises(DataError, match=r"events.parquet: column 'timestamp' must be of type int64, received string"):
        run_transform(tmp_path, tmp_path, config())


def test_files_of_one_table_must_have_the_same_columns(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    events = table("events", EVENTS)
    pq.write_table(events, tmp_path / "events" / "a.parquet")
    pq.write_table(events.drop(["device"]), tmp_path / "events" / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet: the files of one table must have the same columns"):
        run_transform(tmp_path, tmp_path, config())


def test_a_time_split_needs_times(tmp_path: Path) -> None:
    rows = [{"user_id": "a", "item_id": "x", "type": "view"}]
    failing(tmp_path, rows, r"no column `timestamp`, so they cannot be split by time.*leave_one_out")


def test_an_unknown_history_type_names_the_nearest(tmp_path: Path) -> None:
    failing(tmp_path, EVENTS, r"received 'purchased'. Did you mean 'purchase'\?", history_types=("purchased",))


def test_impressions_never_enter_histories(tmp_path: Path) -> None:
    failing(
        tmp_path,
        EVENTS,
        r"history_types: must be some of view, click.*received 'impression'",
        history_types=("impression",),
    )


def test_events_without_any_history_type_are_refused(tmp_path: Path) -> None:
    failing(tmp_path, EVENTS, r"no event that enters histories; it has 1 of type add_to_cart", history_types=("click",))


@pytest.mark.parametrize(
    ("validation_start", "test_start", "span"),
    [
        ("2023-01-01", "2024-01-10", "train"),
        ("2024-01-12", "2024-01-13", "validation"),
        ("2024-01-09", "2025-01-01", "test"),
    ],
)
def test_an_empty_span_is_told_with_the_times(
    tmp_path: Path, validation_start: str, test_start: str, span: str
) -> None:
    split = SplitConfig(validation_start=validation_start, test_start=test_start)
    failing(tmp_path, EVENTS, rf"the {span} span is empty: the events go from 2024-01-01 00:00:00", split=split)


def test_leave_one_out_needs_a_shopper_with_three_interactions(tmp_path: Path) -> None:
    rows = [event("a", "x", 1), event("a", "y", 2)]
    failing(tmp_path, rows, r"validation span is empty: leave-one-out", split=SplitConfig(method="leave_one_out"))


def test_lost_rows_are_a_loud_error(tmp_path: Path) -> None:
    source = Source("events", ("user_id",), (), (), 10)
    with pytest.raises(RuntimeError, match="rows of events were lost: 10 in the files, 9 read, 8 good, 0 late, 1 bad"):
        check_report(source, Report(rows=9, spilled=8, rejected={"rule": 1}), 0.5, tmp_path)
