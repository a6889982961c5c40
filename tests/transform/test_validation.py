"""What TensorFlow Data Validation lets pass, what stops a run, and what it says."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorflow_metadata.proto.v0 import schema_pb2

from protos.feature_schema_pb2 import FeatureSchema
from transform.arrow_files import write_table
from transform.beam_transform import run_transform
from transform.checks import DataError
from transform.config import TransformConfig, ValidateConfig
from transform.day_counts import DAYS_FILE, NO_DAYS
from transform.day_sample import DAY_SAMPLE_FILE
from transform.feature_schema import ITEM_IDS_FILE, VOCABULARY_FOLDER, write_schema, write_vocabulary
from transform.simulator import SimulatorConfig, simulate
from transform.tfrecords import Column, encode_examples, write_tfrecords
from transform.validation import run_validation

ROWS = 400
Rows = dict[str, Sequence[Any]]


def events(seed: int, **more: Sequence[Any] | None) -> Rows:
    """A healthy sample of ROWS interactions, seeded; `more` replaces columns, None removes them."""
    random = np.random.default_rng(seed)
    rows: dict[str, Sequence[Any] | None] = {
        "item_id": [f"sku-{number}" for number in random.integers(50, size=ROWS)],
        "type": random.choice(["view", "purchase"], ROWS, p=[0.8, 0.2]).tolist(),
        "device": random.choice(["mobile", "desktop"], ROWS, p=[0.7, 0.3]).tolist(),
        "region": random.choice(["north", "south"], ROWS).tolist(),
        "category": random.choice(["Shirts", "Hats", "Bags"], ROWS).tolist(),
        "price": random.uniform(1, 9, ROWS).astype(np.float32),
        "hour": random.integers(24, size=ROWS),
        "weekday": random.integers(7, size=ROWS),
        "known_item": np.ones(ROWS, np.int64),
        **more,
    }
    return {name: values for name, values in rows.items() if values is not None}


def products(**more: Sequence[Any] | None) -> Rows:
    """A healthy catalogue of 50 products."""
    rows: dict[str, Sequence[Any] | None] = {
        "item_id": [f"sku-{number}" for number in range(50)],
        "brand": [f"brand-{number % 7}" for number in range(50)],
        "category": [f"Clothing > {number % 3}" for number in range(50)],
        "price_raw": np.linspace(1, 9, 50, dtype=np.float32),
        "available": np.ones(50, np.int64),
        "train_count": np.full(50, ROWS // 50),
        "image": [b"PNG" if number % 2 else None for number in range(50)],
        **more,
    }
    return {name: values for name, values in rows.items() if values is not None}


def write_rows(file: Path, rows: Rows) -> None:
    def column(values: Sequence[Any]) -> Column:
        present = np.array([value is not None for value in values])
        kept = [value.encode() if isinstance(value, str) else value for value in values if value is not None]
        offsets = np.concatenate([[0], np.cumsum(present)])
        if isinstance(values, np.ndarray):
            return Column(values, offsets)
        return Column(kept, offsets)

    write_tfrecords(str(file), encode_examples({name: column(values) for name, values in rows.items()}))


def transformed(
    folder: Path, test: Rows | None = None, items: Rows | None = None, validation: Rows | None = None
) -> Path:
    """What validation reads of a transform's output."""
    write_rows(folder / "samples" / "events-train.tfrecord", events(1))
    write_rows(folder / "samples" / "events-validation.tfrecord", validation or events(2))
    write_rows(folder / "samples" / "events-test.tfrecord", test or events(3))
    write_rows(folder / "items-00000-of-00001.tfrecord", items or products())
    write_table(str(folder / "samples" / DAY_SAMPLE_FILE), pa.table({}))
    write_table(str(folder / DAYS_FILE), NO_DAYS)
    write_vocabulary(folder / VOCABULARY_FOLDER / ITEM_IDS_FILE, [f"sku-{number}" for number in range(50)])
    write_schema(folder, FeatureSchema())
    statistics = {
        "rows_read": ROWS,
        "rejected": {},
        "users": 0,
        "items_catalogue": 50,
        "items_only_in_events": 0,
        "split": {"method": "leave_one_out"},
        "spans": {"train": {"interactions": ROWS}},
        "context_counts": {},
    }
    (folder / "statistics.json").write_text(json.dumps(statistics))
    return folder


def check(tmp_path: Path, config: ValidateConfig | None = None, **rows: Rows) -> list[dict[str, Any]]:
    """Runs validation and returns the anomalies it wrote."""
    run_validation(
        transformed(tmp_path / "transform", **rows),
        tmp_path / "schema",
        tmp_path / "out",
        config or ValidateConfig(),
        tmp_path / "logs",
    )
    found: list[dict[str, Any]] = json.loads((tmp_path / "out" / "anomalies.json").read_text())
    return found


def refused(tmp_path: Path, match: str, **rows: Rows) -> str:
    with pytest.raises(DataError, match=match) as caught:
        check(tmp_path, **rows)
    return str(caught.value)


