"""The adapter `sequences`: the text files of the papers on sequential recommendation, items in the order of time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transform.checks import DataError, reason
from transform.import_items import import_items
from transform.import_sources import Malformed, line_batches
from transform.import_tables import CanonicalWriter
from transform.table_map import TableMap
from transform.tables import EVENT_TYPES

Layout = Literal["pairs", "lines"]
_LOOKED_AT = 1_000
# A stray line does not change what a file is, many do.
_MANY, _FEW = 0.95, 0.5


def import_sequences(
    source: Path,
    out: Path,
    *,
    items: Path | None = None,
    mapping: TableMap | None = None,
    layout: Layout | None = None,
    event_type: str = "view",
    max_bad_share: float = 0.01,
    now: int | None = None,
) -> dict[str, Any]:
    """Writes the canonical tables of a text file, plain or compressed; returns what dataset.json holds.

    Two layouts: `pairs`, "user item" on each line (SASRec), and `lines`, "user item item …" with a line per user
    (S3-Rec). Without `layout` the first 1,000 lines tell: two fields in nearly all of them mean pairs. The events have
    no timestamp column: their order is the order of time. `items` is a catalogue file of any format that the adapter
    `table` reads, its columns mapped by `mapping.items`. See CanonicalWriter for `out`, `max_bad_share` and `now`.

    Raises:
        DataError: the file is unreadable, empty or ambiguous, or too many rows are bad; nothing is written then.
    """
    if event_type not in EVENT_TYPES:
        raise DataError(f"event_type must be one of {', '.join(EVENT_TYPES)}, received {event_type!r}.")
    chosen = layout or detect_layout(source)
    name = source.name.split(".")[0]
    with CanonicalWriter(out, name, "sequences", [source, *([items] if items else [])], max_bad_share, now) as writer:
        for lines, fields in _field_batches(source):
            fits, rule = _well_formed(fields, chosen)
            writer.reject_malformed("events", source, _malformed(lines, fields, fits, rule))
            users, products, rows = _interactions(fields.filter(pa.array(fits)), lines[fits])
            kind = pa.array([event_type] * len(users), pa.string())
            writer.events(pa.table({"user_id": users, "item_id": products, "type": kind}), source, rows)
        if items is not None:
            import_items(writer, items, mapping or TableMap())
    return writer.report


def detect_layout(source: Path) -> Layout:
    """What the first 1,000 lines look like.

    Raises:
        DataError: the file is empty, or neither layout is clear.
    """
    _, fields = next(_field_batches(source))
    share = float(np.mean(pc.list_value_length(fields.slice(0, _LOOKED_AT)).to_numpy() == 2))
    if share >= _MANY:
        return "pairs"
    if share <= _FEW:
        return "lines"
    raise DataError(
        f'{source}: {share:.0%} of the first lines have two fields: neither clearly "user item" pairs nor '
        '"user item item …" lines. Say which with layout: "pairs" or "lines".'
    )


def _field_batches(source: Path) -> Iterator[tuple[np.ndarray, pa.ListArray]]:
    """(line numbers int64 [lines], their fields) of the non-blank lines."""
    for numbers, lines in line_batches(source, "utf-8"):
        yield numbers, pc.utf8_split_whitespace(pc.utf8_trim_whitespace(lines))


def _well_formed(fields: pa.ListArray, layout: Layout) -> tuple[np.ndarray, str]:
    """Bool [lines], and the rule."""
    lengths = pc.list_value_length(fields).to_numpy()
    if layout == "pairs":
        return lengths == 2, "must have 2 fields (user item)"
    return lengths >= 2, "must have a user and at least one item"


def _malformed(lines: np.ndarray, fields: pa.ListArray, fits: np.ndarray, rule: str) -> list[Malformed]:
    texts = [" ".join(entry) for entry in fields.filter(pa.array(~fits)).to_pylist()]
    return [
        Malformed(line, reason("row", rule, text), text)
        for line, text in zip(lines[~fits].tolist(), texts, strict=True)
    ]


def _interactions(fields: pa.ListArray, lines: np.ndarray) -> tuple[pa.Array, pa.Array, np.ndarray]:
    """Users, items and line numbers, one per interaction: the first field of each line with each of the others."""
    parents = pc.list_parent_indices(fields).to_numpy()
    flat = pc.list_flatten(fields)
    first = np.r_[True, parents[1:] != parents[:-1]] if len(parents) else np.zeros(0, bool)
    users = flat.filter(pa.array(first)).take(pa.array(parents[~first]))
    return users, flat.filter(pa.array(~first)), lines[parents[~first]]
