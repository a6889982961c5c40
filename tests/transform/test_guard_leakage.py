"""A transform whose output knows the future is stopped; the real one's is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tests.transform.small_tables import event, transformed
from transform.clock import DAY
from transform.feature_schema import VOCABULARY_FOLDER
from transform.guard_leakage import check_leakage

Change = Callable[[Any], None]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shoppers over eleven days, cut at days 8 and 9; `islands` is only met after the cuts."""
    events = [
        event(user, f"p{day % 4}", day * DAY + place, region="islands" if day > 8 else "north")
        for place, user in enumerate(("ann", "bob", "eve"))
        for day in range(11)
    ]
    return transformed(tmp_path_factory.mktemp("clean"), [{"item_id": f"p{number}"} for number in range(4)], events)


def spoilt(clean: Path, tmp_path: Path, pattern: str, change: Change) -> Path:
    """A copy whose records of the matching file `change` was applied to."""
    folder = tmp_path / "transform"
    shutil.copytree(clean, folder)
    for file in folder.glob(pattern):
        records = [
            tf.train.Example.FromString(record) for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
        ]
        with tf.io.TFRecordWriter(str(file)) as writer:
            for example in records:
                change(example.features.feature)
                writer.write(example.SerializeToString())
    return folder


def set_value(name: str, value: int, place: int = 0) -> Change:
    def change(features: Any) -> None:
        if len(features[name].int64_list.value) > place:
            features[name].int64_list.value[place] = value

    return change


def test_what_the_transform_writes_knows_no_future(clean: Path) -> None:
    assert check_leakage(clean, 1_000) == []


def test_a_training_window_that_reaches_over_the_cut_is_named(clean: Path, tmp_path: Path) -> None:
    # Eight interactions lie before the cut; one more would be the validation's own target.
    (found,) = check_leakage(spoilt(clean, tmp_path, "sequences-*", set_value("train_end", 9)), 1_000)
    assert (found.feature, found.rule, found.severity) == ("train_end", "LEAK", "stop")
    assert found.description.startswith("1 interactions stand in the span of another time") or "shopper" in (
        found.description
    )


def test_times_out_of_order_are_named(clean: Path, tmp_path: Path) -> None:
    (found,) = check_leakage(spoilt(clean, tmp_path, "sequences-*", set_value("timestamps", 1, place=5)), 1_000)
    assert (found.feature, found.rule) == ("timestamps", "LEAK")


def test_popularity_that_counts_the_test_span_is_named(clean: Path, tmp_path: Path) -> None:
    folder = spoilt(clean, tmp_path, "items-*", set_value("train_count", 9))
    (found,) = check_leakage(folder, 1_000)
    assert found.feature == "train_count"
    assert "add up to 36, but the training span has 24 interactions" in found.description


def test_the_counts_of_a_catalogue_that_is_too_large_are_not_added_up(clean: Path, tmp_path: Path) -> None:
    assert check_leakage(spoilt(clean, tmp_path, "items-*", set_value("train_count", 9)), 3) == []


def test_a_vocabulary_with_a_value_of_the_future_is_named(clean: Path, tmp_path: Path) -> None:
    folder = tmp_path / "transform"
    shutil.copytree(clean, folder)
    words = folder / VOCABULARY_FOLDER / "region.txt"
    words.write_text(words.read_text() + "islands\n")
    (found,) = check_leakage(folder, 1_000)
    assert (found.feature, found.rule) == ("region", "LEAK")
    assert "first 'islands', have no training interaction" in found.description


@pytest.mark.parametrize("name", ["region", "device"])
def test_context_counts_beyond_the_training_span_are_named(clean: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "transform"
    shutil.copytree(clean, folder)
    file = folder / "statistics.json"
    statistics = json.loads(file.read_text())
    statistics["context_counts"][name] |= {"north": 33}
    file.write_text(json.dumps(statistics))
    (found,) = check_leakage(folder, 1_000)
    assert found.feature == name
    assert "add up to 33, more than 24" in found.description
