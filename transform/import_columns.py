"""Turns source columns of any type into canonical values: text, numbers, times, attributes. Vectorised."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from transform.checks import reason
from transform.tables import CATEGORY_SEPARATOR

Column: TypeAlias = pa.Array | pa.ChunkedArray
_UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?)?( ?(Z|[+-]\d{2}:?\d{2}))?$"
_OFFSET = r":.*(Z|[+-]\d{2}:?\d{2})$"


@dataclass(frozen=True)
class Parsed:
    """A canonical column [rows], null where missing, and the reasons of the rows whose value does not fit."""

    values: pa.Array
    reasons: Mapping[int, str]


def first_reasons(parsed: Iterable[Parsed]) -> dict[int, str]:
    """Row → reason of the first column that has one."""
    reasons: dict[int, str] = {}
    for column in parsed:
        reasons = {**column.reasons, **reasons}
    return reasons


@dataclass(frozen=True)
class TimeFormat:
    """How times are written: see the options of the same names in transform.table_map.TableMap."""

    timestamp_format: str | None = None
    timestamp_unit: str = "s"
    timezone: str = "UTC"


def as_text(column: Column, missing: Sequence[str] = ()) -> pa.Array:
    """Trimmed text [rows] of any scalar column; empty and `missing` texts are null. 17850.0 as a number is "17850"."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_floating(array.type):
        array = _float_text(array)
    text = pc.utf8_trim_whitespace(array.cast(pa.string()))
    absent = pc.or_(pc.equal(text, ""), pc.is_in(text, value_set=pa.array(missing, pa.string())))
    return pc.if_else(absent, pa.scalar(None, pa.string()), text)


def is_scalar(data_type: pa.DataType) -> bool:
    """Whether `as_text` reads the type."""
    if pa.types.is_dictionary(data_type):
        return is_scalar(data_type.value_type)
    return not (pa.types.is_nested(data_type) or pa.types.is_binary(data_type) or pa.types.is_large_binary(data_type))


def is_text_list(data_type: pa.DataType) -> bool:
    """Whether the type is a list of scalars."""
    return (pa.types.is_list(data_type) or pa.types.is_large_list(data_type)) and is_scalar(data_type.value_type)


def _float_text(array: pa.Array) -> pa.Array:
    """Whole numbers without a decimal point, others as Python writes them; NaN is null."""
    values = array.to_numpy(zero_copy_only=False)
    texts = [None if v != v else str(int(v)) if float(v).is_integer() else repr(float(v)) for v in values.tolist()]
    return pa.array(texts, pa.string())


def without_decimals(text: pa.Array) -> pa.Array:
    """ "17850.0" → "17850"."""
    return pc.replace_substring_regex(text, r"^(\d+)\.0+$", r"\1")


def one_line(text: pa.Array) -> pa.Array:
    """Runs of white space and control characters become one space, so that a value fits a line of a vocabulary."""
    cleaned = pc.replace_substring_regex(text, r"[\p{Z}\p{Cc}]+", " ")
    return pc.utf8_trim_whitespace(cleaned)


def category_path(text: pa.Array, separator: str) -> pa.Array:
    """ "A|B | C" with separator "|" → "A > B > C"; empty levels go."""
    levels = [
        None if value is None else [level.strip() for level in value.split(separator.strip() or separator)]
        for value in one_line(text).to_pylist()
    ]
    paths = [None if path is None else CATEGORY_SEPARATOR.join(filter(None, path)) or None for path in levels]
    return pa.array(paths, pa.string())


def parse_numbers(name: str, column: Column, data_type: pa.DataType, missing: Sequence[str] = ()) -> Parsed:
    """Numbers of `data_type` (a float or an integer type); integers must be whole and in range."""
    text, numbers = _numbers(column, missing)
    absent = pc.is_null(text).to_numpy(zero_copy_only=False)
    wrong, rule = np.isnan(numbers), "must be a number as 1234.5"
    if pa.types.is_integer(data_type):
        limit = np.iinfo(data_type.to_pandas_dtype()).max
        rule = f"must be a whole number up to {limit}"
        wrong |= (np.abs(numbers) > limit) | (np.floor(numbers) != numbers)
    wrong &= ~absent
    values = pa.array(np.where(absent | wrong, 0, numbers), mask=absent | wrong).cast(data_type)
    return Parsed(values, _reasons(name, rule, text, wrong))


