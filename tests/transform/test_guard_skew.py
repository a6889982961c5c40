"""Logged requests: both forms are read, and what differs from the training span is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from tests.transform.small_tables import START
from tests.transform.test_validation import ROWS, check, transformed
from transform.checks import DataError
from transform.clock import HOUR
from transform.config import ValidateConfig
from transform.findings import GuardError
from transform.guard_skew import check_requests
from transform.logged_requests import SHOPPER_SIGNATURES, read_requests


def requests(count: int = ROWS, **more: Any) -> dict[str, np.ndarray]:
    """One request of `count` shoppers as the training events of test_validation are; None leaves an input out."""
    random = np.random.default_rng(11)
    history = [["", f"sku-{number}"] for number in random.integers(50, size=count)]
    inputs: dict[str, Any] = {
        "history_item_ids": history,
        "history_event_types": [["", name] for name in random.choice(["view", "purchase"], count, p=[0.8, 0.2])],
        "context_device": random.choice(["mobile", "desktop"], count, p=[0.7, 0.3]),
        "context_region": random.choice(["north", "south"], count),
        "context_timestamp": START + HOUR * random.integers(24, size=count),
        **more,
    }
    return {name: np.array(values) for name, values in inputs.items() if values is not None}


def write_lines(file: Path, inputs: dict[str, np.ndarray], signature: str | None = None) -> Path:
    """One request a shopper."""
    asked = {} if signature is None else {"signature_name": signature}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lines:
        for row in range(len(inputs["history_item_ids"])):
            body = {name: values[row : row + 1].tolist() for name, values in inputs.items()}
            lines.write(json.dumps({"inputs": body} | asked) + "\n")
    return file


def write_logs(file: Path, inputs: dict[str, np.ndarray], signature: str = "recommend") -> Path:
    """All shoppers in one request, as TensorFlow Serving logs it."""
    log = PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature
    for name, values in inputs.items():
        log.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    with tf.io.TFRecordWriter(str(file), "GZIP" if file.suffix == ".gz" else "") as writer:
        writer.write(log.SerializeToString())
    return file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `transform` and a reviewed `schema`."""
    folder = tmp_path_factory.mktemp("trained")
    check(folder)
    return folder


