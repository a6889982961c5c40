"""A run that meets a new day reads it alone."""

import logging
from pathlib import Path

import pytest

from pipeline.chain import STEPS
from pipeline.config import Config
from pipeline.runner import run_steps
from tests.transform.small_tables import START, by_user, config
from tests.transform.test_incremental import DAYS, LAST_DAYS, deliver, spoil
from transform.clock import DAY


def test_the_next_transform_of_a_run_reads_the_new_day_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    settings = Config(transform=config(split=LAST_DAYS))
    files = [deliver(data, day, rows) for day, rows in enumerate(DAYS[:4])]
    run_steps(STEPS, settings, data, run, only="transform")
    assert "cy" in by_user(run / "steps" / "transform")
    for file in files:
        spoil(file)
    deliver(data, 4, DAYS[4])
    with caplog.at_level(logging.INFO):
        run_steps(STEPS, settings, data, run, only="transform")
    assert "events: 4 of 5 deliveries were read before, 1 is new (2024-01-05.parquet)" in caplog.text
    assert by_user(run / "steps" / "transform")["bob"]["timestamps"][-1] == START + 4 * DAY + 8
    with caplog.at_level(logging.INFO):
        run_steps(STEPS, settings, data, run, only="transform")
    assert "transform: up to date" in caplog.text
