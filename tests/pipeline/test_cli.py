"""The command line: a mistake ends in one sentence and exit status 1, and leaves nothing half-made."""

import json
import re
from pathlib import Path

import pytest

from pipeline.cli import main
from trainer.config import TransferConfig


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The sentence with which a command failed."""
    assert main(list(arguments)) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def write_orders(folder: Path, *lines: str) -> Path:
    file = folder / "orders.csv"
    file.write_text("\n".join(["shopper,sku,when", *lines]) + "\n")
    return file


MAP = ["--map", "user_id=shopper", "--map", "item_id=sku", "--map", "timestamp=when", "--map", "type==purchase"]


def test_a_table_is_imported_with_a_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    orders = write_orders(tmp_path, "ann,a,2024-01-01", "bob,b,2024-01-02")
    assert main(["import", "table", str(orders), str(tmp_path / "shop"), *MAP]) == 0
    assert "2 of 2 events kept" in capsys.readouterr().out
    assert (tmp_path / "shop" / "events.parquet").is_file()


def test_a_malformed_row_is_kept_aside_with_file_line_and_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orders = write_orders(tmp_path, "ann,a,2024-01-01", "bob,b,soon", "cyd,c,2024-01-03")
    out = tmp_path / "shop"
    assert main(["import", "table", str(orders), str(out), *MAP, "--max-bad-share", "0.5"]) == 0
    assert "2 of 3 events kept" in capsys.readouterr().out
    (letter,) = [json.loads(line) for line in (out / "dead_letter" / "import.jsonl").read_text().splitlines()]
    assert letter["file"] == str(orders)
    assert letter["line"] == 3
    assert "timestamp" in letter["reason"]
    assert "soon" in str(letter["row"])


def test_too_many_bad_rows_stop_the_import_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orders = write_orders(tmp_path, "ann,a,1704067200000", "bob,b,1704067200000")
    error = failed(capsys, "import", "table", str(orders), str(tmp_path / "shop"), *MAP)
    assert "milliseconds" in error
    assert "timestamp_unit" in error
    assert [path.name for path in tmp_path.iterdir()] == ["orders.csv"]


def test_a_missing_column_is_named_with_those_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orders = write_orders(tmp_path, "ann,a,2024-01-01")
    error = failed(capsys, "import", "table", str(orders), str(tmp_path / "shop"), "--map", "user_id=customer")
    assert "no column 'customer' for user_id" in error
    assert "'shopper', 'sku', 'when'" in error


def test_an_empty_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.csv").touch()
    assert "empty.csv" in failed(capsys, "import", "table", str(tmp_path / "empty.csv"), str(tmp_path / "shop"), *MAP)


def test_an_unknown_configuration_key_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    error = failed(capsys, "run", "--data", str(tmp_path), "--out", str(out), "--set", "ranker.epoch=1")
    assert "unknown key 'ranker.epoch'; the nearest known key is 'ranker.training.epochs'" in error
    assert not out.exists()


def test_missing_data_says_how_to_make_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = failed(capsys, "run", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run"))
    assert re.search(r"none: no such folder\. Make one with `tandem import` or `tandem simulate`", error)


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    error = failed(capsys, "run", "--data", str(tmp_path), "--out", str(tmp_path / "file" / "run"))
    assert "cannot write to the run folder" in error


def test_serving_a_run_without_models_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = failed(capsys, "serve", str(tmp_path), "--port", "0")
    assert str(tmp_path / "export") in error


def test_serving_a_version_without_a_model_names_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = tmp_path / "export" / "recommender" / "3"
    version.mkdir(parents=True)
    error = failed(capsys, "serve", str(tmp_path), "--port", "0")
    assert f"{version}: Could not find SavedModel .pb" in error


def test_serving_needs_one_source_of_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert "takes either RUN or --model-config-file" in failed(capsys, "serve", "--port", "0")


def test_asking_where_nobody_listens_names_the_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = failed(capsys, "recommend", "--target", "127.0.0.1:1", "--history", "a", "--timeout", "0.5")
    assert "127.0.0.1:1" in error


def test_every_command_says_what_it_reads_and_writes(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        "transform",
        "validate",
        "embed-content",
        "train-retrieval",
        "train-ranker",
        "train-head",
        "evaluate",
        "embedding-quality",
        "export",
        "publish",
        "refresh",
        "transfer",
        "skew",
        "bench serve",
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*command.split(), "--help"])
        assert stopped.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "reads" in text
        assert "writes" in text


@pytest.mark.parametrize("command", [["run"], ["export"], ["transfer", "runs/other"]], ids=lambda command: command[0])
def test_the_index_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    started: list[str] = []
    monkeypatch.setattr("pipeline.chain.run", lambda config, data, out: started.append(config.export.index))
    monkeypatch.setattr(
        "pipeline.runner.run_steps", lambda steps, config, data, out, only: started.append(config.export.index)
    )
    arguments = [*command, "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    for more in (
        ["--index", "portable"],
        ["--set", "export.index=scann", "--index", "both"],
        ["--set", "export.index=brute_force"],
        [],
    ):
        assert main([*arguments, *more]) == 0
    assert started == ["portable", "both", "brute_force", "scann"]


def test_an_unknown_index_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--data", "d", "--out", "o", "--index", "faiss"])
    error = capsys.readouterr().err
    assert all(kind in error for kind in ("--index", "faiss", "scann", "portable", "brute_force", "both"))


def test_help_says_which_index_is_for_which_server(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "portable for a stock TensorFlow Serving" in text
    assert "both writes scann as the model recommender and portable as recommender_portable" in text


def test_a_transfer_is_a_run_that_starts_from_parts_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[TransferConfig] = []
    monkeypatch.setattr("pipeline.chain.run", lambda config, data, out: started.append(config.transfer))
    arguments = ["transfer", "runs/other: shop", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert main([*arguments, "--no-text", "--attributes", "--network"]) == 0
    assert started == [
        TransferConfig(run="runs/other: shop"),
        TransferConfig(run="runs/other: shop", text=False, attributes=True, network=True),
    ]