def _numbers(column: Column, missing: Sequence[str]) -> tuple[pa.Array, np.ndarray]:
    """What came, null where missing, and it as float64 [rows], NaN where it is no number."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        # A NaN in a column of numbers is a missing value.
        floats = array.cast(pa.float64(), safe=False)
        present = pc.if_else(pc.is_nan(floats), pa.scalar(None, pa.float64()), floats)
        return present, pc.fill_null(floats, np.nan).to_numpy(zero_copy_only=False)
    text = as_text(array, missing)
    return text, pd.to_numeric(text.to_pandas(), errors="coerce").to_numpy(dtype=np.float64)


def parse_booleans(name: str, column: Column, missing: Sequence[str] = ()) -> Parsed:
    """true/false, yes/no, 1/0 in any case."""
    text = as_text(column, missing)
    lower = pc.utf8_lower(text)
    yes = pc.is_in(lower, value_set=pa.array(["true", "yes", "1"]))
    no = pc.is_in(lower, value_set=pa.array(["false", "no", "0"]))
    wrong = pc.and_(pc.is_valid(text), pc.invert(pc.or_(yes, no)))
    values = pc.if_else(pc.or_(yes, no), yes, pa.scalar(None, pa.bool_()))
    return Parsed(values, _reasons(name, "must be true or false", text, wrong.to_numpy(zero_copy_only=False)))


def parse_times(name: str, column: Column, time_format: TimeFormat, missing: Sequence[str] = ()) -> Parsed:
    """Seconds since 1970-01-01 UTC (int64 [rows], rounded down) of texts, numbers, dates or Arrow timestamps."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        moments = pd.Series(array.to_pandas(date_as_object=False))
        aware = moments if moments.dt.tz is not None else _localise(moments, time_format.timezone)
        return Parsed(_epoch_seconds(pd.to_datetime(aware, utc=True)), {})
    text = as_text(array, missing)
    absent = pc.is_null(text).to_numpy(zero_copy_only=False)
    if time_format.timestamp_format is not None:
        offset = "%z" in time_format.timestamp_format
        moments = pd.to_datetime(
            text.to_pandas(), format=time_format.timestamp_format, errors="coerce", utc=offset or None
        )
        seconds = _epoch_seconds(moments if offset else _localise(moments, time_format.timezone))
        rule = f"must be written as {time_format.timestamp_format} (timestamp_format)"
    else:
        seconds = _iso_or_number(text, time_format)
        rule = "must be an ISO 8601 time or a number of seconds (timestamp_unit), or say `timestamp_format`"
    wrong = pc.is_null(seconds).to_numpy(zero_copy_only=False) & ~absent
    return Parsed(seconds, _reasons(name, rule, text, wrong))


