"""Fingerprints of column values: the same in every process and on every machine, for whole columns at once."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Odd 64-bit constants: the multiplier of the polynomial over bytes, that over list entries, and SplitMix64's
# (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
_BYTE_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_LIST_FACTOR = np.uint64(0xD6E8FEB86659FD93)
_NULL = np.uint64(0x2545F4914F6CDD1D)
_SPLIT_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def fingerprint(values: pa.Array) -> np.ndarray:
    """uint64 [rows]; equal values (nulls too) have equal fingerprints, others differ but for a chance of 2^-64.

    Takes strings, bytes, numbers, booleans, lists of them, and dictionaries, whose entries are read once.

    Raises:
        TypeError: values of another type.
    """
    if pa.types.is_dictionary(values.type):
        # A place of its own for null, behind the entries.
        entries = np.append(fingerprint(values.dictionary), _NULL)
        return entries[pc.fill_null(values.indices, len(entries) - 1).to_numpy()]
    if pa.types.is_list(values.type):
        entries = fingerprint(values.flatten())
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
        hashed = _polynomial(entries, lengths, _LIST_FACTOR)
    elif pa.types.is_string(values.type) or pa.types.is_binary(values.type):
        hashed = _polynomial(*_bytes(values), _BYTE_FACTOR)
    elif pa.types.is_floating(values.type):
        # Adding 0.0 makes one zero of the two.
        hashed = _mix((pc.fill_null(values, 0).to_numpy().astype(np.float64) + 0.0).view(np.uint64))
    elif pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
        hashed = _mix(pc.fill_null(values.cast(pa.int64()), 0).to_numpy().view(np.uint64))
    else:
        raise TypeError(
            f"fingerprint takes strings, bytes, numbers, booleans and lists of them, received {values.type}."
        )
    if values.null_count:
        hashed[pc.is_null(values).to_numpy(zero_copy_only=False)] = _NULL
    return hashed


def combine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """One fingerprint of two columns, uint64 [rows] each; the order of the two counts."""
    return _mix(first * _LIST_FACTOR + second)


def share(fingerprints: np.ndarray) -> np.ndarray:
    """Even spread of uint64 fingerprints over [0, 1), float64 [rows]: `share(f) < 0.1` draws a tenth of the values.

    Uses the high bits, so that it is independent of a fingerprint's remainder by a small number.
    """
    return (fingerprints >> np.uint64(11)) * 2.0**-53


def _bytes(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """All bytes of a string or binary column end to end, uint8, and the length of each value, int64 [rows]."""
    _, offset_buffer, data = values.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[values.offset : values.offset + len(values) + 1]
    content = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]] if data is not None else np.empty(0, np.uint8)
    return content, np.diff(offsets)


def _polynomial(parts: np.ndarray, lengths: np.ndarray, factor: np.uint64) -> np.ndarray:
    """Σ (part_i + 1) · factor^(i + 1) modulo 2^64 of each row's parts, mixed."""
    ends = np.cumsum(lengths, dtype=np.int64)
    longest = int(lengths.max(initial=0))
    powers = np.cumprod(np.full(longest, factor, np.uint64))
    position = np.arange(len(parts)) - np.repeat(ends - lengths, lengths)
    terms = (parts.astype(np.uint64) + np.uint64(1)) * powers[position]
    # Differences of a running sum, exact modulo 2^64: unlike reduceat it knows empty rows.
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms)])
    return _mix(sums[ends] - sums[ends - lengths])


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every input bit reaches every output bit."""
    mixed = (values ^ (values >> np.uint64(30))) * _SPLIT_MIX[0]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SPLIT_MIX[1]
    return mixed ^ (mixed >> np.uint64(31))
