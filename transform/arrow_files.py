"""Arrow IPC files on Beam's file systems, and the buffer that spills tables to them by partition."""

import errno
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

# What a worker holds of spilled rows before it writes them.
SPILL_BYTES = 64 * 2**20
_ABSENT = -1
# No room on the disk, in the user's quota, or in one file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class SpilledFile:
    """Rows of a table in an Arrow IPC file; their column `row` counts from the row `first_row` of the table on."""

    path: str
    first_row: int

    def read(self) -> pa.Table:
        """The rows, with their places in the whole table."""
        table = read_table(self.path)
        place = table.column_names.index("row")
        return table.set_column(place, "row", pc.add(table["row"], self.first_row)) if self.first_row else table


@contextmanager
def replaced_when_whole(path: str) -> Iterator[BinaryIO]:
    """A file to write that gets the name `path` only when all is written; after an error nothing has that name.

    Raises:
        OSError: it cannot be written; names the file and what to do where there is no room.
    """
    make_folder(FileSystems.split(path)[0])
    temporary = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        with FileSystems.create(temporary) as file:
            yield file
    except OSError as error:
        if error.errno not in _FULL:
            raise
        advice = "Make room, then run the same command again: it clears what this attempt left."
        raise OSError(error.errno, f"{error.strerror}: {path} was not written. {advice}") from error
    FileSystems.rename([temporary], [path])


def make_folder(path: str) -> None:
    """Makes a folder, and those above it, unless it is there."""
    try:
        if not FileSystems.exists(path):
            FileSystems.mkdirs(path)
    except OSError:
        # Another worker may have made it in between.
        if not FileSystems.exists(path):
            raise


def write_table(path: str, table: pa.Table) -> None:
    """Writes one Arrow IPC file."""
    with replaced_when_whole(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_table(path: str) -> pa.Table:
    """Reads one Arrow IPC file whole."""
    with FileSystems.open(path) as file:
        return pa.ipc.open_file(pa.BufferReader(file.read())).read_all()


def read_tables(paths: list[str]) -> pa.Table:
    """All rows of Arrow IPC files with one schema, see `joined`."""
    return joined([read_table(path) for path in paths])


def joined(tables: list[pa.Table]) -> pa.Table:
    """All rows of tables with one schema as one chunk; dictionaries hold each entry once, and none that no row names.

    Arrow's own ways to unify dictionaries read what stands in the places of nulls, which may be anything.
    """
    table = pa.concat_tables(tables)
    columns = [
        _joined_dictionaries(column.chunks, column.type) if pa.types.is_dictionary(column.type) else column
        for column in table.columns
    ]
    return pa.table(columns, schema=table.schema).combine_chunks()


def _joined_dictionaries(parts: list[pa.DictionaryArray], kind: pa.DictionaryType) -> pa.DictionaryArray:
    codes, entries, first = [np.empty(0, np.int32)], [pa.array([], kind.value_type)], 0
    for part in parts:
        absent = pc.is_null(part.indices).to_numpy(zero_copy_only=False)
        codes.append(np.where(absent, _ABSENT, pc.fill_null(part.indices, 0).to_numpy() + first).astype(np.int32))
        entries.append(part.dictionary)
        first += len(part.dictionary)
    code = np.concatenate(codes)
    there = code != _ABSENT
    used = np.zeros(first, bool)
    used[code[there]] = True
    encoded = pa.concat_arrays(entries).filter(pa.array(used)).dictionary_encode()
    numbers = np.zeros(first, np.int32)
    numbers[used] = encoded.indices.to_numpy()
    numbered = np.zeros(len(code), np.int32)
    numbered[there] = numbers[code[there]]
    return pa.DictionaryArray.from_arrays(pa.array(numbered, mask=~there), encoded.dictionary)


def write_json(path: str, value: Any, indent: int | None = None) -> None:
    """Writes one JSON file with sorted keys; with `indent` for people."""
    with replaced_when_whole(path) as file:
        file.write(json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False).encode() + b"\n")


def read_json(path: str) -> Any:
    """Reads one JSON file."""
    with FileSystems.open(path) as file:
        return json.loads(file.read())


class Spill:
    """Tables on their way to files, one file per partition and flush; file names are new at each attempt."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._parts: dict[str, list[pa.Table]] = {}
        self._bytes = 0

    def add(self, partition: str, table: pa.Table) -> Iterator[tuple[str, str]]:
        """Takes the rows of `table`; yields (partition, file) for what had to be written to make room."""
        if table.num_rows:
            self._parts.setdefault(partition, []).append(table)
            self._bytes += table.nbytes
        if self._bytes > SPILL_BYTES:
            yield from self.flush()

    def flush(self) -> Iterator[tuple[str, str]]:
        """Writes all that is held; yields (partition, file)."""
        for partition, tables in sorted(self._parts.items()):
            path = FileSystems.join(self._folder, f"{partition}-{uuid.uuid4().hex}.arrow")
            write_table(path, joined(tables))
            yield partition, path
        self._parts, self._bytes = {}, 0
