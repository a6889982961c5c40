"""Logged requests against what a run was trained on: RUN/skew.json."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.runner import StepError, read_record, step_directory
from transform.config import ValidateConfig


def skew(run: Path, requests: Path) -> None:
    """Compares the requests logged in `requests` with the training data of `run`, by its own limits.

    Raises:
        StepError: the run has no finished transform and validation.
        GuardError: they differ more than is allowed.
    """
    from transform.guard_skew import check_requests

    validated = read_record(step_directory(run, "validate"))
    if validated is None:
        raise StepError(f"{run} holds no finished validate: run `tandem validate` (or `tandem run`) first.")
    config = TypeAdapter(ValidateConfig).validate_python(validated["config"]["validate"])
    schema = Path(config.schema) if config.schema else run / "schema"
    log_dir = run / "tensorboard" / "requests"
    check_requests(step_directory(run, "transform"), schema, requests, run, config, log_dir)


def read_skew(run: Path) -> dict[str, Any] | None:
    """What the last comparison found; None where none has been made."""
    from transform.guard_skew import SKEW_FILE

    file = run / SKEW_FILE
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