def compare(trained: Path, log: Path, out: Path, **config: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    check_requests(trained / "transform", trained / "schema", log, out, ValidateConfig(**config), out / "logs")
    found: dict[str, Any] = json.loads((out / "skew.json").read_text())
    return found


def refused(trained: Path, tmp_path: Path, match: str, **more: Any) -> None:
    with pytest.raises(GuardError, match=match):
        compare(trained, write_lines(tmp_path / "requests.jsonl", requests(**more)), tmp_path)


@pytest.mark.parametrize("name", ["a.tfrecord", "a.tfrecord.gz", "a.jsonl"])
def test_both_forms_say_the_same(tmp_path: Path, name: str) -> None:
    write = write_lines if name.endswith("jsonl") else write_logs
    read = read_requests(write(tmp_path / name, requests(3)), 10)
    assert read.read == 3
    rows = sorted(read.rows.to_pylist(), key=str)
    given = requests(3)
    assert rows == sorted(
        (
            {
                "item_id": given["history_item_ids"][row][1],
                "type": given["history_event_types"][row][1],
                "device": given["context_device"][row],
                "region": given["context_region"][row],
                "timestamp": given["context_timestamp"][row],
            }
            for row in range(3)
        ),
        key=str,
    )


@pytest.mark.parametrize("signature", sorted(SHOPPER_SIGNATURES))
def test_requests_for_a_shopper_count_whatever_they_ask_for(tmp_path: Path, signature: str) -> None:
    assert read_requests(write_logs(tmp_path / "a.tfrecord", requests(3), signature), 10).read == 3
    assert read_requests(write_lines(tmp_path / "a.jsonl", requests(3), signature), 10).read == 3


@pytest.mark.parametrize("signature", ["similar_items", "complementary_items"])
def test_requests_about_products_are_left_aside(tmp_path: Path, signature: str) -> None:
    assert read_requests(write_logs(tmp_path / "a.tfrecord", requests(3), signature), 10).read == 0
    assert read_requests(write_lines(tmp_path / "a.jsonl", requests(3), signature), 10).read == 0


def test_about_as_many_as_asked_for_are_drawn_and_always_the_same(tmp_path: Path) -> None:
    write_lines(tmp_path / "logs" / "a.jsonl", requests(900))
    read = read_requests(tmp_path / "logs", 100)
    assert read.read == 900
    assert 100 <= read.rows.num_rows <= 200
    assert read_requests(tmp_path / "logs", 100).rows == read.rows


def test_requests_like_the_training_span_pass(trained: Path, tmp_path: Path) -> None:
    found = compare(trained, write_lines(tmp_path / "requests.jsonl", requests()), tmp_path)
    assert found["findings"] == []
    assert found["requests"] == found["looked_at"] == ROWS
    assert found["unknown_products"] == 0
    assert set(found["skew"]) == {"type", "device", "region", "hour"}


def test_new_visitors_are_counted_and_left_aside(trained: Path, tmp_path: Path) -> None:
    history = requests()["history_item_ids"]
    history[: ROWS // 4] = ""
    found = compare(trained, write_lines(tmp_path / "requests.jsonl", requests(history_item_ids=history)), tmp_path)
    assert found["new_visitors"] == pytest.approx(0.25)
    assert found["looked_at"] == ROWS * 3 // 4


def test_another_mix_of_devices_is_skew(trained: Path, tmp_path: Path) -> None:
    refused(tmp_path=tmp_path, trained=trained, match="requests, feature 'device', rule SKEW_HIGH: The share of one "
            "value, '(mobile|desktop)', has changed by 0.6", context_device=["desktop"] * ROWS)  # fmt: skip


def test_a_device_that_the_schema_does_not_know(trained: Path, tmp_path: Path) -> None:
    refused(trained, tmp_path, "requests, feature 'device', rule ENUM_TYPE_UNEXPECTED_STRING_VALUES",
            context_device=["MOBILE"] * ROWS)  # fmt: skip


def test_an_input_that_clients_do_not_send_is_missing(trained: Path, tmp_path: Path) -> None:
    refused(trained, tmp_path, "requests, feature 'region', rule MISSING_HIGH", context_region=None)


def test_times_in_milliseconds(trained: Path, tmp_path: Path) -> None:
    refused(trained, tmp_path, "feature 'context_timestamp', rule NOT_SECONDS: 100.0% of the times",
            context_timestamp=1_000 * requests()["context_timestamp"])  # fmt: skip


def test_products_that_nobody_knows(trained: Path, tmp_path: Path) -> None:
    history = [["", f"other-{row}"] for row in range(ROWS)]
    refused(trained, tmp_path, "feature 'history_item_ids', rule UNKNOWN_PRODUCTS_HIGH: 100.0%",
            history_item_ids=history)  # fmt: skip


def test_a_line_that_is_no_request_names_file_and_line(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", requests(1))
    file.write_text(file.read_text() + "{}\n")
    with pytest.raises(DataError, match=r"a.jsonl, line 2: must be a JSON object with `inputs`"):
        read_requests(file, 10)


def test_a_damaged_log_names_the_file(tmp_path: Path) -> None:
    file = write_logs(tmp_path / "a.tfrecord", requests(2))
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"a.tfrecord: not TFRecords of PredictionLog"):
        read_requests(file, 10)


def test_an_empty_folder_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no \*.tfrecord"):
        read_requests(tmp_path, 10)


def test_logs_of_new_visitors_alone_cannot_be_compared(tmp_path: Path) -> None:
    transform = transformed(tmp_path / "transform")
    log = write_lines(tmp_path / "a.jsonl", requests(2, history_item_ids=[["", ""]] * 2))
    with pytest.raises(DataError, match="none of 2 requests has a history"):
        check_requests(transform, tmp_path / "schema", log, tmp_path, ValidateConfig(), tmp_path / "logs")
