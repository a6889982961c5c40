"""Canonical tables on disk: their files, the days these belong to, and the row groups that workers read."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from transform.checks import DataError, conform
from transform.tables import table_files

# "2026-11-20.parquet", "events_20261120.parquet", "day=2026-11-20/", "year=2026/month=11/day=20/".
_DATE = re.compile(r"(?<!\d)((?:19|20)\d{2})\D{0,7}(\d{2})\D{0,5}(\d{2})(?!\d)")


@dataclass(frozen=True)
class RowGroup:
    """One row group of a Parquet file: what a worker reads at a time."""

    unit: str  # name of the Unit that it is of
    label: str  # of its file, within the table
    path: str
    number: int
    first_row: int  # of the group, counted over the files of its unit
    first_row_in_file: int
    rows: int
    day: int | None  # of its file, days since 1970


@dataclass(frozen=True)
class Unit:
    """Files of a table that are read and kept together: all of them, or those of one delivery (a file or a folder)."""

    name: str  # of the file or folder, within the table; "" = all files
    files: tuple[Path, ...]
    first_row: int  # counted over all units
    rows: int


@dataclass(frozen=True)
class Source:
    """One canonical table on disk."""

    name: str
    columns: tuple[str, ...]
    groups: tuple[RowGroup, ...]
    units: tuple[Unit, ...]
    rows: int


def open_source(data: Path, name: str, apart: bool = False) -> Source:
    """The files of the table `name` by their metadata alone; `data` is their folder, or the only file itself.

    Args:
        data: see above.
        name: "events", "items" or "users".
        apart: each file, or each folder below that of the table, is a unit of its own.

    Raises:
        FileNotFoundError: there are none.
        DataError: a file is not Parquet, its columns are not those of the table or of the other files, or the table
            is empty.
    """
    files = [data] if data.is_file() else table_files(data, name)
    columns: tuple[str, ...] = ()
    groups: list[RowGroup] = []
    units: list[Unit] = []
    for unit, members in _units(files, data / name, apart).items():
        first = sum(one.rows for one in units)
        rows = 0
        for file in members:
            metadata, found = _metadata(file, name)
            if columns and found != columns:
                raise DataError(
                    f"{file}: the files of one table must have the same columns; this one has {', '.join(found)}, "
                    f"{groups[0].path} has {', '.join(columns)}."
                )
            columns = found
            read = _groups(unit, file, data / name, metadata, rows)
            groups += read
            rows += metadata.num_rows
        units.append(Unit(unit, tuple(members), first, rows))
    total = sum(unit.rows for unit in units)
    if not total:
        raise DataError(f"{data}: the table {name!r} has no rows. Check what was imported or simulated.")
    return Source(name, columns, tuple(groups), tuple(units), total)


def has_table(data: Path, name: str) -> bool:
    """Whether the shop has the table `name` at all."""
    try:
        table_files(data, name)
    except FileNotFoundError:
        return False
    return True


def named_by_days(data: Path, name: str) -> bool:
    """Whether any file of the table, or its folder, is named by a day."""
    return any(_day(file, data / name) is not None for file in table_files(data, name))


def _metadata(file: Path, name: str) -> tuple[pq.FileMetaData, tuple[str, ...]]:
    """Metadata of a file and the columns that it has of the table `name`, by name."""
    try:
        metadata = pq.read_metadata(file)
        empty = metadata.schema.to_arrow_schema().empty_table()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file: {error}. Make it again with `tandem import`.") from error
    return metadata, tuple(sorted(conform(empty, name, str(file)).column_names))


def _units(files: list[Path], folder: Path, apart: bool) -> dict[str, list[Path]]:
    """Files by the name of their unit, in order."""
    units: dict[str, list[Path]] = {}
    for file in files:
        units.setdefault(_unit(file, folder) if apart else "", []).append(file)
    return units


def _unit(file: Path, folder: Path) -> str:
    """Name of what a file was delivered in: its folder below that of the table, or itself."""
    return str(file.parent.relative_to(folder)) if _is_below(file, folder) else file.name


def _is_below(file: Path, folder: Path) -> bool:
    """Whether a file stands in a folder of its own below that of the table."""
    return file.is_relative_to(folder) and file.parent != folder


def _groups(unit: str, file: Path, folder: Path, metadata: pq.FileMetaData, first: int) -> list[RowGroup]:
    """Row groups of a file that begins at the row `first` of its unit."""
    below = _is_below(file, folder)
    label = "-".join(file.relative_to(folder).with_suffix("").parts) if below else file.stem
    groups = []
    in_file = 0
    for number in range(metadata.num_row_groups):
        count = metadata.row_group(number).num_rows
        groups.append(RowGroup(unit, label, str(file), number, first + in_file, in_file, count, _day(file, folder)))
        in_file += count
    return groups


def _day(file: Path, folder: Path) -> int | None:
    """Days since 1970 of the date in the name of a file's folder below that of the table, or in its own."""
    for year, month, day in _DATE.findall(_unit(file, folder)):
        try:
            return (datetime(int(year), int(month), int(day), tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days
        except ValueError:
            continue
    return None
