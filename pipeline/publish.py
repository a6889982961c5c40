"""Publishing: exported models become a new integer version below RUN/export by a rename: a server sees them whole."""

import json
import logging
import os
import shutil
from pathlib import Path

from pipeline.answer_table import PRODUCTS_FILE
from pipeline.runner import StepError, read_record, step_directory

log = logging.getLogger(__name__)

_RECOMMENDER = "recommender"
_SAVED_MODEL = "saved_model.pb"
# Folder of steps/ that holds the last refresh under its number.
REFRESH = "refresh"
# Beside the warm-up requests; TensorFlow Serving ignores what it does not know there.
ORIGIN = Path("assets.extra") / "published.json"


def publish(run: Path) -> int:
    """Publishes what the export step made, or the last refresh of it; nothing if it is the newest version already.

    All models get the same version number. Files are hard links: no second copy on disk, and the version stays
    whole when the step's folder is replaced. The folder of a model that was published before and is no longer exported
    (`recommender_portable` once export.index is not `both`) stays as it is: a server of RUN/export goes on with its
    last version until somebody removes the folder.

    Returns:
        The version now newest.

    Raises:
        StepError: there is no finished export.
    """
    exported = read_record(step_directory(run, "export"))
    if exported is None:
        raise StepError(f"{run} holds no finished export: run `tandem export` (or `tandem run`) first.")
    source = newest_refresh(run, exported["fingerprint"]) or step_directory(run, "export")
    fingerprint = (read_record(source) or exported)["fingerprint"]
    models = exported_models(source)
    export = run / "export"
    newest = published_version(run)
    if newest and all(_fingerprint(export / model / str(newest)) == fingerprint for model in models):
        log.info("publish: version %d is up to date", newest)
        return newest
    version = newest + 1
    for model in models:
        partial = export / model / f".{version}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source / model, partial, copy_function=os.link)
        (partial / ORIGIN).parent.mkdir(exist_ok=True)
        (partial / ORIGIN).write_text(json.dumps({"fingerprint": fingerprint}), encoding="utf-8")
        partial.rename(export / model / str(version))
    _link(source / PRODUCTS_FILE, run / PRODUCTS_FILE)
    log.info("publish: version %d of %s is in %s", version, ", ".join(models), export)
    for model in sorted(_published_models(run) - set(models)):
        log.warning("publish: %s is no longer exported; remove its old versions: %s", model, export / model)
    return version


def exported_models(source: Path) -> list[str]:
    """Names of the models that an export or a refresh wrote, in the order to publish them.

    Recommenders come last: a client that sees one finds the encoder of the same version.
    """
    return sorted(
        (file.parent.name for file in source.glob(f"*/{_SAVED_MODEL}")),
        key=lambda name: (name.startswith(_RECOMMENDER), name),
    )


def published_version(run: Path) -> int:
    """The newest version that a model of the run has been published under; 0 if there is none."""
    return max((newest_version(run / "export" / model) for model in _published_models(run)), default=0)


def newest_refresh(run: Path, export: str) -> Path | None:
    """Folder of the last refresh of the export with that fingerprint; None where it has not been refreshed."""
    refreshes = step_directory(run, REFRESH)
    newest = refreshes / str(newest_version(refreshes))
    record = read_record(newest)
    return newest if record is not None and record["export"] == export else None


def _published_models(run: Path) -> set[str]:
    export = run / "export"
    return {folder.name for folder in export.iterdir() if newest_version(folder)} if export.is_dir() else set()


def _link(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    os.link(source, partial)
    os.replace(partial, target)


def newest_version(model: Path) -> int:
    """Largest integer folder name below a model's base path; 0 if there is none."""
    if not model.is_dir():
        return 0
    return max((int(path.name) for path in model.iterdir() if path.name.isdecimal() and path.is_dir()), default=0)


def _fingerprint(version: Path) -> str | None:
    origin = version / ORIGIN
    return json.loads(origin.read_text(encoding="utf-8"))["fingerprint"] if origin.is_file() else None
