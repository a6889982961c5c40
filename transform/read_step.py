"""The first of the transform's pipelines: tables to checked rows, spilled; what was read before is not read again.

Events that are delivered day by day stay beside the transform's output as they were spilled, a folder for each day.
The next transform of the same run takes over the folders of those days whose files, settings and code are the same, so
that it reads only what is new. All that compares events with others (copies, order, sessions, the split) comes after
this step and sees all days, so that the output is that of a transform of everything, byte by byte.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from transform.arrow_files import SpilledFile, read_json, write_json
from transform.beam_pipeline import beam_pipeline
from transform.checks import FUTURE, DataError
from transform.config import BeamConfig
from transform.manifests import write_manifest, write_summary
from transform.read_report import MergeReports, Report, merged
from transform.reading import DEAD_LETTERS, REPORTS, ReadRows, Rows, letters_file
from transform.sources import RowGroup, Source, Unit
from transform.tables import DAYS_FOLDER

logger = logging.getLogger(__name__)

# In the folder of a unit: its report and its files. Written last, so that a folder that has it is whole.
_WHOLE = "whole.json"
_REASONS_SHOWN = 3
# File systems without hard links, or with another one below.
_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
# What decides how rows are read: days that other code has read are read again.
_CODE = ("arrow_files", "checks", "fingerprints", "read_report", "read_step", "reading", "sources", "tables")


@dataclass(frozen=True)
class ReadUnit:
    """What was read of one unit of a table."""

    first_row: int  # over all units
    report: Report
    files: dict[str, list[str]]  # by partition


@dataclass(frozen=True)
class ReadTable:
    """What was read of one table."""

    units: tuple[ReadUnit, ...]

    @property
    def report(self) -> Report:
        """Counts of all units."""
        return merged(unit.report for unit in self.units)

    def partitions(self, since: int | None = None) -> dict[str, list[SpilledFile]]:
        """Files by partition, of units that have rows from `since` (seconds) on."""
        found: dict[str, list[SpilledFile]] = {}
        for unit in self.units:
            if not self._is_before(unit, since):
                for partition, paths in unit.files.items():
                    found.setdefault(partition, []).extend(SpilledFile(path, unit.first_row) for path in paths)
        return found

    def rows_before(self, since: int | None) -> int:
        """Rows of the units that `partitions` leaves out."""
        return sum(unit.report.spilled for unit in self.units if self._is_before(unit, since))

    @staticmethod
    def _is_before(unit: ReadUnit, since: int | None) -> bool:
        last = unit.report.last_timestamp
        return since is not None and last is not None and last < since


class ReadStep:
    """Reads tables in one pipeline."""

    def __init__(self, output: Path, beam_config: BeamConfig, spill: str) -> None:
        """Args:
        output: of the transform; gets the dead letters and what is kept.
        beam_config: runner and its options.
        spill: folder of what is not kept.
        """
        self._output = output
        self._beam = beam_config
        self._spill = spill
        self._tables: list[_Table] = []

    def add(self, source: Source, rows: Rows, keep: bool = False, previous: Path | None = None) -> None:
        """Has a table read.

        Args:
            source: the table.
            rows: how.
            keep: what was read stays for the next transform.
            previous: output of an earlier transform, whose units are taken over.
        """
        root = str(self._output / DAYS_FOLDER) if keep else FileSystems.join(self._spill, source.name)
        table = _Table(source, rows, root, self._spill)
        if keep and previous is not None:
            table.take_over(previous / DAYS_FOLDER)
        self._tables.append(table)

    def run(self) -> dict[str, ReadTable]:
        """Reads what has to be; tables by name."""
        rows = sum(group.rows for table in self._tables for group in table.unread())
        label = f"Transform 1/4, reading {rows:,} rows of {' and '.join(t.source.name for t in self._tables)}"
        with beam_pipeline(self._beam, label) as pipeline:
            for table in self._tables:
                table.add_to(pipeline)
        found = {}
        for table in self._tables:
            found[table.source.name] = table.collect()
            for folder in table.folders.values():
                _copy_letters(Path(table.root) / folder / DEAD_LETTERS, self._output / DEAD_LETTERS)
        return found


def _told(units: int, new: list[str]) -> str:
    """What is read of several deliveries, for people."""
    if not new:
        return f"all {units:,} deliveries were read before"
    shown = ", ".join(new[:_REASONS_SHOWN]) + (", …" if len(new) > _REASONS_SHOWN else "")
    told = "1 is" if len(new) == 1 else f"{len(new):,} are"
    return f"{units - len(new):,} of {units:,} deliveries were read before, {told} new ({shown})"


class _Table:
    """One table of a pipeline."""

    def __init__(self, source: Source, rows: Rows, root: str, spill: str) -> None:
        self.source = source
        self.root = root
        # Name of each unit's folder in `root`, and the units that were read before.
        self.folders = {unit.name: _key(unit, rows) for unit in source.units}
        self._taken: set[str] = set()
        self._rows = rows
        self._manifest = FileSystems.join(spill, f"{source.name}-files.json")
        self._reports = FileSystems.join(spill, f"{source.name}.json")

    def take_over(self, before: Path) -> None:
        """Units that stand whole in the folder `before` of an earlier transform."""
        for unit, folder in self.folders.items():
            if _take_over(before / folder, Path(self.root) / folder):
                self._taken.add(unit)
        if self._taken:
            new = [unit.name for unit in self.source.units if unit.name not in self._taken]
            logger.info("%s: %s", self.source.name, _told(len(self.folders), new))

    def unread(self) -> list[RowGroup]:
        """Row groups that have to be read."""
        return [group for group in self.source.groups if group.unit not in self._taken]

    def add_to(self, pipeline: beam.Pipeline) -> None:
        """Files go to the folders of their units, what tells of them to JSON files."""
        name = self.source.name
        read = (
            pipeline
            | f"Row groups of {name}" >> beam.Create(self.unread())
            | f"Read {name}"
            >> beam.ParDo(ReadRows(self._rows, self.root, self.folders)).with_outputs(REPORTS, main="files")
        )
        write_manifest(read["files"], name, self._manifest)
        _ = (
            read[REPORTS]
            | f"Sum reports of {name}" >> beam.CombinePerKey(MergeReports())
            | f"Collect reports of {name}" >> beam.CombineGlobally(beam.combiners.ToDictCombineFn())
            | f"Write reports of {name}" >> beam.Map(write_summary, self._reports)
        )

    def collect(self) -> ReadTable:
        """What was read of all units, those that were read before included."""
        self._finish()
        units = []
        for unit in self.source.units:
            folder = FileSystems.join(self.root, self.folders[unit.name])
            whole = read_json(FileSystems.join(folder, _WHOLE))
            files = {
                partition: [FileSystems.join(folder, name) for name in names]
                for partition, names in whole["files"].items()
            }
            units.append(ReadUnit(unit.first_row, Report.from_json(whole["report"]), files))
        return ReadTable(tuple(units))

    def _finish(self) -> None:
        """Writes what makes the folders of the units that were read now whole."""
        files: dict[str, dict[str, list[str]]] = {}
        for key, paths in read_json(self._manifest).items():
            folder, partition = key.split("/")
            files.setdefault(folder, {})[partition] = [FileSystems.split(path)[1] for path in paths]
        told = read_json(self._reports)
        for unit, folder in self.folders.items():
            if unit not in self._taken:
                report = told.get(folder, Report().as_json())
                whole = {"unit": unit, "report": report, "files": files.get(folder, {})}
                write_json(FileSystems.join(self.root, folder, _WHOLE), whole)


def _key(unit: Unit, rows: Rows) -> str:
    """Name of a unit's folder: the same as long as its files, how they are read, and the code that reads are."""
    told = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in unit.files]
    hashed = hashlib.sha256(json.dumps([unit.name, told, rows.settings()], sort_keys=True).encode())
    for module in _CODE:
        hashed.update((Path(__file__).parent / f"{module}.py").read_bytes())
    return hashed.hexdigest()[:32]


