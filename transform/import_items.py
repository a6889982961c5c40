"""Reads a catalogue file of any format, with a column map, into the canonical items table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transform.checks import DataError, nearest
from transform.import_columns import (
    Parsed,
    TimeFormat,
    as_text,
    attributes,
    category_path,
    first_reasons,
    is_scalar,
    is_text_list,
    one_line,
    parse_booleans,
    parse_numbers,
    parse_times,
    without_decimals,
)
from transform.import_sources import ReadOptions, SourceBatch, read_batches, source_columns
from transform.import_tables import CanonicalWriter
from transform.table_map import TableMap
from transform.tables import ITEMS


def resolve_columns(
    file: Path, present: Sequence[str], columns: Mapping[str, tuple[str, ...]], known: Sequence[str], required: str
) -> dict[str, str]:
    """Canonical column → source column of one file: the mapped ones, then those that bear a canonical name.

    Raises:
        DataError: a mapped column is not in the file, or nothing gives the column `required`.
    """
    resolved: dict[str, str] = {}
    for canonical, names in columns.items():
        found = next((name for name in names if name in present), None)
        if found is None:
            wanted = " or ".join(repr(name) for name in names)
            raise DataError(
                f"{file}: no column {wanted} for {canonical}; the file has {list(present)}.{nearest(names[0], present)}"
                f" Map it with `--map {canonical}=NAME` or under `columns` in the map file."
            )
        resolved[canonical] = found
    taken = set(resolved.values())
    resolved |= {name: name for name in present if name in known and name not in resolved and name not in taken}
    if required not in resolved:
        raise DataError(
            f"{file}: no column for {required}; the file has {list(present)}.{nearest(required, present)} "
            f"Map it with `--map {'item.' if known is ITEMS.names else ''}{required}=NAME` "
            "or under `columns` in the map file."
        )
    return resolved


def extra_attributes(
    batch: SourceBatch,
    file: Path,
    used: set[str],
    missing: Sequence[str],
    ready: str | None,
    split: Mapping[str, str] = MappingProxyType({}),
) -> pa.Array:
    """Every column that nothing else uses, as lists of "name=value" [rows].

    `ready`: a column that holds such lists. `split`: column → what separates its several values.
    """
    named = {name: batch.columns.column(name) for name in batch.columns.column_names if name not in used}
    named |= {name: pc.split_pattern(as_text(named[name]), mark) for name, mark in split.items() if name in named}
    for name, column in named.items():
        if not (is_scalar(column.type) or is_text_list(column.type)):
            raise DataError(
                f"{file}: column {name!r} of type {column.type} can't become an attribute. Put it under `ignore` in "
                "the map file or flatten it."
            )
    lists = batch.columns.column(ready) if ready in batch.columns.column_names else None
    if lists is not None and not is_text_list(lists.type):
        raise DataError(f"{file}: column {ready!r} must hold lists of 'name=value', received {lists.type}.")
    if not named and lists is None:
        return pa.array([[]] * batch.columns.num_rows, pa.list_(pa.string()))
    return attributes(named, lists, missing)


def scalar_column(batch: SourceBatch, file: Path, source: str) -> pa.ChunkedArray:
    """A source column, all null where this batch lacks it (JSON lines).

    Raises:
        DataError: it is nested or binary.
    """
    if source not in batch.columns.column_names:
        return pa.chunked_array([pa.nulls(batch.columns.num_rows, pa.string())])
    column = batch.columns.column(source)
    if not is_scalar(column.type):
        raise DataError(f"{file}: column {source!r} must hold single values, received {column.type}.")
    return column


def import_items(writer: CanonicalWriter, file: Path, mapping: TableMap) -> None:
    """Writes the items table from a catalogue file; `mapping.items` says which column is which.

    The format follows from the file's name; encoding, missing values and time format are those of `mapping`. The
    whole catalogue is held in memory.

    Raises:
        DataError: the file can't be read or lacks a column.
    """
    options = ReadOptions(encoding=mapping.encoding)
    resolved = resolve_columns(file, source_columns(file, options), mapping.items.columns, ITEMS.names, "item_id")
    tables, lines = [], []
    for batch in read_batches(file, options):
        writer.reject_malformed("items", file, batch.malformed)
        parsed = {name: _item_column(name, batch, file, source, mapping) for name, source in resolved.items()}
        table = pa.table({name: column.values for name, column in parsed.items()})
        used = {*resolved.values(), *mapping.ignore}
        found = extra_attributes(batch, file, used, mapping.missing, resolved.get("attributes"), mapping.items.split)
        if "attributes" in resolved:
            table = table.drop(["attributes"])
        table = table.append_column("attributes", found)
        reasons = first_reasons(parsed.values())
        writer.reject_unparsed("items", file, batch, reasons)
        good = np.setdiff1d(np.arange(table.num_rows), list(reasons))
        tables.append(table.take(pa.array(good)))
        lines.append(batch.lines[good])
    if not sum(map(len, lines)):
        raise DataError(f"{file}: no row can be read.")
    whole = pa.concat_tables(tables)
    if not any(len(entries) for entries in whole.column("attributes").to_pylist()):
        whole = whole.drop(["attributes"])
    writer.items(whole, file, np.concatenate(lines))


def _item_column(name: str, batch: SourceBatch, file: Path, source: str, mapping: TableMap) -> Parsed:
    if name == "attributes":
        return Parsed(pa.nulls(batch.columns.num_rows), {})
    if name == "image" and source in batch.columns.column_names:
        return Parsed(batch.columns.column(source), {})
    column = scalar_column(batch, file, source)
    time_format = TimeFormat(mapping.timestamp_format, mapping.timestamp_unit, mapping.timezone)
    if name == "price":
        return parse_numbers(name, column, ITEMS.field(name).type, mapping.missing)
    if name == "created_at":
        return parse_times(name, column, time_format, mapping.missing)
    if name == "available":
        return parse_booleans(name, column, mapping.missing)
    text = as_text(column, mapping.missing)
    if name == "item_id":
        text = id_text(text, name, mapping)
    if name == "category":
        text = category_path(text, mapping.items.category_separator)
    return Parsed(one_line(text) if name in ("brand", "title") else text, {})


def id_text(text: pa.Array, name: str, mapping: TableMap) -> pa.Array:
    """An id as `mapping` wants it, the same in events and catalogue."""
    if name in mapping.integer:
        text = without_decimals(text)
    return pc.utf8_upper(text) if name in mapping.uppercase else text
