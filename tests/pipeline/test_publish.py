"""Publishing makes whole integer versions and never a second one of the same models."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.publish import exported_models, newest_version, publish
from pipeline.runner import StepError

ONE_FORM = ("recommender", "item_encoder")
BOTH_FORMS = ("recommender", "item_encoder", "recommender_portable")


def finish_export(run: Path, fingerprint: str, content: str, models: tuple[str, ...] = ONE_FORM) -> None:
    step = run / "steps" / "export"
    # As the runner does, a new folder takes the old one's place: published hard links keep the old content.
    shutil.rmtree(step, ignore_errors=True)
    for model in models:
        (step / model).mkdir(parents=True)
        (step / model / "saved_model.pb").write_text(content)
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


def published(run: Path) -> dict[str, list[str]]:
    """The versions of every model."""
    return {model.name: sorted(path.name for path in model.iterdir()) for model in (run / "export").iterdir()}


def test_both_forms_are_published_under_one_number(tmp_path: Path) -> None:
    finish_export(tmp_path, "a", "one", BOTH_FORMS)
    assert [publish(tmp_path), publish(tmp_path)] == [1, 1]
    assert published(tmp_path) == {model: ["1"] for model in BOTH_FORMS}


def test_a_form_that_is_added_gets_the_number_of_the_others(tmp_path: Path) -> None:
    finish_export(tmp_path, "a", "one")
    publish(tmp_path)
    finish_export(tmp_path, "b", "two", BOTH_FORMS)
    assert publish(tmp_path) == 2
    assert published(tmp_path) == {model: ["1", "2"] for model in ONE_FORM} | {"recommender_portable": ["2"]}


def test_a_form_no_longer_exported_is_not_published_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    finish_export(tmp_path, "a", "one", BOTH_FORMS)
    publish(tmp_path)
    assert "no longer exported" not in caplog.text
    finish_export(tmp_path, "b", "two")
    assert [publish(tmp_path), publish(tmp_path)] == [2, 2]
    assert published(tmp_path) == {model: ["1", "2"] for model in ONE_FORM} | {"recommender_portable": ["1"]}
    left = tmp_path / "export" / "recommender_portable"
    assert f"recommender_portable is no longer exported; remove its old versions: {left}" in caplog.text


def test_recommenders_are_published_last(tmp_path: Path) -> None:
    finish_export(tmp_path, "a", "one", ("another_model", *BOTH_FORMS))
    assert exported_models(tmp_path / "steps" / "export") == [
        "another_model",
        "item_encoder",
        "recommender",
        "recommender_portable",
    ]


def test_a_kill_between_two_forms_leaves_them_to_the_next_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_export(tmp_path, "a", "one", BOTH_FORMS)
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if "recommender_portable" in path.parts:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(tmp_path)
    assert publish(tmp_path) == 2
    assert newest_version(tmp_path / "export" / "recommender_portable") == 2


def test_only_integer_folders_are_versions(tmp_path: Path) -> None:
    for name in ("7", "12", ".13.partial", "latest"):
        (tmp_path / name).mkdir()
    assert newest_version(tmp_path) == 12