def test_a_healthy_shop_has_no_anomaly(tmp_path: Path) -> None:
    assert check(tmp_path) == []
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["examples"] == {"train": ROWS, "validation": ROWS, "test": ROWS, "items": 50}
    assert (summary["stop"], summary["warn"]) == (0, 0)
    assert set(summary["drift"]["test"]) == {"type", "device", "region", "category"}


def test_the_schema_is_inferred_once_and_then_kept(tmp_path: Path) -> None:
    check(tmp_path)
    file = tmp_path / "schema" / "events.pbtxt"
    reviewed = "# reviewed\n" + file.read_text()
    file.write_text(reviewed)
    check(tmp_path)
    assert file.read_text() == reviewed


def test_a_reviewed_schema_is_obeyed(tmp_path: Path) -> None:
    check(tmp_path)
    file = tmp_path / "schema" / "events.pbtxt"
    file.write_text(
        file.read_text()
        .replace('value: "desktop"', 'value: "watch"')
        .replace("min_domain_mass: 0.9", "min_domain_mass: 1.0")
    )
    refused(tmp_path, "train span, feature 'device'")


def test_a_vanished_feature_stops_and_says_how_to_accept_it(tmp_path: Path) -> None:
    message = refused(tmp_path, "test span, feature 'device', rule SCHEMA_MISSING_COLUMN", test=events(3, device=None))
    assert f"(schema: {tmp_path / 'schema' / 'events.pbtxt'})" in message
    assert "accept what is right: a limit of validate" in message
    assert "or the feature in the schema file" in message
    (found,) = json.loads((tmp_path / "out" / "anomalies.json").read_text())
    assert (found["dataset"], found["feature"], found["severity"]) == ("test", "device", "stop")


