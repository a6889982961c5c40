"""Reads published and in-house files as batches of columns, with the line of every row and what could not be read."""

import bz2
import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from transform.checks import DataError, reason

FileFormat = Literal["csv", "tsv", "jsonl", "parquet"]
_FORMATS: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSIONS = (".gz", ".bz2", ".zst", ".lz4", ".br")
# What the readers of compressed files raise beside OSError: at an early end, and at bytes that cannot be.
_DAMAGED = (EOFError, zlib.error)
_BLOCK_BYTES = 8 << 20
_BATCH_ROWS = 65_536
_SHOWN_TEXT = 500


@dataclass(frozen=True)
class Malformed:
    """A row that has no columns: its line (from 1), why, and its text."""

    line: int
    reason: str
    text: str


@dataclass(frozen=True)
class SourceBatch:
    """Some rows of a file, in order.

    Attributes:
        lines: int64 [rows], the first line of each row in a text file, the row in a Parquet file, both from 1.
        columns: [rows] of each source column. Text formats give strings (JSON lists: lists of strings); Parquet its
            own types.
        malformed: rows in between that could not be split into columns.
    """

    lines: np.ndarray
    columns: pa.Table
    malformed: tuple[Malformed, ...] = ()


@dataclass(frozen=True)
class ReadOptions:
    """How a file is read. None: by its name (format) or by the format (delimiter)."""

    file_format: FileFormat | None = None
    delimiter: str | None = None
    encoding: str = "utf-8"
    # Column names of a CSV or TSV without a header line; None: the first line holds them.
    header: tuple[str, ...] | None = None


def file_format(path: Path) -> FileFormat:
    """The format that the name tells: the ending before a compression's.

    Raises:
        DataError: the ending is none of the known ones.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    if suffixes and suffixes[-1] in _FORMATS:
        return _FORMATS[suffixes[-1]]
    raise DataError(
        f"{path}: the format can't be told from the name; known endings are {', '.join(_FORMATS)}, each also with "
        f"{', '.join(_COMPRESSIONS)}. Say `file_format: csv` in the map file or rename the file."
    )


def source_files(source: Path) -> list[Path]:
    """`source` itself, or the readable files of a folder, by name.

    Raises:
        DataError: it does not exist, or the folder holds no file of a known format.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"SRC {source} does not exist.")
    files = [
        entry
        for entry in sorted(source.iterdir())
        if entry.is_file() and any(suffix.lower() in _FORMATS for suffix in entry.suffixes[-2:])
    ]
    if not files:
        raise DataError(f"SRC {source} is a folder without a file of a known format ({', '.join(_FORMATS)}).")
    return files


def source_columns(path: Path, options: ReadOptions) -> list[str]:
    """Names of the columns of a file; of JSON lines those of the first batch.

    Raises:
        DataError: the file is empty, has two columns of one name, or can't be read.
    """
    kind = options.file_format or file_format(path)
    if kind == "parquet":
        names = _open_parquet(path).schema_arrow.names
    elif kind == "jsonl":
        first = next(_json_batches(path, options), None)
        names = first.columns.column_names if first else []
    else:
        names = _csv_header(path, options)
    if not names:
        raise DataError(f"{path}: the file is empty.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: the columns {repeated} occur more than once. Give every column a name of its own.")
    return names


def read_batches(path: Path, options: ReadOptions) -> Iterator[SourceBatch]:
    """Batches of a file in order; memory is bounded by a batch (8 MiB of text or 65,536 rows).

    Raises:
        DataError: the file is damaged or has another encoding or format.
    """
    kind = options.file_format or file_format(path)
    if kind == "parquet":
        return _parquet_batches(path)
    if kind == "jsonl":
        return _json_batches(path, options)
    return _csv_batches(path, options)


def line_batches(path: Path, encoding: str) -> Iterator[tuple[np.ndarray, pa.Array]]:
    """Non-blank lines of a text file, compressed or not: (line numbers int64 [rows], lines without their end).

    Raises:
        DataError: the file does not exist, is empty, is damaged, or is not in `encoding`.
    """
    first, any_line = 1, False
    for block in _line_blocks(path):
        try:
            text = codecs.decode(b"".join(block), encoding)
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not {encoding} text: {error}.") from error
        # A byte order mark belongs to no line.
        lines = [line.rstrip("\r") for line in text.removeprefix("\ufeff").removesuffix("\n").split("\n")]
        texts = pa.array(lines, pa.string())
        filled = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0)
        numbers = np.arange(first, first + len(lines))[filled.to_numpy(zero_copy_only=False)]
        first += len(lines)
        if len(numbers):
            any_line = True
            yield numbers, texts.filter(filled)
    if not any_line:
        raise DataError(f"{path}: the file is empty.")


