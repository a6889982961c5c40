"""`tandem refresh`: new, changed and withdrawn products reach a run's published models without any training."""

import hashlib
import json
import logging
import shutil
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.answer_table import PRODUCTS_FILE
from pipeline.chain import STEPS
from pipeline.publish import REFRESH, newest_refresh, newest_version, publish, published_version
from pipeline.runner import RECORD, StepError, current_record, locked, read_record, step_directory, write_json

if TYPE_CHECKING:
    # Beam and TensorFlow take seconds to load, which a mistake in the arguments must not wait for.
    from transform.catalogue_refresh import Refreshed
    from transform.catalogue_vectors import VectorEncoder
    from transform.config import TransformConfig
    from transform.read_report import Report

log = logging.getLogger(__name__)

REPORT = "refresh.json"
DEAD_LETTERS = Path("dead_letter") / REFRESH
# Within a refresh: what the output of the transform is to an export.
CATALOGUE = "catalogue"


def refresh(items: Path, run: Path, max_bad_share: float | None = None) -> dict[str, Any]:
    """Brings products into the newest models of a run and publishes them; a second refresh builds on the first.

    A product that the table does not name, and a column that it lacks, stay as they are. Nothing is fitted: features,
    moments and weights are those of the run. Where the table says nothing new, nothing is exported or published. A
    killed refresh leaves nothing that anything reads; the next one starts anew.

    Args:
        items: canonical items table, or a folder that holds it; `available` false withdraws a product.
        run: holds a finished export.
        max_bad_share: of the table's rows; None = as the run's transform had it.

    Returns:
        What RUN/refresh.json then holds: version, counts, and times in seconds.

    Raises:
        StepError: there is no such run or no export, or its steps have changed since.
        FileNotFoundError: there is no such table.
        DataError: the table is empty, not canonical, or has too many bad rows.
        ExportError: no product would be left to recommend.
    """
    started = time.time()
    if not run.is_dir():
        raise StepError(f"{run}: no such run folder. Make one with `tandem run`, or correct --run.")
    with locked(run):
        exported = current_record(STEPS, run, "export")
        report = _refresh(items, run, exported, max_bad_share, started)
        write_json(run / REPORT, report)
    return report


def summary(report: dict[str, Any]) -> str:
    """What a refresh did, in a few lines for people."""
    from transform.content_faults import fault_sentences

    what = ", ".join(f"{report[name]:,} {name}" for name in ("new", "changed", "withdrawn", "unchanged"))
    lines = [f"{report['rows']:,} rows: {what}, {sum(report['rejected'].values()):,} refused."]
    lines += fault_sentences(report["faults"])
    if report["published"]:
        lines.append(f"Version {report['version']} is published; {_times(report['seconds'])}.")
    else:
        lines.append(f"Nothing new: version {report['version']} stays.")
    return "\n".join(lines)


def _times(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())


def _refresh(
    items: Path, run: Path, exported: dict[str, Any], max_bad_share: float | None, started: float
) -> dict[str, Any]:
    from transform.catalogue_refresh import read_products, refresh_catalogue
    from transform.content_faults import picture_limits
    from transform.reading import ItemRows

    shutil.rmtree(run / DEAD_LETTERS, ignore_errors=True)
    settings = _transform_settings(run)
    allowed = settings.max_bad_share if max_bad_share is None else max_bad_share
    products, read = read_products(items, run / DEAD_LETTERS, allowed, ItemRows(picture_limits(settings)))
    latest = newest_refresh(run, exported["fingerprint"])
    base = latest / CATALOGUE if latest else step_directory(run, "embed-content")
    folder = step_directory(run, REFRESH)
    number = newest_version(folder) + 1
    partial = folder / f".{number}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    (partial / CATALOGUE).mkdir(parents=True)
    outcome = refresh_catalogue(base, products, partial / CATALOGUE, int(started), _encoders(base))
    index: dict[str, Any] | None = None
    if outcome.nothing_to_do:
        shutil.rmtree(partial)
    else:
        index = _export(run, partial, exported["config"]["export"])
        built_on = (read_record(latest) if latest else None) or exported
        record = {
            "step": REFRESH,
            "export": exported["fingerprint"],
            "fingerprint": hashlib.sha256(f"{built_on['fingerprint']} {outcome.digest}".encode()).hexdigest(),
            "seconds": round(time.time() - started, 1),
        }
        write_json(partial / RECORD, record)
        partial.rename(folder / str(number))
    before = published_version(run)
    version = publish(run)
    _remove_all_but_newest(folder)
    return {"version": version, "published": version > before, **_report(read, outcome, index, started)}


def _encoders(catalogue: Path) -> "dict[str, VectorEncoder]":
    """Of pictures and sentences, as the run had them; none where its catalogue has no such vectors."""
    from pipeline.content import vector_encoders
    from trainer.content_encoders import load_encoders

    return vector_encoders(load_encoders(catalogue))


def _transform_settings(run: Path) -> "TransformConfig":
    """As the run's transform had them; defaults for what it did not know yet, without what is no longer known."""
    from transform.config import TransformConfig

    record = read_record(step_directory(run, "transform")) or {}
    known = {setting.name for setting in fields(TransformConfig)}
    return TransformConfig(**{key: value for key, value in record["config"]["transform"].items() if key in known})


def _export(run: Path, partial: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The models anew over the catalogue in `partial`, with the weights of the run; returns what the index says."""
    from pipeline.answer_table import write_product_lookup
    from trainer.config import ExportConfig
    from trainer.data import load_catalogue
    from trainer.export import INDEX_REPORT, export

    retrieval, ranker, head = (step_directory(run, f"train-{name}") for name in ("retrieval", "ranker", "head"))
    log_dir = run / "tensorboard" / REFRESH
    export(partial / CATALOGUE, retrieval, ranker, head, partial, ExportConfig(**settings), log_dir)
    write_product_lookup(load_catalogue(partial / CATALOGUE), partial / PRODUCTS_FILE)
    index: dict[str, Any] = json.loads((partial / INDEX_REPORT).read_text(encoding="utf-8"))
    return index


def _remove_all_but_newest(folder: Path) -> None:
    """Published versions and newer refreshes hold their files by links of their own."""
    newest = str(newest_version(folder))
    for path in folder.iterdir():
        if path.name != newest:
            shutil.rmtree(path)


def _report(read: "Report", outcome: "Refreshed", index: dict[str, Any] | None, started: float) -> dict[str, Any]:
    """Counts and times; `index` is what an export says of its index, None where there was nothing to export."""
    from pipeline.report_index import index_forms
    from transform.content_faults import sorted_faults

    now = time.time()
    seconds = {}
    if index:
        building = sum(form["build_seconds"] for form in index_forms(index))
        seconds = {"embedding": index["embedding_seconds"], "index": building}
    waited = now - np.array(outcome.created_at, np.float64)
    return {
        "rows": read.rows,
        "new": outcome.new,
        "changed": outcome.changed,
        "unchanged": outcome.unchanged,
        "withdrawn": outcome.withdrawn,
        "rejected": read.rejected,
        "faults": sorted_faults(read.faults | outcome.faults),
        "recommendable": index["n"] if index else None,
        # From the start of the command to the version published.
        "seconds": {**seconds, "total": now - started},
        # From `created_at` of the new products that tell it to the version published, in seconds.
        "listed_to_published": {"products": len(waited), "median": float(np.median(waited)), "longest": waited.max()}
        if len(waited)
        else None,
    }
