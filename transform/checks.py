"""The rules that every row of a canonical table obeys, and the error that names what breaks them."""

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transform.tables import EVENT_TYPES, PROPENSITY_ATTRIBUTE, REQUIRED_COLUMNS, SCHEMAS

MAX_ID_BYTES = 512
# A second-based time beyond this is in the year 5138: it is another unit.
_LARGEST_SECONDS = 10**11
_UNITS = ((10**17, "ns", "nanoseconds"), (10**14, "us", "microseconds"), (_LARGEST_SECONDS, "ms", "milliseconds"))
# Ids and values become lines of vocabulary files: nothing that some reader takes for the end of a line.
_CONTROL = r"[\p{Cc}\x{2028}\x{2029}]"
_RECEIVED = ", received "
_PROPENSITY = f"{PROPENSITY_ATTRIBUTE}="
_DECIMAL = r"^(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_LONGEST_SHOWN = 120
_NOT_IN_FUTURE = "must not be in the future"
# The rule, as `count_reasons` names it, that a row may break today and not tomorrow.
FUTURE = f"timestamp: {_NOT_IN_FUTURE}"
_ENCODED = pa.dictionary(pa.int32(), pa.string())


class DataError(ValueError):
    """Bad input data. The message names the file, the line or field, the rule, what came, and what to do."""


@dataclass(frozen=True)
class _Violation:
    """Rows of one column that break one rule. `broken`: bool [rows], no nulls."""

    column: str
    rule: str
    broken: np.ndarray
    advice: str = ""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the most similar known name, or an empty string if none is similar."""
    by_folded = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), by_folded, n=1)
    return f" Did you mean {by_folded[found[0]]!r}?" if found else ""


def reason(column: str, rule: str, received: object, advice: str = "") -> str:
    """One sentence for a bad row: field, rule, received value (cut at 120 characters), and advice."""
    shown = repr(received)
    if len(shown) > _LONGEST_SHOWN:
        shown = f"{shown[:_LONGEST_SHOWN]}… ({len(shown)} characters)"
    return f"{column}: {rule}{_RECEIVED}{shown}." + (f" {advice}" if advice else "")


def count_reasons(reasons: Iterable[str]) -> dict[str, int]:
    """Bad rows by field and rule ("timestamp: must not be in the future" → 3), most frequent first, then by name."""
    counts = Counter(text.split(_RECEIVED, 1)[0] for text in reasons)
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def conform(table: pa.Table, name: str, where: str, encoded: bool = False) -> pa.Table:
    """`table` with the canonical column order and types of the table `name` ("events", "items" or "users").

    Integers widen, dictionaries unfold and all-null columns take the canonical type; nothing is parsed or rounded.
    `where` (a file name) opens every error. With `encoded` all columns of strings are dictionaries instead, so that
    what looks at values looks at each once.

    Raises:
        DataError: a required column is missing, a column is unknown, or its type does not fit.
    """
    schema = SCHEMAS[name]
    for column in REQUIRED_COLUMNS[name]:
        if column not in table.column_names:
            raise DataError(
                f"{where}: column {column!r} of the table {name!r} is missing, the file has "
                f"{table.column_names}.{nearest(column, table.column_names)} "
                "Bring foreign columns to the canonical names with `tandem import table`."
            )
    for column in table.column_names:
        if table.column_names.count(column) > 1:
            raise DataError(f"{where}: column {column!r} occurs more than once.")
        if column not in schema.names:
            raise DataError(
                f"{where}: column {column!r} is not one of the table {name!r} ({', '.join(schema.names)})."
                f"{nearest(column, schema.names)} Keep it as an attribute with `tandem import table`."
            )
    present = [field for field in schema if field.name in table.column_names]
    if encoded:
        present = [field.with_type(_ENCODED) if field.type == pa.string() else field for field in present]
    columns = [_cast(table.column(field.name), field, where) for field in present]
    return pa.table(columns, schema=pa.schema(present))


def _kind(data_type: pa.DataType) -> str:
    """What a type means, whatever its width: types of one kind can be cast without parsing."""
    if pa.types.is_dictionary(data_type):
        return _kind(data_type.value_type)
    if pa.types.is_list(data_type) or pa.types.is_large_list(data_type):
        return f"list of {_kind(data_type.value_type)}"
    tests = (
        ("string", pa.types.is_string),
        ("string", pa.types.is_large_string),
        ("bytes", pa.types.is_binary),
        ("bytes", pa.types.is_large_binary),
        ("integer", pa.types.is_integer),
        ("number", pa.types.is_floating),
        ("bool", pa.types.is_boolean),
        ("null", pa.types.is_null),
    )
    return next((kind for kind, test in tests if test(data_type)), str(data_type))


def _cast(column: pa.ChunkedArray, field: pa.Field, where: str) -> pa.ChunkedArray:
    received, expected = _kind(column.type), _kind(field.type)
    fits = received in (expected, "null", "list of null") or (received, expected) == ("integer", "number")
    if fits:
        try:
            cast = column.cast(field.type) if field.type != _ENCODED else _encoded(column)
            cast.validate(full=True)
            return cast
        except pa.ArrowInvalid as error:
            raise DataError(f"{where}: column {field.name!r} does not fit the type {field.type}: {error}.") from error
    advice = (
        "Seconds since 1970-01-01 UTC are meant; `tandem import table` converts dates and other units."
        if field.name in ("timestamp", "created_at")
        else "Convert it with `tandem import table`."
    )
    raise DataError(f"{where}: column {field.name!r} must be of type {field.type}, received {column.type}. {advice}")


def _encoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings as a dictionary. One that is larger than the column (that of a whole row group) is made anew."""
    if column.type == _ENCODED and all(len(chunk.dictionary) <= len(chunk) for chunk in column.chunks):
        return column
    return column.cast(pa.string()).dictionary_encode()