def split_lines(numbers: np.ndarray, lines: pa.Array, delimiter: str, names: Sequence[str]) -> SourceBatch:
    """Columns of unquoted delimited lines; a line with another number of fields is malformed."""
    fields = pc.split_pattern(lines, delimiter)
    lengths = pc.list_value_length(fields)
    fits = pc.equal(lengths, len(names))
    whole = fields.filter(fits)
    columns = {name: pc.list_element(whole, position) for position, name in enumerate(names)}
    keep = fits.to_numpy(zero_copy_only=False)
    malformed = tuple(
        _wrong_fields(line, names, length, text)
        for line, length, text in zip(
            numbers[~keep].tolist(),
            lengths.filter(pc.invert(fits)).to_pylist(),
            lines.filter(pc.invert(fits)).to_pylist(),
            strict=True,
        )
    )
    return SourceBatch(numbers[keep], pa.table(columns), malformed)


def _wrong_fields(line: int, names: Sequence[str], received: int, text: str) -> Malformed:
    rule = f"must have {len(names)} fields ({', '.join(names)})"
    return Malformed(line, reason("row", rule, received), text[:_SHOWN_TEXT])


def _open_bytes(path: Path) -> BinaryIO | gzip.GzipFile | bz2.BZ2File | io.BufferedReader:
    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file.")
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path, "rb")
    if suffix == ".bz2":
        return bz2.open(path, "rb")
    if suffix in _COMPRESSIONS:
        return io.BufferedReader(pa.input_stream(str(path), compression="detect"))
    return path.open("rb")


def _line_blocks(path: Path) -> Iterator[list[bytes]]:
    """Lines with their ends, about 8 MiB at a time."""
    with _open_bytes(path) as stream:
        while True:
            try:
                block = stream.readlines(_BLOCK_BYTES)
            except (OSError, *_DAMAGED) as error:
                raise DataError(f"{path}: the file is damaged or cut off: {error}.") from error
            if not block:
                return
            yield block


def _csv_header(path: Path, options: ReadOptions) -> list[str]:
    if options.header is not None:
        return list(options.header)
    encoding = "utf-8-sig" if options.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else options.encoding
    try:
        # The first block goes beyond the header; a wrong byte there is a matter of its row.
        with io.TextIOWrapper(_open_bytes(path), encoding=encoding, errors="replace", newline="") as text:
            names = [name.strip() for name in next(csv.reader(text, delimiter=_delimiter(path, options)), [])]
    except (OSError, *_DAMAGED) as error:
        raise DataError(f"{path}: the file is damaged or cut off: {error}.") from error
    if any("\N{REPLACEMENT CHARACTER}" in name for name in names):
        raise DataError(_encoding_advice(path, options, f"the header reads {names}"))
    return names


def _delimiter(path: Path, options: ReadOptions) -> str:
    return options.delimiter or ("\t" if (options.file_format or file_format(path)) == "tsv" else ",")


def _encoding_advice(path: Path, options: ReadOptions, error: object) -> str:
    return f"{path}: not {options.encoding} text ({error}). Say the `encoding`, for example `encoding: latin-1`."


class _LineCounter:
    """Finds the line of every CSV row: Arrow numbers rows, and rows may be malformed or hold line ends in quotes."""

    def __init__(self, names: Sequence[str], first_row: int) -> None:
        self._names = names
        self._next_row = first_row
        self._extra_lines = 0
        self._invalid: list[tuple[int, int, str]] = []

    def on_invalid_row(self, row: pyarrow.csv.InvalidRow) -> str:
        """Arrow's handler: the row is skipped here and reported with the next batch."""
        self._invalid.append((row.number, row.actual_columns, row.text))
        return "skip"

    def batch(self, line_ends: np.ndarray) -> tuple[np.ndarray, tuple[Malformed, ...]]:
        """Lines [rows] of the next well-formed rows, given the line ends within each [rows]; and the malformed before.

        Malformed rows after the last of them wait for the next call.
        """
        skipped = sorted(self._invalid)
        numbers = np.setdiff1d(
            np.arange(self._next_row, self._next_row + len(line_ends) + len(skipped)),
            np.array([number for number, _, _ in skipped], dtype=np.int64),
        )[: len(line_ends)]
        end = numbers[-1] + 1 if len(numbers) else self._next_row
        return self._place(numbers, line_ends, [entry for entry in skipped if entry[0] < end], int(end))

    def rest(self) -> tuple[Malformed, ...]:
        """The malformed rows after the last well-formed one."""
        skipped = sorted(self._invalid)
        nothing = np.zeros(0, dtype=np.int64)
        return self._place(nothing, nothing, skipped, skipped[-1][0] + 1 if skipped else self._next_row)[1]

    def _place(
        self, numbers: np.ndarray, line_ends: np.ndarray, skipped: list[tuple[int, int, str]], end: int
    ) -> tuple[np.ndarray, tuple[Malformed, ...]]:
        inside = np.zeros(end - self._next_row + 1, dtype=np.int64)
        inside[numbers - self._next_row + 1] = line_ends
        for number, _, text in skipped:
            inside[number - self._next_row + 1] = text.count("\n")
        before = self._extra_lines + np.cumsum(inside)
        lines = numbers + before[numbers - self._next_row]
        malformed = tuple(
            _wrong_fields(int(number + before[number - self._next_row]), self._names, fields, text)
            for number, fields, text in skipped
        )
        self._invalid = [entry for entry in self._invalid if entry[0] >= end]
        self._next_row, self._extra_lines = end, int(before[-1])
        return lines, malformed


