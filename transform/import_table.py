"""The adapter `table`: anyone's CSV, TSV, JSON lines or Parquet, with a column map, into the canonical tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transform.checks import DataError, nearest
from transform.derived_items import DerivedItems
from transform.import_columns import Parsed, TimeFormat, as_text, first_reasons, one_line, parse_numbers, parse_times
from transform.import_items import extra_attributes, id_text, import_items, resolve_columns, scalar_column
from transform.import_sources import SourceBatch, file_format, read_batches, source_columns, source_files
from transform.import_tables import CanonicalWriter
from transform.table_map import DropRule, TableMap
from transform.tables import EVENTS

OVERLAP_RULE = "overlap_with_later_file"
_NUMBERS = ("quantity", "price", "position")
_ONE_LINE = ("device", "region", "surface")


def import_table(
    sources: Sequence[Path],
    out: Path,
    mapping: TableMap,
    *,
    items: Path | None = None,
    max_bad_share: float = 0.01,
    now: int | None = None,
) -> dict[str, Any]:
    """Writes the canonical tables of one or more event files (or folders of them), one after the other.

    The catalogue comes from the file `items`, or from the kept events where the map says so, or there is none.
    Returns what dataset.json holds. See CanonicalWriter for `out`, `max_bad_share` and `now`.

    Raises:
        DataError: a file, column, row or folder breaks a rule; nothing is written then.
    """
    files = [file for source in sources for file in source_files(source)]
    layouts = [_layout(file, mapping) for file in files]
    columns = _event_columns(layouts, mapping)
    cuts = _overlap_cuts(layouts, mapping)
    derived = DerivedItems(mapping.items.from_events) if items is None and mapping.items.from_events else None
    with CanonicalWriter(out, mapping.name, "table", files, max_bad_share, now) as writer:
        for rule in [OVERLAP_RULE] * (mapping.overlap == "keep_later") + [rule.name for rule in mapping.drop]:
            writer.drop("events", rule, 0)
        for layout, cut in zip(layouts, cuts, strict=True):
            _import_file(writer, layout, mapping, columns, cut, derived)
        if items is not None:
            import_items(writer, items, mapping)
        elif derived is not None:
            table = derived.table()
            writer.items(table, files[0], np.arange(1, table.num_rows + 1))
    return writer.report


@dataclass(frozen=True)
class _Layout:
    """Which column of a file is which."""

    file: Path
    resolved: Mapping[str, str]
    # Source columns that do not become attributes.
    used: frozenset[str]
    has_attributes: bool


def _layout(file: Path, mapping: TableMap) -> _Layout:
    present = source_columns(file, mapping.read_options())
    known = [name for name in EVENTS.names if name not in mapping.constants]
    resolved = resolve_columns(file, present, mapping.columns, known, "user_id")
    for required in ("item_id", "type"):
        if required not in resolved and required not in mapping.constants:
            advice = ' or set it for all rows with "--map type==purchase"' if required == "type" else ""
            raise DataError(
                f"{file}: no column for {required}; the file has {present}.{nearest(required, present)} "
                f"Map it with `--map {required}=NAME`{advice} (in the map file: `columns`, `constants`)."
            )
    derived = {field.column for field in mapping.items.from_events.values()}
    used = frozenset({*resolved.values(), *mapping.ignore, *derived})
    extra = set(present) - used or "attributes" in resolved
    # Later JSON lines may bring columns that the first ones lack.
    open_ended = (mapping.file_format or file_format(file)) == "jsonl"
    _require_columns(file, mapping, {*resolved, *mapping.constants, *present})
    return _Layout(file, resolved, used, bool(extra) or open_ended)


def _require_columns(file: Path, mapping: TableMap, present: set[str]) -> None:
    """Columns that drop rules and derived fields name."""
    wanted = {f"drop: {rule.name}": rule.column for rule in mapping.drop}
    wanted |= {f"items: from_events: {name}": field.column for name, field in mapping.items.from_events.items()}
    for place, column in wanted.items():
        if column not in present:
            raise DataError(
                f"{file}: `{place}` names the column {column!r}, which is neither mapped nor in the file "
                f"({sorted(present)}).{nearest(column, present)}"
            )


def _event_columns(layouts: Sequence[_Layout], mapping: TableMap) -> list[str]:
    """Canonical columns of the events table: those that any file has, in canonical order."""
    found = {column for layout in layouts for column in layout.resolved} | set(mapping.constants)
    if any(layout.has_attributes for layout in layouts):
        found.add("attributes")
    return [name for name in EVENTS.names if name in found]


def _overlap_cuts(layouts: Sequence[_Layout], mapping: TableMap) -> list[int | None]:
    """Per file the time (seconds) from which its rows are left to a later file; None: it keeps them all."""
    if mapping.overlap == "keep_all" or len(layouts) < 2:
        return [None] * len(layouts)
    starts = [_first_timestamp(layout, mapping) for layout in layouts]
    return [min((later for later in starts if later > start), default=None) for start in starts]


def _first_timestamp(layout: _Layout, mapping: TableMap) -> int:
    source = layout.resolved.get("timestamp")
    if source is None:
        raise DataError(f"{layout.file}: `overlap: keep_later` needs a timestamp; map it with `--map timestamp=NAME`.")
    smallest = [
        pc.min(_times(batch, layout, mapping).values).as_py()
        for batch in read_batches(layout.file, mapping.read_options())
    ]
    found = [seconds for seconds in smallest if seconds is not None]
    if not found:
        raise DataError(f"{layout.file}: no row has a timestamp that can be read; say `timestamp_format`.")
    return min(found)


def _times(batch: SourceBatch, layout: _Layout, mapping: TableMap) -> Parsed:
    column = scalar_column(batch, layout.file, layout.resolved["timestamp"])
    time_format = TimeFormat(mapping.timestamp_format, mapping.timestamp_unit, mapping.timezone)
    return parse_times("timestamp", column, time_format, mapping.missing)


def _import_file(
    writer: CanonicalWriter,
    layout: _Layout,
    mapping: TableMap,
    columns: Sequence[str],
    cut: int | None,
    derived: DerivedItems | None,
) -> None:
    rows = 0
    for batch in read_batches(layout.file, mapping.read_options()):
        rows += len(batch.lines) + len(batch.malformed)
        writer.reject_malformed("events", layout.file, batch.malformed)
        if len(batch.lines):
            _import_batch(writer, batch, layout, mapping, columns, cut, derived)
    if not rows:
        raise DataError(f"{layout.file}: the file has column names but no rows.")


def _import_batch(
    writer: CanonicalWriter,
    batch: SourceBatch,
    layout: _Layout,
    mapping: TableMap,
    columns: Sequence[str],
    cut: int | None,
    derived: DerivedItems | None,
) -> None:
    parsed = {name: _event_column(name, batch, layout, mapping) for name in columns}
    out_of_it = np.zeros(len(batch.lines), dtype=bool)
    for name, fits in _dropped(parsed, batch, layout, mapping, cut):
        writer.drop("events", name, int((fits & ~out_of_it).sum()))
        out_of_it |= fits
    reasons = {row: why for row, why in first_reasons(parsed.values()).items() if not out_of_it[row]}
    writer.reject_unparsed("events", layout.file, batch, reasons)
    out_of_it[list(reasons)] = True
    rest = np.flatnonzero(~out_of_it)
    table = pa.table({name: column.values for name, column in parsed.items()}).take(pa.array(rest))
    kept = writer.events(table, layout.file, batch.lines[rest])
    if derived is not None:
        chosen = pa.array(rest[kept])
        values = {
            name: _derived_column(name, field.column, parsed, batch, layout, mapping).take(chosen)
            for name, field in mapping.items.from_events.items()
        }
        times = parsed["timestamp"].values.take(chosen) if "timestamp" in parsed else None
        derived.add(table.column("item_id").filter(pa.array(kept)), times, values)


def _event_column(name: str, batch: SourceBatch, layout: _Layout, mapping: TableMap) -> Parsed:
    """One canonical column [rows] of a batch."""
    rows = len(batch.lines)
    if name == "attributes":
        used = set(layout.used)
        return Parsed(extra_attributes(batch, layout.file, used, mapping.missing, layout.resolved.get(name)), {})
    if name in mapping.constants:
        column: pa.ChunkedArray = pa.chunked_array([pa.array([mapping.constants[name]] * rows, pa.string())])
    elif name in layout.resolved:
        column = scalar_column(batch, layout.file, layout.resolved[name])
    else:
        return Parsed(pa.nulls(rows, EVENTS.field(name).type), {})
    if name == "timestamp":
        return _times(batch, layout, mapping)
    if name in _NUMBERS:
        return parse_numbers(name, column, EVENTS.field(name).type, mapping.missing)
    text = _renamed(id_text(as_text(column, mapping.missing), name, mapping), mapping.values.get(name, {}))
    if name == "type":
        text = pc.replace_substring_regex(pc.utf8_lower(text), r"[\s-]+", "_")
    return Parsed(one_line(text) if name in _ONE_LINE else text, {})


def _renamed(text: pa.Array, values: Mapping[str, str]) -> pa.Array:
    if not values:
        return text
    position = pc.index_in(text, value_set=pa.array(list(values), pa.string()))
    return pc.coalesce(pa.array(list(values.values()), pa.string()).take(position), text)


def _dropped(
    parsed: Mapping[str, Parsed], batch: SourceBatch, layout: _Layout, mapping: TableMap, cut: int | None
) -> list[tuple[str, np.ndarray]]:
    """(rule, bool [rows] where it fits), in the order in which they count."""
    fits: list[tuple[str, Any]] = []
    if cut is not None:
        fits.append((OVERLAP_RULE, pc.greater_equal(parsed["timestamp"].values, cut)))
    for rule in mapping.drop:
        if rule.column in parsed:
            values = parsed[rule.column].values
        else:
            values = scalar_column(batch, layout.file, rule.column).combine_chunks()
        fits.append((rule.name, _fits(rule, values, mapping)))
    return [(name, pc.fill_null(mask, False).to_numpy(zero_copy_only=False)) for name, mask in fits]


def _fits(rule: DropRule, values: pa.Array, mapping: TableMap) -> pa.Array:
    """Bool [rows], null where a value is missing (and the rule is not about that)."""
    if rule.condition in ("before", "since"):
        return (pc.less if rule.condition == "before" else pc.greater_equal)(values, rule.value)
    if rule.condition in ("below", "at_most", "above", "at_least"):
        compare = {
            "below": pc.less,
            "at_most": pc.less_equal,
            "above": pc.greater,
            "at_least": pc.greater_equal,
        }[rule.condition]
        return compare(parse_numbers(rule.column, values, pa.float64(), mapping.missing).values, float(rule.value))
    text = as_text(values, mapping.missing)
    if rule.condition == "empty":
        return pc.is_null(text)
    if rule.condition == "is_in":
        return pc.is_in(text, value_set=pa.array(rule.value, pa.string()))
    return pc.match_substring_regex(text, rule.value)


def _derived_column(
    name: str,
    column: str,
    parsed: Mapping[str, Parsed],
    batch: SourceBatch,
    layout: _Layout,
    mapping: TableMap,
) -> pa.Array:
    """Values [rows] of a product's field: text, or numbers for the price."""
    values = parsed[column].values if column in parsed else scalar_column(batch, layout.file, column)
    if name == "price":
        return parse_numbers(name, values, pa.float64(), mapping.missing).values
    return one_line(as_text(values, mapping.missing))
