"""The index section of the report: every form that was exported, side by side with brute force."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.report_models import readable
from pipeline.report_tables import ABSENT, Cell, Row, Table, count, duration, flat, share

# What holds for all forms alike.
_SHARED: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "n": ("Products in it", count),
    "dim": ("Dimensions", count),
    "queries": ("Held-out shoppers asked", count),
    "neighbours": ("Candidates it returns", count),
    "embedding_seconds": ("Products embedded in", duration),
}
_BRUTE_FORCE = "brute_force"


def index_forms(index: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What the export says of each form: of the model `recommender`, then of those beside it.

    Args:
        index: content of index.json, or "index" of metrics.json.
    """
    yield index
    yield from (value for value in index.values() if isinstance(value, Mapping) and "kind" in value)


def index_table(index: Mapping[str, Any]) -> Table | None:
    """One line for each form and one for brute force; None where there is no index."""
    if not index:
        return None
    rows = [
        Row(
            readable(form["kind"]),
            [
                Cell(share(form["recall@100"], 2)),
                _milliseconds(form.get("ms_per_query")),
                Cell(duration(form["build_seconds"])),
                Cell(
                    ", ".join(f"{readable(name)} {value}" for name, value in flat(form.get("settings", {}))) or ABSENT
                ),
            ],
            "part",
        )
        for form in index_forms(index)
    ]
    if index["kind"] != _BRUTE_FORCE:
        exact = [Cell(share(1, 2)), _milliseconds(index.get("ms_per_query_brute_force")), Cell(ABSENT), Cell(ABSENT)]
        rows.append(Row(readable(_BRUTE_FORCE), exact))
    heads = ["Index", "Recall@100", "One query", "Built and tuned in", "Settings"]
    return Table("Each form against brute force", heads, rows)


def index_facts(index: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What all forms have in common."""
    return [(name, form(index[key])) for key, (name, form) in _SHARED.items() if key in index]


def _milliseconds(value: float | None) -> Cell:
    return Cell(ABSENT if value is None else f"{value:.2f} ms")
