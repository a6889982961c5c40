"""TFRecord files of tf.train.Examples, encoded column by column and written on any Beam file system."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from transform.arrow_files import replaced_when_whole
from transform.checks import DataError

# Field of each list in tf.train.Feature (tensorflow/core/example/feature.proto), as a wire tag.
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = b"\x0a", b"\x12", b"\x1a"
# Tag of field 1, length-delimited: the first (or only) field of every message involved.
_FIELD_1 = b"\x0a"
_FIELD_2 = b"\x12"
_MASK_DELTA = 0xA282EAD8
_NOTHING = pa.scalar(b"", pa.large_binary())
# A block of Examples that is encoded at a time: about so many bytes of values, and at most so many Examples.
_BLOCK_BYTES = 16 * 2**20
_BLOCK_EXAMPLES = 65_536


@dataclass(frozen=True)
class Column:
    """Values of one feature for many Examples: Example e has values[offsets[e]:offsets[e + 1]].

    `values` is an int64 or float32 array, or a list of bytes or an Arrow array of strings (neither with nulls); its
    type decides the kind of the feature.
    """

    values: np.ndarray | pa.Array | list[bytes]
    offsets: np.ndarray  # int64 [examples + 1]


def single(values: np.ndarray | pa.Array | list[bytes]) -> Column:
    """One value for each Example."""
    return Column(values, np.arange(len(values) + 1))


def optional(values: pa.Array | list[bytes | None]) -> Column:
    """One value for each Example, or an empty list where it is null."""
    if isinstance(values, list):
        present = np.array([value is not None for value in values], bool)
        kept: pa.Array | list[bytes] = [value for value in values if value is not None]
    else:
        present, kept = pc.is_valid(values).to_numpy(zero_copy_only=False), values.drop_null()
    return Column(kept, np.concatenate([[0], np.cumsum(present)]))


def encode_examples(columns: dict[str, Column]) -> Iterator[bytes]:
    """Serialised tf.train.Examples with the features `columns`, in that order: the same bytes at each run.

    A block of Examples is encoded at a time, feature after feature; bytes objects are made of whole Examples only.

    Raises:
        ValueError: the columns differ in their number of Examples.
        TypeError: values of another type.
    """
    counts = {name: len(column.offsets) - 1 for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"all columns must have the same number of Examples, received {counts}.")
    arrays = {name: _with_arrays(name, column) for name, column in columns.items()}
    for start, stop in itertools.pairwise(_block_bounds(list(arrays.values()))):
        entries = [part for name, column in arrays.items() for part in _entries(name, _slice(column, start, stop))]
        features = pc.binary_join_element_wise(*entries, _NOTHING)
        lengths = pc.binary_length(features).to_numpy().astype(np.int64)
        header = _by_length(lengths, lambda length: _delimited(_FIELD_1, length))
        yield from pc.binary_join_element_wise(header, features, _NOTHING).to_pylist()


def _with_arrays(name: str, column: Column) -> Column:
    values = column.values
    if isinstance(values, np.ndarray) and values.dtype not in (np.int64, np.float32):
        raise TypeError(f"feature {name!r}: values must be int64, float32 or a list of bytes, received {values.dtype}.")
    if isinstance(values, np.ndarray):
        return column
    values = pa.array(values, pa.large_binary()) if isinstance(values, list) else values.cast(pa.large_binary())
    return Column(values, column.offsets)


def _slice(column: Column, start: int, stop: int) -> Column:
    """The Examples from `start` to before `stop`."""
    offsets = column.offsets[start : stop + 1]
    return Column(column.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def _block_bounds(columns: list[Column]) -> list[int]:
    """Where blocks of Examples begin, and the last ends: each holds about so many bytes, or one Example."""
    if not columns:
        return [0]
    sizes = np.zeros(len(columns[0].offsets), np.int64)
    for column in columns:
        if isinstance(column.values, np.ndarray):
            sizes += column.offsets * column.values.itemsize
        else:
            lengths = pc.binary_length(column.values).to_numpy()
            sizes += np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[column.offsets]
    bounds = [0]
    while bounds[-1] < len(sizes) - 1:
        end = int(np.searchsorted(sizes, sizes[bounds[-1]] + _BLOCK_BYTES))
        bounds.append(min(max(end, bounds[-1] + 1), bounds[-1] + _BLOCK_EXAMPLES, len(sizes) - 1))
    return bounds


def write_tfrecords(path: str, records: Iterable[bytes]) -> int:
    """Writes `records` to the TFRecord file `path`, under another name until it is whole. Returns their number."""
    count = 0
    with replaced_when_whole(path) as file:
        for record in records:
            file.write(_framed(record))
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


def _framed(record: bytes) -> bytes:
    """Length, its checksum, data, its checksum (tensorflow/core/lib/io/record_writer.h)."""
    return b"".join((_framed_length(len(record)), record, _masked_crc(record)))


@functools.lru_cache(maxsize=65_536)
def _framed_length(length: int) -> bytes:
    encoded = length.to_bytes(8, "little")
    return encoded + _masked_crc(encoded)


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


def _delimited(tag: bytes, content_length: int) -> bytes:
    return tag + _varint(content_length)


def _by_length(lengths: np.ndarray, encode: Callable[[int], bytes]) -> pa.Array:
    """`encode(length)` of each length, large_binary [lengths]: called once for each that occurs."""
    known, which = np.unique(lengths, return_inverse=True)
    encoded = pa.array([encode(length) for length in known.tolist()], pa.large_binary())
    return encoded.take(pa.array(which))


def _entries(name: str, column: Column) -> tuple[pa.Array, pa.Array]:
    """A map entry of tf.train.Features for each Example: what precedes its values, and they; large_binary [E] each."""
    if not isinstance(column.values, np.ndarray):
        # Each value of a bytes list is a field of its own.
        content, ends = _delimited_values(column.values)
        return _content_entries(name, _BYTES_LIST, content, ends[column.offsets], packed=False)
    if column.values.dtype == np.int64:
        content, ends = varints(column.values)
        return _content_entries(name, _INT64_LIST, content, ends[column.offsets], packed=True)
    content = pa.py_buffer(column.values.astype("<f4"))
    return _content_entries(name, _FLOAT_LIST, content, column.offsets * 4, packed=True)


def _content_entries(
    name: str, kind: bytes, content: pa.Buffer, offsets: np.ndarray, packed: bool
) -> tuple[pa.Array, pa.Array]:
    buffers = [None, pa.py_buffer(offsets.astype(np.int64)), content]
    values = pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)

    def header(length: int) -> bytes:
        # A packed list without values is left out of its message altogether.
        before = _delimited(_FIELD_1, length) if packed and length else b""
        return _header(name, kind, len(before) + length) + before

    return _by_length(np.diff(offsets), header), values


def _delimited_values(values: pa.Array) -> tuple[pa.Buffer, np.ndarray]:
    """Values of a bytes list end to end, each behind its tag and length; where each begins, int64 [values + 1]."""
    lengths = pc.binary_length(values).to_numpy().astype(np.int64)
    header = _by_length(lengths, lambda length: _delimited(_FIELD_1, length))
    joined = pc.binary_join_element_wise(header, values, _NOTHING)
    starts = np.concatenate([[0], np.cumsum(pc.binary_length(joined).to_numpy(), dtype=np.int64)])
    return joined.buffers()[2] or pa.py_buffer(b""), starts


def _header(name: str, kind: bytes, list_length: int) -> bytes:
    """Everything of a map entry before its list's content of `list_length` bytes."""
    key = name.encode()
    feature = _delimited(kind, list_length)
    value = _delimited(_FIELD_2, len(feature) + list_length) + feature
    entry = _delimited(_FIELD_1, len(key)) + key + value
    return _delimited(_FIELD_1, len(entry) + list_length) + entry


def varints(values: np.ndarray) -> tuple[pa.Buffer, np.ndarray]:
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
    return pa.py_buffer(content), offsets