def test_values_missing_far_more_often_than_before_stop(tmp_path: Path) -> None:
    prices = [b"x" if place < ROWS // 2 else None for place in range(ROWS)]
    refused(tmp_path, "test span, feature 'region'", test=events(3, region=prices))


def test_a_feature_of_another_type_stops(tmp_path: Path) -> None:
    refused(tmp_path, "test span, feature 'price', rule UNEXPECTED_DATA_TYPE", test=events(3, price=["cheap"] * ROWS))


def test_a_negative_price_stops(tmp_path: Path) -> None:
    refused(tmp_path, "feature 'price'", test=events(3, price=np.full(ROWS, -1, np.float32)))


def test_an_unknown_event_type_stops(tmp_path: Path) -> None:
    refused(
        tmp_path,
        "feature 'type', rule ENUM_TYPE_UNEXPECTED_STRING_VALUES",
        test=events(3, type=["wish"] + ["view"] * (ROWS - 1)),
    )


def test_event_types_not_seen_in_training_pass(tmp_path: Path) -> None:
    assert check(tmp_path, test=events(3, type=["add_to_cart"] * 40 + ["view"] * (ROWS - 40))) == []


def test_a_few_new_devices_pass_and_many_stop(tmp_path: Path) -> None:
    known = ["mobile"] * 260 + ["desktop"] * 130
    assert check(tmp_path / "few", test=events(3, device=[*known, *["watch"] * 10])) == []
    refused(tmp_path / "many", "feature 'device'", test=events(3, device=[*known[:300], *["watch"] * 100]))


def test_new_products_categories_and_regions_pass(tmp_path: Path) -> None:
    new = events(
        3,
        item_id=[f"new-{place}" for place in range(ROWS)],
        category=["Shirts", "Hats", "Bags", "New category"] * (ROWS // 4),
        region=["north", "south", "south", "north", "new region"] * (ROWS // 5),
        known_item=np.zeros(ROWS, np.int64),
    )
    assert check(tmp_path, test=new) == []


def test_new_products_with_new_brands_pass_a_kept_schema(tmp_path: Path) -> None:
    check(tmp_path)
    assert check(tmp_path, items=products(brand=[f"new-{place}" for place in range(50)], category=["X"] * 50)) == []


def test_a_catalogue_that_loses_its_prices_stops(tmp_path: Path) -> None:
    check(tmp_path)
    message = refused(tmp_path, "products, feature 'price_raw'", items=products(price_raw=None))
    assert str(tmp_path / "schema" / "items.pbtxt") in message


def test_a_new_feature_warns(tmp_path: Path) -> None:
    (found,) = check(tmp_path, test=events(3, quantity=np.ones(ROWS, np.float32)))
    assert (found["feature"], found["rule"], found["severity"]) == ("quantity", "SCHEMA_NEW_COLUMN", "warn")


def test_drift_beyond_the_limit_stops(tmp_path: Path) -> None:
    # 0.7 of the training interactions are mobile, 0.1 of these: a distance of about 0.6.
    flipped = ["mobile"] * 40 + ["desktop"] * 360
    refused(
        tmp_path,
        "validation span, feature 'device', rule COMPARATOR_L_INFTY_HIGH",
        validation=events(2, device=flipped),
    )


def test_drift_beyond_half_of_the_limit_warns(tmp_path: Path) -> None:
    shifted = ["mobile"] * 160 + ["desktop"] * 240
    (found,) = check(tmp_path, test=events(3, device=shifted))
    assert (found["feature"], found["rule"], found["severity"]) == ("device", "DRIFT_NEAR_LIMIT", "warn")


def test_a_severity_can_be_changed_or_switched_off(tmp_path: Path) -> None:
    flipped = ["mobile"] * 40 + ["desktop"] * 360
    for severity, expected in (("warn", ["warn"]), ("off", [])):
        config = ValidateConfig(severity={"COMPARATOR_L_INFTY_HIGH": severity})
        found = check(tmp_path / severity, config, test=events(3, device=flipped))
        assert [anomaly["severity"] for anomaly in found] == expected


def test_a_severity_of_an_unknown_rule_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'VOLUME_LO' is no rule of the guards .* Did you mean 'VOLUME_LOW'\?"):
        check(tmp_path, ValidateConfig(severity={"VOLUME_LO": "off"}))


def test_a_schema_without_environments_says_what_to_add(tmp_path: Path) -> None:
    check(tmp_path)
    file = tmp_path / "schema" / "events.pbtxt"
    file.write_text("\n".join(line for line in file.read_text().split("\n") if "default_environment" not in line))
    refused(tmp_path, "must name its environments, `default_environment: 'TRAINING'`")


def test_what_serving_cannot_know_is_not_in_its_environment(tmp_path: Path) -> None:
    check(tmp_path)
    schema = text_format.Parse((tmp_path / "schema" / "events.pbtxt").read_text(), schema_pb2.Schema())
    absent = {feature.name for feature in schema.feature if "SERVING" in feature.not_in_environment}
    assert absent == {"price", "known_item", "category"}


def test_a_damaged_schema_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "schema").mkdir(parents=True)
    (tmp_path / "schema" / "events.pbtxt").write_text("feature {{")
    refused(tmp_path, r"schema/events.pbtxt: not a TensorFlow Metadata schema")


def test_a_truncated_sample_names_the_file(tmp_path: Path) -> None:
    folder = transformed(tmp_path / "transform")
    file = folder / "samples" / "events-test.tfrecord"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"events-test.tfrecord: damaged TFRecord"):
        run_validation(folder, tmp_path / "schema", tmp_path / "out", ValidateConfig(), tmp_path / "logs")


def test_an_empty_sample_names_the_setting(tmp_path: Path) -> None:
    folder = transformed(tmp_path / "transform")
    (folder / "samples" / "events-test.tfrecord").write_bytes(b"")
    with pytest.raises(DataError, match=r"sample of the test span is empty. Raise transform.sample_events"):
        run_validation(folder, tmp_path / "schema", tmp_path / "out", ValidateConfig(), tmp_path / "logs")


def test_without_a_transform_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"events-train.tfrecord not found: run `tandem transform` first"):
        run_validation(tmp_path, tmp_path / "schema", tmp_path / "out", ValidateConfig(), tmp_path / "logs")


def test_the_page_needs_nothing_from_elsewhere_and_escapes_values(tmp_path: Path) -> None:
    check(tmp_path, test=events(3, region=["<b>"] * 100 + ["north", "south", "south"] * 100))
    page = (tmp_path / "out" / "statistics.html").read_text()
    assert "http" not in page
    assert "&lt;b&gt; (25.0%)" in page


def test_tensorboard_shows_missing_shares_and_drift(tmp_path: Path) -> None:
    check(tmp_path)
    log = EventAccumulator(str(tmp_path / "logs"), size_guidance={"tensors": 0}).Reload()
    assert {"missing_share/price/test", "mean/price/train", "drift/device/validation"} <= set(log.Tags()["tensors"])
    assert tf.make_ndarray(log.Tensors("mean/has_image/items")[0].tensor_proto) == pytest.approx(0.5)


def test_a_simulated_shop_passes(tmp_path: Path) -> None:
    simulate(tmp_path / "data", SimulatorConfig(products=200, shoppers=400, events=10_000, days=20, pictures=False))
    (tmp_path / "transform").mkdir()
    run_transform(tmp_path / "data", tmp_path / "transform", TransformConfig(buckets=2))
    run_validation(tmp_path / "transform", tmp_path / "schema", tmp_path / "out", ValidateConfig(), tmp_path / "logs")
    found = json.loads((tmp_path / "out" / "anomalies.json").read_text())
    # So small a shop doubles within its last week. Without a blessed run that can only warn.
    assert {anomaly["severity"] for anomaly in found} <= {"warn"}
    assert {anomaly["rule"] for anomaly in found} <= {"VOLUME_HIGH", "DRIFT_HIGH"}
    assert all(anomaly["dataset"].startswith("day ") for anomaly in found)