def _csv_batches(path: Path, options: ReadOptions) -> Iterator[SourceBatch]:
    names = source_columns(path, options)
    counter = _LineCounter(names, first_row=1 if options.header is not None else 2)
    try:
        with _open_bytes(path) as stream:
            reader = pyarrow.csv.open_csv(
                stream,
                # One thread: only then does Arrow number the malformed rows.
                pyarrow.csv.ReadOptions(
                    use_threads=False,
                    block_size=_BLOCK_BYTES,
                    encoding=options.encoding,
                    column_names=names,
                    skip_rows=0 if options.header is not None else 1,
                ),
                pyarrow.csv.ParseOptions(
                    delimiter=_delimiter(path, options),
                    newlines_in_values=True,
                    ignore_empty_lines=False,
                    invalid_row_handler=counter.on_invalid_row,
                ),
                # Bytes first, so that one row with a wrong byte does not fail its block.
                pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary()), strings_can_be_null=False),
            )
            for block in reader:
                yield _csv_batch(block, counter, options)
    except (pa.ArrowException, OSError, *_DAMAGED) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(_encoding_advice(path, options, error)) from error
    yield SourceBatch(np.zeros(0, np.int64), _no_rows(names), counter.rest())


def _no_rows(names: Sequence[str]) -> pa.Table:
    return pa.table({name: pa.array([], pa.string()) for name in names})


def _csv_batch(block: pa.RecordBatch, counter: _LineCounter, options: ReadOptions) -> SourceBatch:
    line_ends, filled = np.zeros(block.num_rows, np.int64), np.zeros(block.num_rows, bool)
    for column in block.columns:
        line_ends += pc.count_substring(column, "\n").to_numpy()
        filled |= pc.greater(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
    lines, malformed = counter.batch(line_ends)
    texts, not_text = [], {}
    for name, column in zip(block.schema.names, block.columns, strict=True):
        text, wrong = _decode(name, column, options)
        texts.append(text)
        not_text.update(wrong)
    columns = pa.table(texts, names=block.schema.names)
    for row, why in not_text.items():
        malformed += (Malformed(int(lines[row]), why, str(columns.slice(row, 1).to_pylist()[0])[:_SHOWN_TEXT]),)
        filled[row] = False
    return SourceBatch(lines[filled], columns.filter(pa.array(filled)), malformed)


def _decode(name: str, column: pa.Array, options: ReadOptions) -> tuple[pa.Array, dict[int, str]]:
    """The bytes as text, and the reasons of the rows that are not (their wrong bytes are shown as U+FFFD)."""
    try:
        return column.cast(pa.string()), {}
    except pa.ArrowInvalid:
        values = column.to_pylist()
    reasons = {}
    for row, value in enumerate(values):
        try:
            value.decode()
        except UnicodeDecodeError:
            advice = "If the whole file is in another encoding, say it: `encoding: latin-1`."
            reasons[row] = reason(name, f"must be {options.encoding} text", value, advice)
    return pa.array([value.decode(errors="replace") for value in values], pa.string()), reasons


def _json_batches(path: Path, options: ReadOptions) -> Iterator[SourceBatch]:
    for numbers, texts in line_batches(path, options.encoding):
        for start in range(0, len(numbers), _BATCH_ROWS):
            chunk = slice(start, start + _BATCH_ROWS)
            yield _json_batch(numbers[chunk], texts[chunk].to_pylist())


def _json_batch(numbers: np.ndarray, texts: list[str]) -> SourceBatch:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    malformed: list[Malformed] = []
    for line, text in zip(numbers.tolist(), texts, strict=True):
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            malformed.append(Malformed(line, reason("row", f"must be JSON ({error})", text), text[:_SHOWN_TEXT]))
            continue
        if isinstance(row, dict):
            rows.append(row)
            lines.append(line)
        else:
            rule = 'must be a JSON object on one line, {"column": value, …}'
            malformed.append(Malformed(line, reason("row", rule, text), text[:_SHOWN_TEXT]))
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _json_column([row.get(name) for row in rows]) for name in names}
    return SourceBatch(np.array(lines, dtype=np.int64), pa.table(columns), tuple(malformed))


def _json_column(values: list[Any]) -> pa.Array:
    if any(isinstance(value, list) for value in values) and all(isinstance(v, list | None) for v in values):
        return pa.array([None if v is None else _json_texts(v) for v in values], pa.list_(pa.string()))
    return pa.array(_json_texts(values), pa.string())


def _json_texts(values: Iterable[Any]) -> list[str | None]:
    """Text of JSON values; a string is itself, everything else as JSON writes it."""
    return [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]


def _open_parquet(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file.")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Parquet file: {error}") from error


def _parquet_batches(path: Path) -> Iterator[SourceBatch]:
    first = 1
    try:
        for batch in _open_parquet(path).iter_batches(batch_size=_BATCH_ROWS):
            yield SourceBatch(np.arange(first, first + batch.num_rows), pa.Table.from_batches([batch]))
            first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged after row {first - 1}: {error}") from error
