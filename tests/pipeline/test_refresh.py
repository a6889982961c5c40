"""A refresh is published whole or not at all, once, and builds on the one before."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.chain import STEPS
from pipeline.cli import main
from pipeline.config import Config, load_config
from pipeline.publish import exported_models, publish
from pipeline.refresh import refresh
from pipeline.runner import RECORD, Place, StepError, run_steps, step_directory
from protos.feature_schema_pb2 import FeatureSchema
from tests.transform.small_tables import START, write
from trainer.config import ExportConfig
from transform.checks import DataError
from transform.feature_schema import read_vocabulary, write_schema, write_vocabulary
from transform.item_examples import ItemContent, ItemKeys, items_file
from transform.tables import FIRST
from transform.tfrecords import encode_examples, write_tfrecords


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def write_transform(folder: Path, item_ids: list[str]) -> None:
    """What the transform leaves of products without content."""
    write_vocabulary(folder / "vocabularies" / "item_ids.txt", item_ids)
    schema = FeatureSchema(catalogue_size=FIRST + len(item_ids), id_embedding_size=2, has_timestamps=True)
    write_schema(folder, schema)
    ones = np.ones(len(item_ids), np.int64)
    keys = ItemKeys(pa.array(item_ids), FIRST + np.arange(len(item_ids)), *([ones] * 6))
    content = ItemContent(folder, schema).columns(pa.table({"item_id": item_ids}))
    write_tfrecords(str(folder / items_file(0, 1)), encode_examples(keys.columns() | content))


class Exporter:
    """Stands for the export: models that tell the products that they know."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.kill = False

    def __call__(
        self, transform: Path, retrieval: Path, ranker: Path, head: Path, output: Path, config: ExportConfig, logs: Path
    ) -> None:
        self.calls.append((transform, retrieval, ranker, head, output, config, logs))
        products = read_vocabulary(transform / "vocabularies" / "item_ids.txt")[FIRST:]
        index = {"embedding_seconds": 1.5, "kind": "scann", "build_seconds": 0.25, "n": len(products)}
        models = ["recommender", "item_encoder"]
        if config.index == "both":
            models.append("recommender_portable")
            index["portable"] = {"kind": "portable", "build_seconds": 0.5, "n": len(products)}
        for model in models:
            (output / model).mkdir(parents=True)
            (output / model / "saved_model.pb").write_text(" ".join(products))
            if self.kill:
                raise KilledError
        (output / "index.json").write_text(json.dumps(index))


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exporter]:
    exporter = Exporter()
    monkeypatch.setattr("trainer.export.export", exporter)
    return exporter


def make_run(run: Path, config: Config, products: tuple[str, ...] = ("a", "b"), last: str = STEPS[-1].name) -> None:
    """Every step of the chain up to `last`, with made-up outputs."""

    def make(name: str, config: Config, place: Place) -> None:
        if name in ("transform", "embed-content"):
            write_transform(place.output, list(products))
        if name == "export":
            Exporter()(place.step("embed-content"), *[place.output] * 4, config.export, place.output)
            (place.output / "products.parquet").touch()

    steps = [replace(step, run=partial(make, step.name)) for step in STEPS]
    data = run.parent / "data"
    data.mkdir(exist_ok=True)
    (data / "events.parquet").write_text(" ".join(products))
    run_steps(steps[: 1 + [step.name for step in steps].index(last)], config, data, run)