def _iso_or_number(text: pa.Array, time_format: TimeFormat) -> pa.Array:
    """Seconds [rows]; null where the text is neither. A shop that changed its habit midway may have both."""
    iso = pc.fill_null(pc.match_substring_regex(text, _ISO), False).to_numpy(zero_copy_only=False)
    values = np.zeros(len(text), dtype=np.int64)
    known = np.zeros(len(text), dtype=bool)
    if iso.any():
        dates = text.filter(pa.array(iso))
        offset = pc.match_substring_regex(dates, _OFFSET).to_numpy(zero_copy_only=False)
        for rows, zone in ((np.flatnonzero(iso)[~offset], time_format.timezone), (np.flatnonzero(iso)[offset], None)):
            moments = pd.to_datetime(text.take(pa.array(rows)).to_pandas(), errors="coerce", utc=zone is None)
            seconds = _epoch_seconds(_localise(moments, zone) if zone is not None else moments)
            values[rows], known[rows] = pc.fill_null(seconds, 0).to_numpy(), pc.is_valid(seconds).to_numpy(False)
    rest = text.filter(pa.array(~iso))
    # Whole numbers stay whole: as float64, nanoseconds would lose their last digits.
    whole = pc.fill_null(pc.match_substring_regex(rest, r"^-?(\d{1,18}|[1-8]\d{18})$"), False).to_numpy(
        zero_copy_only=False
    )
    units = _UNITS_PER_SECOND[time_format.timestamp_unit]
    rows = np.flatnonzero(~iso)
    values[rows[whole]] = rest.filter(pa.array(whole)).cast(pa.int64()).to_numpy() // units
    fractions = pd.to_numeric(rest.filter(pa.array(~whole)).to_pandas(), errors="coerce").to_numpy(np.float64)
    finite = np.isfinite(fractions) & (np.abs(fractions) < 2.0**62)
    values[rows[~whole][finite]] = np.floor(fractions[finite] / units).astype(np.int64)
    known[rows[whole]], known[rows[~whole][finite]] = True, True
    return pa.array(values, pa.int64(), mask=~known)


def _localise(moments: pd.Series, zone: str) -> pd.Series:
    """Naive times as moments in UTC; a doubled hour is the later one, a skipped one counts an hour on."""
    later = np.zeros(len(moments), dtype=bool)
    local = moments.dt.tz_localize(zone, ambiguous=later, nonexistent="NaT").copy()
    skipped = local.isna() & moments.notna()
    if skipped.any():
        # By hand: pandas 1.5 shifts skipped times in London an hour too far.
        local[skipped] = (moments[skipped] + pd.Timedelta(hours=1)).dt.tz_localize(zone)
    return local.dt.tz_convert("UTC")


def _epoch_seconds(moments: pd.Series) -> pa.Array:
    nanoseconds = moments.astype("int64").to_numpy()
    return pa.array(nanoseconds // 10**9, pa.int64(), mask=moments.isna().to_numpy())


def _reasons(name: str, rule: str, text: pa.Array, wrong: np.ndarray) -> dict[int, str]:
    rows = np.flatnonzero(wrong)
    received = text.take(pa.array(rows)).to_pylist()
    return {row: reason(name, rule, value) for row, value in zip(rows.tolist(), received, strict=True)}


def attributes(named: Mapping[str, Column], ready: Column | None = None, missing: Sequence[str] = ()) -> pa.Array:
    """Lists of "name=value" [rows], one entry per filled value (per element of a list), in the order of `named`.

    `ready`: a column that holds such lists already; its entries come first.
    """
    parents, texts = [], []
    columns: list[tuple[str, Column]] = [("", ready)] if ready is not None else []
    rows = 0
    for name, column in [*columns, *named.items()]:
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        rows = len(array)
        if is_scalar(array.type):
            owner, values = pa.array(np.arange(rows)), array
        else:
            owner, values = pc.list_parent_indices(array), pc.list_flatten(array)
        text = one_line(as_text(values, missing))
        filled = pc.is_valid(text)
        parents.append(owner.filter(filled).to_numpy().astype(np.int64))
        text = text.filter(filled)
        # The first "=" parts name and value.
        texts.append(pc.binary_join_element_wise(name.replace("=", "_"), text, "=") if name else text)
    owners = np.concatenate(parents)
    order = np.argsort(owners, kind="stable")
    offsets = np.searchsorted(owners[order], np.arange(rows + 1))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.concat_arrays(texts).take(pa.array(order)))


def out_of_range(parsed: Parsed, name: str, lowest: float, highest: float) -> Parsed:
    """`parsed` where numbers are missing or outside of [lowest, highest] are wrong, too."""
    inside = pc.and_(pc.greater_equal(parsed.values, lowest), pc.less_equal(parsed.values, highest))
    outside = ~pc.fill_null(inside, False).to_numpy(zero_copy_only=False)
    found = _reasons(name, f"must be {lowest} to {highest}", parsed.values, outside)
    return Parsed(parsed.values, {**found, **parsed.reasons})
