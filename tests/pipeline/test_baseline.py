"""What a published run leaves for later data to be compared with."""

import json
import os
from pathlib import Path

import pytest

from pipeline.baseline import bless, blessed_profile
from pipeline.chain import STEPS
from pipeline.cli import main
from pipeline.config import load_config
from pipeline.runner import StepError, run_steps
from tests.transform.small_tables import event, write
from transform.baseline import read_profile
from transform.checks import DataError
from transform.clock import DAY

DAYS, PER_DAY = 14, 600


def shop(folder: Path, days: int, newest: int = PER_DAY, south: int = 0) -> Path:
    """A shop of 300 shoppers whose days are alike, but for the day after DAYS days.

    That one has `newest` events, of which the first `south` are of another region.
    """
    events = [
        event(
            f"u{number % 300}",
            f"p{number % 7}",
            day * DAY + number * 140 + day,
            region="south" if day == DAYS and number < south else "north",
        )
        for day in range(days)
        for number in range(newest if day == DAYS else PER_DAY)
    ]
    write(write(folder, "events", events), "items", [{"item_id": f"p{number}"} for number in range(7)])
    os.utime(folder / "events.parquet", ns=(days, days))
    return folder


def validate(run: Path, data: Path, *more: str) -> int:
    arguments = ["--data", str(data), "--out", str(run)]
    assert main(["transform", *arguments]) == 0
    return main(["validate", *arguments, *more])


@pytest.fixture(scope="module")
def blessed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blessed")
    assert validate(folder / "run", shop(folder / "data", DAYS)) == 0
    bless(folder / "run")
    return folder / "run"


def test_a_profile_is_read_as_it_was_written(blessed: Path) -> None:
    profile = read_profile(blessed / "baseline")
    assert profile.facts == {"rows_read": DAYS * PER_DAY, "rejected": 0, "items": 7}
    assert sorted(profile.item_ids.to_pylist()) == [f"p{number}" for number in range(7)]
    assert {"train", "validation", "test", "items", "events", "events, region=north"} <= set(profile.statistics)


def test_a_run_that_has_blessed_nothing_is_compared_with_nothing(tmp_path: Path) -> None:
    assert blessed_profile(tmp_path, None) is None


def test_naming_a_run_that_has_blessed_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"validate.baseline: .* holds no baseline, which `tandem run` writes"):
        blessed_profile(tmp_path, str(tmp_path))


def test_a_process_killed_while_blessing_loses_nothing(blessed: Path, tmp_path: Path) -> None:
    (tmp_path / ".baseline.old").symlink_to(blessed / "baseline")
    found = blessed_profile(tmp_path, None)
    assert found is not None
    assert read_profile(found).facts["items"] == 7


def test_a_damaged_profile_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "baseline").mkdir()
    with pytest.raises(DataError, match=r"baseline: cannot be read as the statistics of a blessed run"):
        read_profile(tmp_path / "baseline")


def test_data_that_is_stopped_has_an_exit_status_of_its_own(
    blessed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shop(tmp_path / "data", DAYS + 1, newest=100)
    assert validate(tmp_path / "run", data, "--baseline", str(blessed)) == 3
    assert "day 2024-01-15, feature 'all events', rule VOLUME_LOW: 100 events came; 600 are usual" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_severity_lets_the_same_data_pass(blessed: Path, tmp_path: Path) -> None:
    data = shop(tmp_path / "data", DAYS + 1, newest=100)
    named = [f"validate.severity={json.dumps(dict.fromkeys(('VOLUME_LOW', 'HOURS_EMPTY'), 'warn'))}"]
    more = ["--baseline", str(blessed), *(part for name in named for part in ("--set", name))]
    assert validate(tmp_path / "run", data, *more) == 0


@pytest.mark.slow
def test_the_same_data_asks_for_no_training_and_moved_data_does(blessed: Path, tmp_path: Path) -> None:
    same = ["--baseline", str(blessed), "--retrain-status"]
    assert validate(tmp_path / "same", shop(tmp_path / "data", DAYS), *same) == 0
    assert validate(tmp_path / "moved", shop(tmp_path / "more", DAYS + 1, south=50), *same) == 0
    moved = [*same, "--set", "validate.retrain_change=0.05"]
    assert validate(tmp_path / "moved", shop(tmp_path / "more", DAYS + 1, south=50), *moved) == 4


def test_a_validation_is_up_to_date_after_it_was_blessed(blessed: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(None)
    with caplog.at_level("INFO"):
        run_steps(STEPS, config, blessed.parent / "data", blessed, only="validate")
    assert "validate: up to date" in caplog.text
