"""Where products were shown and clicked: exact counts of the training span, for propensities of being looked at."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from transform.arrow_files import read_table
from transform.catalogue import Catalogue
from transform.sequences import rows_of
from transform.vocabularies import COUNT_SCHEMA, vocabulary

# `row` is the product's catalogue row, `surface` null where the shop does not say it. A click is an interaction whose
# way in is that place (transform/interactions.py), so that looking twice or buying after looking is one click.
POSITION_SCHEMA = pa.schema(
    [
        ("surface", pa.string()),
        ("position", pa.int32()),
        ("row", pa.int32()),
        ("impressions", pa.int64()),
        ("clicks", pa.int64()),
    ]
)
_COUNTS = ("impressions", "clicks")


def merge_positions(files: list[str], catalogue: Catalogue) -> pa.Table:
    """Counts of all buckets as one table, POSITION_SCHEMA, in order of surface (null last), position and row.

    Args:
        files: of the buckets' counts, as transform/interactions.py makes them.
        catalogue: gives the rows.
    """
    parts = [POSITION_SCHEMA.empty_table()]
    for file in files:
        part = read_table(file).combine_chunks()
        surface = part["surface"].cast(pa.string())
        columns = {"surface": surface, "row": rows_of(part, catalogue)}
        columns |= {name: part[name] for name in ("position", *_COUNTS)}
        parts.append(pa.table([columns[field.name] for field in POSITION_SCHEMA], names=POSITION_SCHEMA.names))
    return _summed(pa.concat_tables([part.cast(POSITION_SCHEMA) for part in parts]), ("surface", "position", "row"))


def surface_vocabulary(counts: pa.Table) -> list[str]:
    """Surfaces by what happened there, the most frequent first; ties by bytes."""
    totals = _summed(counts.filter(pc.is_valid(counts["surface"])), ("surface",))
    feature = pa.array(["surface"] * totals.num_rows, pa.string())
    happened = pc.add(totals["impressions"], totals["clicks"])
    return vocabulary(pa.table([feature, totals["surface"], happened], schema=COUNT_SCHEMA), "surface", min_count=1)


def position_statistics(counts: pa.Table) -> list[dict[str, Any]]:
    """Impressions and clicks of each surface and position over all products, for people and the report."""
    rows: list[dict[str, Any]] = _summed(counts, ("surface", "position")).to_pylist()
    return rows


def _summed(counts: pa.Table, keys: tuple[str, ...]) -> pa.Table:
    """Counts summed by `keys` and sorted by them."""
    grouped = counts.group_by(list(keys)).aggregate([(name, "sum") for name in _COUNTS])
    columns = [grouped[name] for name in keys] + [grouped[f"{name}_sum"] for name in _COUNTS]
    table = pa.table(columns, names=[*keys, *_COUNTS])
    return table.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in keys]))
