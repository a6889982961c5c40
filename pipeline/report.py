"""RUN/report.html: what a run measured, on one page that needs no other file and no network."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import VERSION
from pipeline.catalogue_map import MAP_FILE
from pipeline.chain import STEPS
from pipeline.pages import page_environment
from pipeline.report_explanation import explanation
from pipeline.report_lists import ids_of, item_lists
from pipeline.report_quality import quality
from pipeline.report_shoppers import Shelf, shelf_of_run, shoppers
from pipeline.report_view import Results, view
from pipeline.runner import RECORD, step_directory

REPORT_FILE = "report.html"


class ReportError(ValueError):
    """A result that the report needs and cannot read: names the file and the command that makes it."""


def write_report(run: Path) -> Path:
    """Writes RUN/report.html from what the steps left, whole or not at all. Returns its path.

    Only RUN/metrics.json and the transform's statistics must be there; what else is missing is said on the page.

    Raises:
        ReportError: one of those two is missing, or a file is not valid JSON.
    """
    results = read_results(run)
    shelf = shelf_of_run(step_directory(run, "transform"), results.examples, ids_of(results.lists))
    path, partial = run / REPORT_FILE, run / f".{REPORT_FILE}.partial"
    partial.write_text(render(results, shelf), encoding="utf-8")
    os.replace(partial, path)
    return path


def read_results(run: Path) -> Results:
    """Everything the report says, as the steps wrote it.

    Raises:
        ReportError: as `write_report`.
    """
    examples = _json(step_directory(run, "evaluate") / "examples.json")
    return Results(
        run=run,
        metrics=_needed(run / "metrics.json", "tandem run"),
        statistics=_needed(step_directory(run, "transform") / "statistics.json", "tandem transform"),
        validation={
            path.stem: _json(path)
            for path in (*sorted(step_directory(run, "validate").glob("*.json")), run / "skew.json")
        },
        histories={step.name: _json(step_directory(run, step.name) / "history.json") or [] for step in STEPS},
        records={step.name: _json(step_directory(run, step.name) / RECORD) or {} for step in STEPS},
        examples=examples or [],
        explanation=_json(step_directory(run, "evaluate") / "explanation.json"),
        lists=_json(step_directory(run, "export") / "lists.json"),
        map_points=_json(step_directory(run, "embedding-quality") / MAP_FILE) or [],
    )


def render(results: Results, shelf: Shelf) -> str:
    """The page as text."""
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            view=view(results),
            shoppers=shoppers(results.examples, shelf),
            explanation=explanation(results.explanation, shelf),
            lists=item_lists(results.lists, shelf),
            quality=quality(results.metrics.get("embedding_quality") or {}, results.map_points),
            shelf=shelf,
            version=VERSION,
            made=datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
        )
    )


def _needed(path: Path, command: str) -> Any:
    content = _json(path)
    if content is None:
        raise ReportError(f"no {path}: the report needs it. Run `{command}` first.")
    return content


def _json(path: Path) -> Any:
    """Content of a JSON file, None if there is no such file."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"{path} is not valid JSON: {error}. Delete it and run `tandem run` again.") from error
