"""Beam's first steps: rows of the canonical tables, checked, bad ones aside, good ones spilled by partition."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
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

from transform.arrow_files import Spill, joined, replaced_when_whole
from transform.checks import DataError, check_events, check_items, conform, count_reasons, logged_propensities
from transform.clock import DAY, MINUTE
from transform.content_faults import PictureLimits, clean_content
from transform.fingerprints import combine, fingerprint
from transform.read_report import Report, merged
from transform.sources import RowGroup, Source
from transform.tables import EVENT_TYPES, EVENTS, TYPE_NAMES

REPORTS = "reports"
DEAD_LETTERS = "dead_letter"
# Columns of the events that the next step reads, and those that it only compares; all others are kept as one
# fingerprint, to tell copies apart.
_COPIED = ("user_id", "item_id", "device", "region", "quantity", "price", "surface", "position")
_COMPARED = ("session", "order")
_UINT16_VALUES = 2**16


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

    def settings(self) -> dict[str, Any]:
        """Whatever decides what becomes of a row, but for the clock."""
        ...

    def check(self, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Good and bad rows, as in transform/checks.py."""
        ...

    def timely(self, good: pa.Table, day: int | None) -> pa.Table:
        """Good rows but for those that came too late; `day`: of their file, since 1970."""
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
    # Events of so many days before that of their file still count; None: all.
    late_days: int | None = None
    name: str = "events"
    batch_rows: int = 262_144
    encoded: bool = True

    def settings(self) -> dict[str, Any]:
        """All but the clock."""
        return {name: value for name, value in asdict(self).items() if name != "now"}

    def check(self, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Good and bad events."""
        return check_events(table, self.now, self.max_future_seconds)

    def timely(self, good: pa.Table, day: int | None) -> pa.Table:
        """Events of the days that are waited for; a file without a day has none that are late."""
        if self.late_days is None or day is None:
            return good
        return good.filter(pc.greater_equal(good["timestamp"], (day - self.late_days) * DAY))

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

    def settings(self) -> dict[str, Any]:
        """Limits of pictures."""
        return asdict(self)

    def check(self, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Good and bad products."""
        return check_items(table)

    def timely(self, good: pa.Table, day: int | None) -> pa.Table:
        """All: the newest catalogue counts."""
        del day
        return good

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
    """RowGroup → (folder of its unit/partition, spilled file); to the output REPORTS (folder, Report) for each."""

    def __init__(self, rows: Rows, root: str, folders: dict[str, str]) -> None:
        """Args:
        rows: what is read.
        root: holds the folders of the units.
        folders: of each unit, for what is spilled; dead letters go to their folder DEAD_LETTERS.
        """
        self._rows = rows
        self._root = root
        self._folders = folders
        self._spill = Spill(root)

    def start_bundle(self) -> None:
        """Nothing is carried over from a bundle that failed."""
        self._spill = Spill(self._root)

    def process(self, group: RowGroup) -> Iterator[Any]:
        """Reads, checks and parts one row group, a batch at a time."""
        folder = self._folders[group.unit]
        reports: list[Report] = []
        rejected: list[dict[str, Any]] = []
        try:
            for table in _batches(group, self._rows):
                good, bad = self._rows.check(table)
                rejected += _dead_letters(group, bad)
                timely = self._rows.timely(good, group.day)
                cleaned, faults = self._rows.clean(timely)
                reports.append(_report(self._rows, table, cleaned, bad, faults))
                reports[-1].late = good.num_rows - timely.num_rows
                for partition, part in self._rows.parts(cleaned):
                    yield from self._spill.add(f"{folder}/{partition}", part)
        except _UnreadableError as error:
            # Told as data: an exception would reach the driver as a traceback in a string.
            reports.append(Report(failures=[str(error)]))
        if rejected:
            file = letters_file(self._rows.name, group)
            write_dead_letters(FileSystems.join(self._root, folder, DEAD_LETTERS, file), rejected)
        yield beam.pvalue.TaggedOutput(REPORTS, (folder, merged(reports)))

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
    return f"{table}-{group.label}-{group.number:05d}.jsonl"


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
