"""TFRecord files of tf.train.Examples, encoded column by column and written on any Beam file system."""

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import google_crc32c
import numpy as np
from apache_beam.io.filesystems import FileSystems

from transform.arrow_files import replaced_when_whole
from transform.checks import DataError

# Field of each list in tf.train.Feature (tensorflow/core/example/feature.proto), as a wire tag.
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = b"\x0a", b"\x12", b"\x1a"
# Tag of field 1, length-delimited: the first (or only) field of every message involved.
_FIELD_1 = b"\x0a"
_FIELD_2 = b"\x12"
_MASK_DELTA = 0xA282EAD8
# Values up to this length are worth remembering: types, categories, ids, but not pictures.
_REPEATING_BYTES = 64


@dataclass(frozen=True)
class Column:
    """Values of one feature for many Examples: Example e has values[offsets[e]:offsets[e + 1]].

    `values` is an int64 or float32 array, or a list of bytes; its type decides the kind of the feature.
    """

    values: np.ndarray | list[bytes]
    offsets: np.ndarray  # int64 [examples + 1]


def single(values: np.ndarray | list[bytes]) -> Column:
    """One value for each Example."""
    return Column(values, np.arange(len(values) + 1))


def optional(values: list[bytes | None]) -> Column:
    """One value for each Example, or an empty list where it is None."""
    present = np.array([value is not None for value in values], bool)
    return Column([value for value in values if value is not None], np.concatenate([[0], np.cumsum(present)]))


def encode_examples(columns: dict[str, Column]) -> Iterator[bytes]:
    """Serialised tf.train.Examples with the features `columns`, in that order: the same bytes at each run.

    Raises:
        ValueError: the columns differ in their number of Examples.
    """
    counts = {name: len(column.offsets) - 1 for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"all columns must have the same number of Examples, received {counts}.")
    for entries in zip(*(_entries(name, column) for name, column in columns.items()), strict=True):
        features = b"".join(entries)
        yield _delimited(_FIELD_1, len(features)) + features


def write_tfrecords(path: str, records: Iterable[bytes]) -> int:
    """Writes `records` to the TFRecord file `path`, under another name until it is whole. Returns their number."""
    count = 0
    with replaced_when_whole(path) as file:
        for record in records:
            _write_record(file, record)
            count += 1
    return count


def read_tfrecords(path: str) -> Iterator[bytes]:
    """The records of a TFRecord file, in order.

    Raises:
        DataError: the file is truncated or corrupt.
    """
    with FileSystems.open(path) as file:
        number = 0
        while header := file.read(12):
            record = file.read(int.from_bytes(header[:8], "little"))
            if header[8:] != _masked_crc(header[:8]) or file.read(4) != _masked_crc(record):
                raise DataError(f"{path} is damaged at record {number} (from 0). Run `tandem transform` again.")
            yield record
            number += 1


def _write_record(file: BinaryIO, record: bytes) -> None:
    """Length, its checksum, data, its checksum (tensorflow/core/lib/io/record_writer.h)."""
    length = len(record).to_bytes(8, "little")
    file.write(b"".join((length, _masked_crc(length), record, _masked_crc(record))))


def _masked_crc(data: bytes) -> bytes:
    crc: int = google_crc32c.value(data)
    return ((((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF).to_bytes(4, "little")


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


@functools.lru_cache(maxsize=4_096)
def _delimited(tag: bytes, content_length: int) -> bytes:
    return tag + _varint(content_length)


def _entries(name: str, column: Column) -> Iterator[bytes]:
    """One map entry of tf.train.Features for each Example."""
    if isinstance(column.values, list):
        return _bytes_entries(name, column.values, column.offsets)
    if column.values.dtype == np.int64:
        content, ends = varints(column.values)
        return _packed_entries(name, _INT64_LIST, content, ends[column.offsets])
    if column.values.dtype == np.float32:
        return _packed_entries(name, _FLOAT_LIST, column.values.astype("<f4").tobytes(), column.offsets * 4)
    raise TypeError(
        f"feature {name!r}: values must be int64, float32 or a list of bytes, received {column.values.dtype}."
    )


def _packed_entries(name: str, kind: bytes, content: bytes, offsets: np.ndarray) -> Iterator[bytes]:
    headers: dict[int, bytes] = {}
    for start, end in itertools.pairwise(offsets.tolist()):
        length = end - start
        header = headers.get(length)
        if header is None:
            # A packed list without values is left out of its message altogether.
            values = _delimited(_FIELD_1, length) if length else b""
            header = headers[length] = _header(name, kind, len(values) + length) + values
        yield header + content[start:end]


def _bytes_entries(name: str, values: list[bytes], offsets: np.ndarray) -> Iterator[bytes]:
    """Short values, which often repeat, are encoded once."""
    known: dict[bytes, bytes] = {}
    for start, end in itertools.pairwise(offsets.tolist()):
        if end - start != 1 or len(values[start]) > _REPEATING_BYTES:
            yield _bytes_entry(name, values[start:end])
            continue
        value = values[start]
        entry = known.get(value)
        if entry is None:
            entry = known[value] = _bytes_entry(name, [value])
        yield entry


def _bytes_entry(name: str, values: list[bytes]) -> bytes:
    payload = b"".join(_delimited(_FIELD_1, len(value)) + value for value in values)
    return _header(name, _BYTES_LIST, len(payload)) + payload


def _header(name: str, kind: bytes, list_length: int) -> bytes:
    """Everything of a map entry before its list's content of `list_length` bytes."""
    key = name.encode()
    feature = _delimited(kind, list_length)
    value = _delimited(_FIELD_2, len(feature) + list_length) + feature
    entry = _delimited(_FIELD_1, len(key)) + key + value
    return _delimited(_FIELD_1, len(entry) + list_length) + entry


def varints(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Protobuf varints of int64 values end to end, and where each begins (and the last ends), int64 [values + 1].

    Seven bits a byte, lowest first, the high bit set on all but the last; negative numbers take ten bytes.
    """
    rest = values.astype(np.int64, copy=False).view(np.uint64)
    lengths = np.ones(len(rest), np.int64)
    for bits in range(7, 64, 7):
        lengths += rest >> np.uint64(bits) > 0
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    content = np.empty(offsets[-1], np.uint8)
    starts = offsets[:-1]
    while len(rest):
        more = rest > 0x7F
        content[starts] = (rest & np.uint64(0x7F)).astype(np.uint8) | (more.astype(np.uint8) << 7)
        rest, starts = rest[more] >> np.uint64(7), starts[more] + 1
    return content.tobytes(), offsets
