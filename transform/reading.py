"""Beam's first steps: rows of the canonical tables, checked, bad ones aside, good ones spilled by partition."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from transform.arrow_files import Spill, joined, read_json, replaced_when_whole
from transform.checks import DataError, check_events, check_items, conform, count_reasons, logged_propensities
from transform.clock import MINUTE
from transform.content_faults import PictureLimits, clean_content
from transform.fingerprints import combine, fingerprint
from transform.tables import EVENT_TYPES, EVENTS, TYPE_NAMES, table_files

REPORTS = "reports"
# Columns of the events that the next step reads, and those that it only compares; all others are kept as one
# fingerprint, to tell copies apart.
_COPIED = ("user_id", "item_id", "device", "region", "quantity", "price", "surface", "position")
_COMPARED = ("session", "order")
_UINT16_VALUES = 2**16


@dataclass(frozen=True)
class RowGroup:
    """One row group of a Parquet file: what a worker reads at a time."""

    path: str
    number: int
    first_row: int  # of the group, counted over all files of the table
    first_row_in_file: int
    rows: int


@dataclass(frozen=True)
class Source:
    """One canonical table on disk."""

    name: str
    columns: tuple[str, ...]
    groups: tuple[RowGroup, ...]
    rows: int


def open_source(data: Path, name: str) -> Source:
    """The files of the table `name` by their metadata alone; `data` is their folder, or the only file itself.

    Raises:
        FileNotFoundError: there are none.
        DataError: a file is not Parquet, its columns are not those of the table or of the other files, or the table
            is empty.
    """
    groups: list[RowGroup] = []
    columns: tuple[str, ...] = ()
    rows = 0
    for file in [data] if data.is_file() else table_files(data, name):
        try:
            metadata = pq.read_metadata(file)
            empty = metadata.schema.to_arrow_schema().empty_table()
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{file}: not a readable Parquet file: {error}. Make it again with `tandem import`."
            ) from error
        found = tuple(sorted(conform(empty, name, str(file)).column_names))
        if columns and found != columns:
            raise DataError(
                f"{file}: the files of one table must have the same columns; this one has {', '.join(found)}, "
                f"{groups[0].path} has {', '.join(columns)}."
            )
        columns = found
        in_file = 0
        for number in range(metadata.num_row_groups):
            count = metadata.row_group(number).num_rows
            groups.append(RowGroup(str(file), number, rows, in_file, count))
            rows, in_file = rows + count, in_file + count
    if not rows:
        raise DataError(f"{data}: the table {name!r} has no rows. Check what was imported or simulated.")
    return Source(name, columns, tuple(groups), rows)


@dataclass
class Report:
    """Counts of the rows read; those of all workers merge to the same result in any order."""

    rows: int = 0
    spilled: int = 0
    rejected: dict[str, int] = field(default_factory=dict)  # field and rule → rows
    faults: dict[str, int] = field(default_factory=dict)  # of good rows, see transform/content_faults.py
    failures: list[str] = field(default_factory=list)  # row groups that cannot be read
    types: dict[str, int] = field(default_factory=dict)
    # Minute since 1970, in order, and how many events that enter histories it has: int64 [minutes, 2].
    minutes: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    first_timestamp: int | None = None
    last_timestamp: int | None = None

    def merge(self, other: "Report") -> "Report":
        """The counts of both."""
        firsts = [report.first_timestamp for report in (self, other) if report.first_timestamp is not None]
        lasts = [report.last_timestamp for report in (self, other) if report.last_timestamp is not None]
        return Report(
            self.rows + other.rows,
            self.spilled + other.spilled,
            add_counts(self.rejected, other.rejected),
            add_counts(self.faults, other.faults),
            sorted(self.failures + other.failures),
            add_counts(self.types, other.types),
            _add_minutes(self.minutes, other.minutes),
            min(firsts, default=None),
            max(lasts, default=None),
        )


def add_counts(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    """Sums by key."""
    return first | {key: first.get(key, 0) + count for key, count in second.items()}


def _add_minutes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sums by minute, int64 [minutes, 2]."""
    minutes, which = np.unique(np.concatenate([first[:, 0], second[:, 0]]), return_inverse=True)
    counts = np.zeros(len(minutes), np.int64)
    np.add.at(counts, which, np.concatenate([first[:, 1], second[:, 1]]))
    return np.column_stack([minutes, counts])


