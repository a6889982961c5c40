"""Publishing makes whole integer versions and never a second one of the same models."""

import json
from pathlib import Path

import pytest

from pipeline.publish import newest_version, publish
from pipeline.runner import StepError


def finish_export(run: Path, fingerprint: str, content: str) -> None:
    step = run / "steps" / "export"
    for model in ("recommender", "item_encoder"):
        (step / model).mkdir(parents=True, exist_ok=True)
        # As the runner does, a new file takes the old one's place: published hard links keep the old content.
        (step / model / "saved_model.pb").unlink(missing_ok=True)
        (step / model / "saved_model.pb").write_text(content)
    (step / "products.parquet").unlink(missing_ok=True)
    (step / "products.parquet").write_text(content)
    (step / "step.json").write_text(json.dumps({"fingerprint": fingerprint}))


def test_versions_count_up_and_old_ones_stay_whole(tmp_path: Path) -> None:
    finish_export(tmp_path, "a", "one")
    assert publish(tmp_path) == 1
    finish_export(tmp_path, "b", "two")
    assert publish(tmp_path) == 2
    export = tmp_path / "export" / "recommender"
    assert (tmp_path / "products.parquet").read_text() == "two"
    assert (export / "1" / "saved_model.pb").read_text() == "one"
    assert (export / "2" / "saved_model.pb").read_text() == "two"
    assert (tmp_path / "export" / "item_encoder" / "2" / "saved_model.pb").read_text() == "two"


def test_the_same_export_is_published_once(tmp_path: Path) -> None:
    finish_export(tmp_path, "a", "one")
    assert [publish(tmp_path), publish(tmp_path)] == [1, 1]


def test_publishing_without_an_export_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="holds no finished export: run `tandem export`"):
        publish(tmp_path)


def test_a_half_published_version_is_superseded(tmp_path: Path) -> None:
    finish_export(tmp_path, "a", "one")
    (tmp_path / "export" / "item_encoder" / "1").mkdir(parents=True)
    assert publish(tmp_path) == 2
    assert newest_version(tmp_path / "export" / "recommender") == 2


def test_only_integer_folders_are_versions(tmp_path: Path) -> None:
    for name in ("7", "12", ".13.partial", "latest"):
        (tmp_path / name).mkdir()
    assert newest_version(tmp_path) == 12