def _take_over(before: Path, folder: Path) -> bool:
    """Links a whole folder of an earlier transform; not if what was refused then may be good by now."""
    if not (before / _WHOLE).is_file() or FUTURE in read_json(str(before / _WHOLE))["report"]["rejected"]:
        return False
    shutil.copytree(before, folder, copy_function=_link)
    return True


def _link(source: str, target: str) -> None:
    """The same file under another name; copied where the file system knows no second names."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copy2(source, target)


def _copy_letters(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)


def check_report(
    source: Source,
    report: Report,
    max_bad_share: float,
    dead_letters: Path,
    setting: str = "transform.max_bad_share",
) -> None:
    """Judges what was read of one table; `setting` is the name under which `max_bad_share` can be raised.

    Raises:
        DataError: a file could not be read, or more than `max_bad_share` of the rows are bad.
        RuntimeError: rows are missing.
    """
    if report.failures:
        raise DataError(f"{' '.join(report.failures)} Make the file again with `tandem import`.")
    bad = sum(report.rejected.values())
    if report.rows != source.rows or report.spilled + report.late + bad != report.rows:
        raise RuntimeError(
            f"rows of {source.name} were lost: {source.rows} in the files, {report.rows} read, {report.spilled} good, "
            f"{report.late} late, {bad} bad."
        )
    if bad > max_bad_share * report.rows or bad == report.rows:
        most = sorted(report.rejected.items(), key=lambda entry: (-entry[1], entry[0]))[:_REASONS_SHOWN]
        raise DataError(
            f"{bad:,} of {report.rows:,} rows of the table {source.name!r} are bad ({bad / report.rows:.2%}; "
            f"{setting} allows {max_bad_share:.2%}). Most frequent: "
            + ", ".join(f"{rule} ({count:,} rows)" for rule, count in most)
            + f". The first: {_first_letter(dead_letters, source)} All of them, with their reasons: {dead_letters}. "
            f"Correct the source, or raise {setting}."
        )


def _first_letter(dead_letters: Path, source: Source) -> str:
    """Place and reason of the first bad row of a table."""
    for group in source.groups:
        file = dead_letters / letters_file(source.name, group)
        if file.is_file():
            with file.open(encoding="utf-8") as lines:
                letter = json.loads(next(lines))
            return f"{letter['file']}, row {letter['row']} (from 0): {letter['reason']}"
    raise RuntimeError(f"bad rows of {source.name} were counted, but none was written to {dead_letters}.")