class MergeReports(beam.CombineFn):
    """Sums reports."""

    def create_accumulator(self) -> Report:
        return Report()

    def add_input(self, accumulator: Report, report: Report) -> Report:
        return accumulator.merge(report)

    def merge_accumulators(self, accumulators: list[Report]) -> Report:
        total = Report()
        for report in accumulators:
            total = total.merge(report)
        return total

    def extract_output(self, accumulator: Report) -> dict[str, Any]:
        return vars(accumulator) | {"minutes": accumulator.minutes.tolist()}


def read_report(path: str) -> Report:
    """What the pipeline wrote of MergeReports."""
    found = read_json(path)
    return Report(**found | {"minutes": np.array(found["minutes"], np.int64).reshape(-1, 2)})


class Rows(Protocol):
    """What is particular to one table."""

    @property
    def name(self) -> str:
        """The table."""
        ...

    @property
    def batch_rows(self) -> int:
        """Rows that a worker holds at a time."""
        ...

    @property
    def encoded(self) -> bool:
        """Whether strings are read as dictionaries."""
        ...

    def check(self, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Good and bad rows, as in transform/checks.py."""
        ...

    def clean(self, good: pa.Table) -> tuple[pa.Table, dict[str, int]]:
        """Good rows without what nobody can read, and how often which fault was met."""
        ...

    def parts(self, good: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """Rows to spill, by partition; `good` has the column `row`, the place over all files."""
        ...

    def count(self, good: pa.Table) -> Report:
        """Whatever is to be counted among good rows."""
        ...


@dataclass(frozen=True)
class EventRows:
    """Events go to buckets by a fingerprint of the shopper."""

    now: int
    max_future_seconds: int
    buckets: int
    history_types: tuple[str, ...]
    name: str = "events"
    batch_rows: int = 262_144
    encoded: bool = True

    def check(self, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Good and bad events."""
        return check_events(table, self.now, self.max_future_seconds)

    def clean(self, good: pa.Table) -> tuple[pa.Table, dict[str, int]]:
        """Events as they are."""
        return good, {}

    def parts(self, good: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """The columns that histories need, in the form that transform/interactions.py reads."""
        if not good.num_rows:
            return
        good = good.combine_chunks()
        columns = {
            name: good.column(name).chunk(0) for name in ("row", "timestamp", *_COPIED) if name in good.column_names
        }
        # Nobody asks for their names.
        columns |= {name: _identity(good.column(name).chunk(0)) for name in _COMPARED if name in good.column_names}
        columns["type"] = pa.array(_type_numbers(good.column("type").chunk(0)))
        rest = [name for name in good.column_names if name in EVENTS.names and name not in columns]
        if rest:
            columns["rest"] = pa.array(_rest_fingerprint(good, rest))
        if "attributes" in good.column_names:
            columns["propensity"] = pa.array(_propensities(good.column("attributes").chunk(0)))
        bucket = fingerprint(good.column("user_id").chunk(0)) % np.uint64(self.buckets)
        # Numbers of 16 bits are sorted in linear time.
        bucket = bucket.astype(np.uint16 if self.buckets <= _UINT16_VALUES else np.uint64)
        order = np.argsort(bucket, kind="stable")
        arranged = pa.table(columns).take(pa.array(order))
        bounds = np.searchsorted(bucket[order], np.arange(self.buckets)).tolist()
        for number, (start, end) in enumerate(itertools.pairwise([*bounds, len(order)])):
            if end > start:
                yield f"{number:05d}", joined([arranged.slice(start, end - start)])

    def count(self, good: pa.Table) -> Report:
        """Events by type, and by minute those that enter histories."""
        good = good.combine_chunks()
        if not good.num_rows:
            return Report()
        numbers = _type_numbers(good.column("type").chunk(0))
        counts = np.bincount(numbers)
        report = Report(types={TYPE_NAMES[number]: int(counts[number]) for number in np.flatnonzero(counts).tolist()})
        if "timestamp" not in good.column_names:
            return report
        timestamps = good.column("timestamp").to_numpy()
        kept = np.isin(numbers, [EVENT_TYPES[name] for name in self.history_types])
        report.minutes = np.column_stack(np.unique(timestamps[kept] // MINUTE, return_counts=True))
        report.first_timestamp, report.last_timestamp = int(timestamps.min()), int(timestamps.max())
        return report


def _type_numbers(types: pa.DictionaryArray) -> np.ndarray:
    """The enum's number of each event type, int8 [rows]."""
    numbers = np.array(list(EVENT_TYPES.values()), np.int8)
    places = pc.index_in(types.dictionary, value_set=pa.array(list(EVENT_TYPES)))
    return numbers[pc.fill_null(places, 0).to_numpy()][types.indices.to_numpy()]


def _identity(names: pa.DictionaryArray) -> pa.Array:
    """What tells values apart and takes eight bytes: uint64 [rows], null where there is no name."""
    unnamed = pc.fill_null(pc.equal(names.dictionary, "").take(names.indices), True)
    return pa.array(fingerprint(names), mask=unnamed.to_numpy(zero_copy_only=False))


def _propensities(attributes: pa.ListArray) -> np.ndarray:
    """The attribute `propensity` of each event, float32 [rows], NaN where it has none."""
    found = np.full(len(attributes), np.nan, np.float32)
    rows, values = logged_propensities(attributes)
    found[rows] = values
    return found


def _rest_fingerprint(table: pa.Table, columns: list[str]) -> np.ndarray:
    """uint64 [rows] over `columns`; `table` has one chunk."""
    total = np.zeros(table.num_rows, np.uint64)
    for name in columns:
        total = combine(total, fingerprint(table.column(name).chunk(0)))
    return total


@dataclass(frozen=True)
class ItemRows:
    """Products keep their columns; ids, times and categories also go to a small partition of their own."""

    pictures: PictureLimits = field(default_factory=PictureLimits)
    name: str = "items"
    # Products carry pictures.
    batch_rows: int = 8_192
    encoded: bool = False

    def check(self, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Good and bad products."""
        return check_items(table)

    def clean(self, good: pa.Table) -> tuple[pa.Table, dict[str, int]]:
        """Products by what they have; see transform/content_faults.py."""
        return clean_content(good, self.pictures)

    def parts(self, good: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """`rows`: everything; `keys`: what the catalogue is made of."""
        keys = [name for name in ("item_id", "row", "created_at", "category") if name in good.column_names]
        yield "rows", good
        yield "keys", good.select(keys)

    def count(self, good: pa.Table) -> Report:
        """Nothing but the rows."""
        return Report()


class ReadRows(beam.DoFn):
    """RowGroup → (partition, spilled file); a Report for each row group goes to the output REPORTS."""

    def __init__(self, rows: Rows, spill_folder: str, dead_letter_folder: str) -> None:
        self._rows = rows
        self._spill_folder = spill_folder
        self._dead_letter_folder = dead_letter_folder
        self._spill = Spill(spill_folder)

    def start_bundle(self) -> None:
        """Nothing is carried over from a bundle that failed."""
        self._spill = Spill(self._spill_folder)

    def process(self, group: RowGroup) -> Iterator[Any]:
        """Reads, checks and parts one row group, a batch at a time."""
        report = Report()
        rejected: list[dict[str, Any]] = []
        try:
            for table in _batches(group, self._rows):
                good, bad = self._rows.check(table)
                rejected += _dead_letters(group, bad)
                good, faults = self._rows.clean(good)
                report = report.merge(_report(self._rows, table, good, bad, faults))
                for partition, part in self._rows.parts(good):
                    yield from self._spill.add(partition, part)
        except _UnreadableError as error:
            # Told as data: an exception would reach the driver as a traceback in a string.
            report.failures.append(str(error))
        if rejected:
            write_dead_letters(
                FileSystems.join(self._dead_letter_folder, letters_file(self._rows.name, group)), rejected
            )
        yield beam.pvalue.TaggedOutput(REPORTS, report)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Writes what is still held."""
        window = GlobalWindow()
        for entry in self._spill.flush():
            yield WindowedValue(entry, window.max_timestamp(), [window])


def read_whole(source: Source, rows: Rows, dead_letter_folder: Path) -> tuple[pa.Table, Report]:
    """The good rows of a table that fits into memory, without a pipeline; bad ones go to dead letters as ever.

    Rules that compare rows ("must occur once") hold over all files.
    """
    tables: list[pa.Table] = []
    for group in source.groups:
        try:
            tables += _batches(group, rows)
        except _UnreadableError as error:
            return pa.table({}), Report(failures=[str(error)])
    table = pa.concat_tables(tables)
    good, bad = rows.check(table)
    places = bad["row"].to_numpy()
    for group in source.groups:
        stop = group.first_row + group.rows
        letters = _dead_letters(group, bad.filter(pa.array((places >= group.first_row) & (places < stop))))
        if letters:
            write_dead_letters(str(dead_letter_folder / letters_file(rows.name, group)), letters)
    good, faults = rows.clean(good)
    return good, _report(rows, table, good, bad, faults)


class _UnreadableError(ValueError):
    """A row group that cannot be read: names the file, the group and what the reader met."""


def _batches(group: RowGroup, rows: Rows) -> Iterator[pa.Table]:
    """Canonical tables with the column `row`, the place over all files.

    Raises:
        _UnreadableError: the row group is damaged, or not of the table. What a caller meets with a batch, a full disk
            for example, is none.
    """
    try:
        with FileSystems.open(group.path) as file:
            first = group.first_row
            for batch in _parquet(file, rows).iter_batches(rows.batch_rows, row_groups=[group.number]):
                table = conform(pa.Table.from_batches([batch]), rows.name, group.path, rows.encoded)
                yield table.append_column("row", pa.array(np.arange(first, first + table.num_rows)))
                first += table.num_rows
    except (pa.ArrowException, OSError, DataError) as error:
        raise _UnreadableError(f"{group.path}, row group {group.number}: cannot be read: {error}.") from error


def _parquet(file: BinaryIO, rows: Rows) -> pq.ParquetFile:
    """A Parquet file whose strings are read as the rows want them."""
    parquet = pq.ParquetFile(file)
    if not rows.encoded:
        return parquet
    texts = [column.name for column in parquet.schema_arrow if column.type in (pa.string(), pa.large_string())]
    return pq.ParquetFile(file, metadata=parquet.metadata, read_dictionary=texts)


def _report(rows: Rows, table: pa.Table, good: pa.Table, bad: pa.Table, faults: dict[str, int]) -> Report:
    report = rows.count(good)
    report.faults = faults
    report.rows, report.spilled = table.num_rows, good.num_rows
    report.rejected = count_reasons(bad.column("reason").to_pylist())
    return report


def letters_file(table: str, group: RowGroup) -> str:
    """Name of the dead letters of one row group; files of two tables may have one name in their folders."""
    return f"{table}-{Path(group.path).stem}-{group.number:05d}.jsonl"


def _dead_letters(group: RowGroup, bad: pa.Table) -> list[dict[str, Any]]:
    """File, row in that file (from 0), reason and values of each bad row."""
    letters = []
    for values in bad.to_pylist():
        place = values.pop("row") - group.first_row + group.first_row_in_file
        letters.append({"file": group.path, "row": place, "reason": values.pop("reason"), **values})
    return letters


def write_dead_letters(path: str, letters: list[dict[str, Any]]) -> None:
    """JSON lines; bytes (pictures) are told by their number."""
    with replaced_when_whole(path) as file:
        for letter in letters:
            file.write(json.dumps(letter, ensure_ascii=False, default=_told).encode() + b"\n")


def _told(value: bytes) -> str:
    return f"{len(value)} bytes"