def check_events(table: pa.Table, now: int, max_future_seconds: int) -> tuple[pa.Table, pa.Table]:
    """Parts the rows of an `events` table (canonical types, see `conform`) into good and bad ones, order kept.

    `now` and `max_future_seconds` are seconds; a timestamp after their sum is in the future. The bad rows have one
    column more, `reason`: a sentence with the field, the rule and the received value; the first broken rule counts.
    """
    return _part(table, _event_violations(table, now, max_future_seconds))


def check_items(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Parts the rows of an `items` table into good and bad ones, as `check_events` does.

    Of several rows with one item_id within `table`, the first is good.
    """
    return _part(table, _item_violations(table))


def check_users(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Parts the rows of a `users` table into good and bad ones; of several rows with one user_id the first is good."""
    return _part(table, _user_violations(table))


def _part(table: pa.Table, violations: Iterable[_Violation]) -> tuple[pa.Table, pa.Table]:
    reasons: dict[int, str] = {}
    for violation in violations:
        rows = [row for row in np.flatnonzero(violation.broken).tolist() if row not in reasons]
        for row, received in zip(rows, table.column(violation.column).take(pa.array(rows, pa.int64())), strict=True):
            reasons[row] = reason(violation.column, violation.rule, received.as_py(), violation.advice)
    bad_rows = np.array(sorted(reasons), dtype=np.int64)
    good = np.ones(table.num_rows, dtype=bool)
    good[bad_rows] = False
    bad = table.take(pa.array(bad_rows)).append_column(
        pa.field("reason", pa.string()), pa.array([reasons[row] for row in bad_rows.tolist()], pa.string())
    )
    return (table if not reasons else table.filter(pa.array(good))), bad


def _of_values(column: pa.ChunkedArray, condition: Callable[[Any], Any]) -> pa.ChunkedArray:
    """An Arrow condition of the strings of a column, evaluated once for each entry of a dictionary."""
    if not pa.types.is_dictionary(column.type):
        return condition(column)
    parts = [condition(chunk.dictionary).take(chunk.indices) for chunk in column.chunks]
    return pa.chunked_array(parts, None if parts else condition(pa.array([], pa.string())).type)


def _mask(values: pa.ChunkedArray, if_null: bool = False) -> np.ndarray:
    """Bool [rows] of an Arrow condition."""
    return pc.fill_null(values, if_null).to_numpy()


def _id_violations(table: pa.Table, column: str, may_be_null: np.ndarray) -> Iterator[_Violation]:
    """`may_be_null`: bool [rows]."""
    values = table.column(column)
    null = _mask(pc.is_null(values))
    length = _of_values(values, pc.binary_length)
    yield _Violation(column, "must not be empty", (null & ~may_be_null) | _mask(pc.equal(length, 0)))
    yield _Violation(column, f"must have at most {MAX_ID_BYTES} bytes", _mask(pc.greater(length, MAX_ID_BYTES)))
    yield from _control_violations(table, (column,))


def _control_violations(table: pa.Table, columns: Sequence[str]) -> Iterator[_Violation]:
    for column in columns:
        if column in table.column_names:
            broken = _mask(_of_values(table.column(column), partial(pc.match_substring_regex, pattern=_CONTROL)))
            yield _Violation(column, "must not contain control characters or line ends", broken)


def _number_violations(table: pa.Table, columns: Sequence[str]) -> Iterator[_Violation]:
    for column in columns:
        if column in table.column_names:
            values = table.column(column)
            finite_and_positive = pc.and_(pc.is_finite(values), pc.greater_equal(values, 0))
            yield _Violation(column, "must be a finite number of at least 0", ~_mask(finite_and_positive, if_null=True))


def _attribute_violations(table: pa.Table) -> Iterator[_Violation]:
    if "attributes" not in table.column_names:
        return
    lists = table.column("attributes").combine_chunks()
    parents = pc.list_parent_indices(lists)
    entries = pc.list_flatten(lists)
    for rule, wrong in (
        ("each must be 'name=value'", pc.invert(pc.match_substring_regex(entries, r"^[^=]+=(?s:.)"))),
        ("must not contain control characters or line ends", pc.match_substring_regex(entries, _CONTROL)),
    ):
        broken = np.zeros(table.num_rows, dtype=bool)
        broken[parents.filter(pc.fill_null(wrong, True)).to_numpy()] = True
        yield _Violation("attributes", rule, broken)


def logged_propensities(attributes: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that carry the attribute `propensity`, int64 [K], and its values, float32 [K], NaN where it is no number."""
    entries = pc.list_flatten(attributes)
    logged = pc.fill_null(pc.starts_with(entries, pattern=_PROPENSITY), False)
    rows = pc.list_parent_indices(attributes).filter(logged).to_numpy().astype(np.int64)
    texts = pc.replace_substring(entries.filter(logged), pattern=_PROPENSITY, replacement="", max_replacements=1)
    decimal = pc.match_substring_regex(texts, _DECIMAL)
    values = pc.if_else(decimal, texts, pa.scalar(None, pa.string())).cast(pa.float64())
    return rows, pc.fill_null(values, np.nan).to_numpy().astype(np.float32)


def _propensity_violations(table: pa.Table) -> Iterator[_Violation]:
    if "attributes" not in table.column_names:
        return
    rows, values = logged_propensities(table.column("attributes").combine_chunks())
    broken = np.zeros(table.num_rows, dtype=bool)
    broken[rows[~((values > 0) & (values <= 1))]] = True
    yield _Violation("attributes", f"{PROPENSITY_ATTRIBUTE} must be a number above 0 and at most 1", broken)


def _repeat_violations(table: pa.Table, column: str) -> Iterator[_Violation]:
    repeated = table.column(column).to_pandas().duplicated(keep="first").to_numpy()
    yield _Violation(column, "must occur once in the table", repeated)


def _event_violations(table: pa.Table, now: int, max_future_seconds: int) -> Iterator[_Violation]:
    types = table.column("type")
    never = np.zeros(table.num_rows, dtype=bool)
    yield from _id_violations(table, "user_id", never)
    yield from _id_violations(table, "item_id", may_be_null=_mask(_of_values(types, partial(pc.equal, "search"))))
    known = _of_values(types, partial(pc.is_in, value_set=pa.array(EVENT_TYPES)))
    advice = "Rename it on import: `values: {type: {buy: purchase}}` in the map file."
    yield _Violation("type", f"must be one of {', '.join(EVENT_TYPES)}", ~_mask(known), advice)
    if "timestamp" in table.column_names:
        yield from _timestamp_violations(table, now, max_future_seconds)
    yield from _number_violations(table, ("quantity", "price", "position"))
    yield from _control_violations(table, ("session", "order", "device", "region", "surface", "attribution_token"))
    yield from _attribute_violations(table)
    yield from _propensity_violations(table)


def _timestamp_violations(table: pa.Table, now: int, max_future_seconds: int) -> Iterator[_Violation]:
    timestamps = table.column("timestamp")
    yield _Violation("timestamp", "must not be missing where the table has the column", _mask(pc.is_null(timestamps)))
    yield _Violation("timestamp", "must be after 1970-01-01", _mask(pc.less_equal(timestamps, 0)))
    for above, unit, word in _UNITS:
        advice = f"It looks like {word}: import it with `timestamp_unit: {unit}` (`--map timestamp_unit={unit}`)."
        broken = _mask(pc.greater(timestamps, above))
        yield _Violation("timestamp", "must be in seconds since 1970-01-01", broken, advice)
    yield _Violation(
        "timestamp",
        _NOT_IN_FUTURE,
        _mask(pc.greater(timestamps, now + max_future_seconds)),
        f"The clock says {now}; {max_future_seconds} s ahead of it are allowed. "
        "Check the clock, the time zone and the date format of the source.",
    )


def _item_violations(table: pa.Table) -> Iterator[_Violation]:
    yield from _id_violations(table, "item_id", np.zeros(table.num_rows, dtype=bool))
    yield from _repeat_violations(table, "item_id")
    yield from _control_violations(table, ("category", "brand"))
    yield from _number_violations(table, ("price",))
    yield from _attribute_violations(table)


def _user_violations(table: pa.Table) -> Iterator[_Violation]:
    yield from _id_violations(table, "user_id", np.zeros(table.num_rows, dtype=bool))
    yield from _repeat_violations(table, "user_id")
    yield from _attribute_violations(table)