CONFIG = load_config(None, ["export.k=6", "transform.max_bad_share=0.4"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_run(tmp_path / "run", CONFIG)
    assert publish(tmp_path / "run") == 1
    return tmp_path / "run"


def new(folder: Path, *rows: dict[str, Any]) -> Path:
    return write(folder / "new", "items", list(rows))


def served(run: Path, version: int) -> set[str]:
    """What the models of a version know; all the same."""
    models = exported_models(run / "steps" / "export")
    (known,) = {(run / "export" / model / str(version) / "saved_model.pb").read_text() for model in models}
    return set(known.split())


def test_a_run_of_an_earlier_version_is_refreshed(run: Path, tmp_path: Path, exporter: Exporter) -> None:
    """What could be set then and cannot now is no obstacle, and what could not be set is as shipped."""
    record = step_directory(run, "transform") / RECORD
    known = json.loads(record.read_text())
    known["config"]["transform"]["title_vocabulary_size"] = 20_000
    del known["config"]["transform"]["max_values"]
    record.write_text(json.dumps(known))
    assert refresh(new(tmp_path, {"item_id": "z"}), run)["new"] == 1


def test_new_products_are_published_in_both_models(run: Path, tmp_path: Path, exporter: Exporter) -> None:
    hour_ago = int(time.time()) - 3_600
    report = refresh(new(tmp_path, {"item_id": "z", "created_at": hour_ago}, {"item_id": "a"}), run)
    assert (served(run, 1), served(run, 2)) == ({"a", "b"}, {"a", "b", "z"})
    assert (report["version"], report["published"], report["rows"]) == (2, True, 2)
    assert [report[name] for name in ("new", "changed", "unchanged", "withdrawn")] == [1, 0, 1, 0]
    assert report["recommendable"] == 3
    assert (report["seconds"]["embedding"], report["seconds"]["index"]) == (1.5, 0.25)
    assert 0 < report["seconds"]["total"] < 60
    assert report["listed_to_published"]["products"] == 1
    assert 3_600 <= report["listed_to_published"]["median"] <= 3_660
    assert json.loads((run / "refresh.json").read_text()) == report


def test_both_forms_are_refreshed_together(tmp_path: Path, exporter: Exporter) -> None:
    run = tmp_path / "both"
    make_run(run, load_config(None, ["export.index=both"]))
    publish(run)
    report = refresh(new(tmp_path, {"item_id": "z"}), run)
    models = run / "export"
    assert sorted(path.name for path in models.glob("*/2")) == ["2"] * 3
    assert (models / "recommender_portable" / "2" / "saved_model.pb").read_text() == "a b z"
    assert report["recommendable"] == 3
    # One form after the other: 0.25 s and 0.5 s.
    assert report["seconds"]["index"] == 0.75


def test_the_models_and_settings_are_those_of_the_run(run: Path, tmp_path: Path, exporter: Exporter) -> None:
    refresh(new(tmp_path, {"item_id": "z"}), run)
    ((_, *models, _, config, _),) = exporter.calls
    assert models == [run / "steps" / name for name in ("train-retrieval", "train-ranker", "train-head")]
    assert config == CONFIG.export


def test_the_same_table_is_published_once(run: Path, tmp_path: Path, exporter: Exporter) -> None:
    table = new(tmp_path, {"item_id": "z", "title": "Pot"})
    refresh(table, run)
    report = refresh(table, run)
    assert (report["version"], report["published"], report["unchanged"]) == (2, False, 1)
    assert len(exporter.calls) == 1
    assert sorted(path.name for path in (run / "export" / "recommender").iterdir()) == ["1", "2"]


def test_a_second_refresh_builds_on_the_first(run: Path, tmp_path: Path, exporter: Exporter) -> None:
    refresh(new(tmp_path / "1", {"item_id": "y"}), run)
    refresh(new(tmp_path / "2", {"item_id": "z"}), run)
    assert served(run, 3) == {"a", "b", "y", "z"}
    assert [path.name for path in (run / "steps" / "refresh").iterdir()] == ["2"]


def test_a_killed_refresh_changes_nothing_and_can_be_run_again(run: Path, tmp_path: Path, exporter: Exporter) -> None:
    table = new(tmp_path, {"item_id": "z"})
    exporter.kill = True
    with pytest.raises(KilledError):
        refresh(table, run)
    assert publish(run) == 1
    exporter.kill = False
    assert refresh(table, run)["new"] == 1
    assert served(run, 2) == {"a", "b", "z"}
    assert [path.name for path in (run / "steps" / "refresh").iterdir()] == ["1"]


def test_a_refresh_killed_before_it_was_published_is_published_by_the_next(
    run: Path, tmp_path: Path, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(run: Path) -> int:
        raise KilledError

    table = new(tmp_path, {"item_id": "z"})
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.refresh.publish", kill)
        with pytest.raises(KilledError):
            refresh(table, run)
    report = refresh(table, run)
    assert (report["version"], report["published"], report["unchanged"]) == (2, True, 1)
    assert len(exporter.calls) == 1
    assert served(run, 2) == {"a", "b", "z"}


def test_publishing_again_keeps_the_refresh(run: Path, tmp_path: Path, exporter: Exporter) -> None:
    refresh(new(tmp_path, {"item_id": "z"}), run)
    assert publish(run) == 2


def test_a_later_run_starts_from_its_own_transform(run: Path, tmp_path: Path, exporter: Exporter) -> None:
    refresh(new(tmp_path / "1", {"item_id": "z"}), run)
    make_run(run, CONFIG, products=("a", "b", "c"))
    assert publish(run) == 3
    assert served(run, 3) == {"a", "b", "c"}
    refresh(new(tmp_path / "2", {"item_id": "y"}), run)
    assert served(run, 4) == {"a", "b", "c", "y"}


def test_bad_rows_are_counted_and_the_rest_is_published(run: Path, tmp_path: Path, exporter: Exporter) -> None:
    table = new(tmp_path, *({"item_id": item_id, "price": price} for item_id, price in (("x", -1.0), ("y", 1.0))))
    report = refresh(table, run)
    assert report["rejected"] == {"price: must be a finite number of at least 0": 1}
    assert served(run, 2) == {"a", "b", "y"}
    (letters,) = (run / "dead_letter" / "refresh").iterdir()
    assert json.loads(letters.read_text())["item_id"] == "x"


def test_too_many_bad_rows_publish_nothing(run: Path, tmp_path: Path, exporter: Exporter) -> None:
    table = new(tmp_path, *({"item_id": item_id, "price": -1.0} for item_id in "xy"), {"item_id": "z", "price": 1.0})
    with pytest.raises(
        DataError, match=r"2 of 3 rows of the table 'items' are bad \(66.67%; --max-bad-share allows 40.0"
    ):
        refresh(table, run)
    assert refresh(table, run, max_bad_share=0.7)["new"] == 1


def test_a_mistake_is_told_in_a_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(run: Path) -> str:
        assert main(["refresh", "--items", str(table), "--run", str(run)]) == 1
        return capsys.readouterr().err

    table = new(tmp_path, {"item_id": "z"})
    assert f"{tmp_path / 'none'}: no such run folder. Make one with `tandem run`" in error(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    shutil.rmtree(run / "steps" / "export")
    assert "holds no finished export: run `tandem export` (or `tandem run`) first" in error(run)


def test_an_export_of_another_transform_is_not_refreshed(run: Path, tmp_path: Path) -> None:
    make_run(run, CONFIG, products=("a", "c"), last="embed-content")
    with pytest.raises(
        StepError, match=r"the export of .* was made from other steps than are there now \(embed-content"
    ):
        refresh(new(tmp_path, {"item_id": "z"}), run)


def test_the_command_prints_what_it_did(
    run: Path, tmp_path: Path, exporter: Exporter, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"item_id": "z", "title": "", "created_at": START}, {"item_id": "a", "title": "Pot"}]
    assert main(["refresh", "--items", str(new(tmp_path, *rows)), "--run", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "2 rows: 1 new, 1 changed, 0 withdrawn, 0 unchanged, 0 refused." in printed
    assert "1 product without a title.\n2 products without a category.\n2 products without a price." in printed
    assert "Version 2 is published; embedding 1.5 s, index 0.2 s, total" in printed
