"""Runs the steps of a chain: each only if its inputs or its configuration changed, each whole or not at all."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from pipeline import VERSION
from pipeline.config import Config, as_dict
from transform.checks import DataError

log = logging.getLogger(__name__)

RECORD = "step.json"
# The configuration last used in a run.
CONFIG = "config.json"


class StepError(RuntimeError):
    """A step that cannot start: names what is missing and the command that makes it."""


@dataclass(frozen=True)
class Place:
    """Where a step reads and writes."""

    data: Path
    run: Path
    # Of this step: a temporary folder while it runs, renamed to `run/steps/<name>` when whole.
    output: Path

    def step(self, name: str) -> Path:
        """Finished output of an earlier step."""
        return step_directory(self.run, name)

    def log_dir(self, name: str) -> Path:
        """TensorBoard folder of a step."""
        return self.run / "tensorboard" / name


@dataclass(frozen=True)
class Step:
    """inputs → outputs. `run` writes below `Place.output` only (and TensorBoard logs)."""

    name: str
    needs: tuple[str, ...]
    # Sections of the configuration that it reads, or single keys ("evaluation.exclude_seen").
    sections: tuple[str, ...]
    run: Callable[[Config, Place], None]
    # Continues from what a killed attempt left in its folder; other steps start from an empty one.
    resumes: bool = False


def step_directory(run: Path, name: str) -> Path:
    """Where the finished output of a step lies."""
    return run / "steps" / name


def run_steps(steps: Sequence[Step], config: Config, data: Path, run: Path, only: str | None = None) -> None:
    """Brings the steps up to date, in order; `only` one of them if named.

    Raises:
        StepError: another process works in this run, the folder cannot be written, or `only` lacks an earlier step.
    """
    with locked(run):
        write_json(run / CONFIG, as_dict(config))
        fingerprints: dict[str, str] = {}
        for step in steps:
            fingerprints[step.name] = _fingerprint(step, config, data, fingerprints)
            current = _finished(run, step.name) == fingerprints[step.name]
            if only not in (None, step.name):
                if step.name in _ancestors(steps, only) and not current:
                    raise StepError(
                        f"{only} needs {step.name}, which is missing or out of date in {run}. "
                        f"Run `tandem {step.name}` with the same --config, --data and --out first, or `tandem run`."
                    )
                continue
            if current:
                log.info("%s: up to date", step.name)
                continue
            _execute(step, config, data, run, fingerprints[step.name])


def read_record(directory: Path) -> dict[str, Any] | None:
    """What a finished step says of itself: fingerprint, seconds, configuration; None where it is not finished."""
    record = directory / RECORD
    if not record.is_file():
        return None
    read: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return read


def current_record(steps: Sequence[Step], run: Path, name: str) -> dict[str, Any]:
    """The record of a finished step whose inputs, other steps, are still those that it was made from.

    Raises:
        StepError: it has not run, or they have changed.
    """
    record = read_record(step_directory(run, name))
    if record is None:
        raise StepError(f"{run} holds no finished {name}: run `tandem {name}` (or `tandem run`) first.")
    needs = {need: _finished(run, need) for need in next(step.needs for step in steps if step.name == name)}
    if record["fingerprint"] != _hash(_parts(name, record["config"], needs)):
        raise StepError(
            f"the {name} of {run} was made from other steps than are there now ({', '.join(needs)}), or by another "
            "version of Tandem. Run `tandem run` first."
        )
    return record


def write_json(path: Path, value: Any) -> None:
    """Writes a file whole or not at all; numbers that JSON does not know (NaN) are an error."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2, allow_nan=False), encoding="utf-8")
    partial.replace(path)


def _execute(step: Step, config: Config, data: Path, run: Path, fingerprint: str) -> None:
    final = step_directory(run, step.name)
    partial = final.with_name(f".{step.name}.{fingerprint[:16]}.partial")
    for stale in final.parent.glob(f".{step.name}.*"):
        if stale != partial or not step.resumes:
            shutil.rmtree(stale)
    log.info("%s: %s", step.name, "resuming" if partial.exists() else "starting")
    partial.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    step.run(config, Place(data, run, partial))
    record = {
        "step": step.name,
        "fingerprint": fingerprint,
        "seconds": round(time.monotonic() - started, 1),
        "config": _settings(step, config),
    }
    write_json(partial / RECORD, record)
    if final.exists():
        old = final.with_name(f".{step.name}.old")
        final.rename(old)
        partial.rename(final)
        shutil.rmtree(old)
    else:
        partial.rename(final)
    log.info("%s: done in %.0f s", step.name, time.monotonic() - started)


def _finished(run: Path, name: str) -> str | None:
    record = read_record(step_directory(run, name))
    return None if record is None else str(record["fingerprint"])


def _ancestors(steps: Sequence[Step], name: str) -> set[str]:
    by_name = {step.name: step for step in steps}
    found: set[str] = set()
    pending = list(by_name[name].needs)
    while pending:
        current = pending.pop()
        found.add(current)
        pending.extend(by_name[current].needs)
    return found


def _fingerprint(step: Step, config: Config, data: Path, earlier: dict[str, str]) -> str:
    """Stable across processes: inputs, configuration read and version, hashed."""
    parts = _parts(step.name, _settings(step, config), {name: earlier[name] for name in step.needs})
    if not step.needs:
        parts["data"] = _data_fingerprint(data)
    return _hash(parts)


def _parts(name: str, settings: Mapping[str, Any], needs: Mapping[str, str | None]) -> dict[str, Any]:
    return {"step": name, "version": VERSION, "config": settings, "needs": needs}


def _settings(step: Step, config: Config) -> dict[str, Any]:
    return {key: as_dict(attrgetter(key)(config)) for key in step.sections}


def _hash(parts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _data_fingerprint(data: Path) -> list[tuple[str, int, int]]:
    """Name, size and modification time of every table file: cheap at any size, and a rewritten file counts as new."""
    if not data.is_dir():
        raise DataError(f"{data}: no such folder. Make one with `tandem import` or `tandem simulate`.")
    files = sorted(path for path in data.rglob("*.parquet"))
    if not files:
        raise DataError(f"{data}: holds no Parquet table. Make them with `tandem import` or `tandem simulate`.")
    return [(str(path.relative_to(data)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """One process at a time in a run; the lock goes with the process, however it ends."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        handle = os.open(run / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise StepError(f"cannot write to the run folder {run}: {error.strerror}. Give another --out.") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise StepError(f"another tandem process is working in {run}; wait for it, or give another --out.") from None
    try:
        yield
    finally:
        os.close(handle)
