"""RUN/baseline: counts and statistics of the last published models' data, which the next data is compared with."""

import logging
import shutil
from pathlib import Path

from pipeline.runner import StepError, step_directory
from transform.baseline import PROFILE

log = logging.getLogger(__name__)

BASELINE = "baseline"
_REPLACED = f".{BASELINE}.old"


def blessed_profile(run: Path, named: str | None) -> Path | None:
    """Profile of the blessed data that `run` is compared with; None where nothing has been blessed yet.

    Args:
        run: the run folder.
        named: another run folder, `validate.baseline`; None = the run's own.

    Raises:
        StepError: the run that is named has published nothing.
    """
    profile = _profile(run if named is None else Path(named))
    if profile is None and named is not None:
        raise StepError(
            f"validate.baseline: {named} holds no {BASELINE}, which `tandem run` writes when it has published models. "
            "Name the folder of such a run, or leave validate.baseline out."
        )
    return profile


def _profile(run: Path) -> Path | None:
    """The profile, or the earlier one that a process left which was killed while it replaced it."""
    return next((folder for folder in (run / BASELINE, run / _REPLACED) if folder.is_dir()), None)


def bless(run: Path) -> None:
    """Keeps the profile of the run's validated data as RUN/baseline, whole or not at all."""
    final, partial, old = run / BASELINE, run / f".{BASELINE}.partial", run / _REPLACED
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(step_directory(run, "validate") / PROFILE, partial)
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    log.info("bless: later data is compared with %s", final)
