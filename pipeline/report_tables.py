"""The parts a report page is made of: tables of figures and captioned charts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

ABSENT = "–"


@dataclass(frozen=True)
class Cell:
    """One figure of a table, a note below it, and whether it is the best of its column."""

    text: str
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One line of a table; `tone` colours it as the charts do."""

    name: str
    cells: list[Cell]
    tone: str = "plain"


@dataclass(frozen=True)
class Table:
    """A table with its caption; `heads` names the first column too."""

    caption: str
    heads: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class Chart:
    """A drawing with its caption."""

    title: str
    note: str
    svg: Markup


def count(value: float | int | None) -> str:
    """A whole number with thousands separated."""
    return ABSENT if value is None else f"{value:,.0f}"


def share(value: float, decimals: int = 1) -> str:
    """A share as a percentage."""
    return f"{100 * value:.{decimals}f} %"


def duration(seconds: float) -> str:
    """Seconds in words: "4.2 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def metric(value: float | None) -> str:
    """A metric between 0 and 1."""
    return ABSENT if value is None else f"{value:.4f}"


def signed(value: float) -> str:
    """A difference of two metrics, with its sign."""
    return f"{value:+.4f}".replace("-", "−")


def interval(ends: Sequence[float] | None, form: Callable[[float], str] = metric) -> str:
    """Both ends of an interval."""
    return "" if ends is None else f"{form(ends[0])} to {form(ends[1])}"


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested sections as dotted keys with readable values."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows.extend(flat(value, f"{name}."))
        elif isinstance(value, list | tuple):
            rows.append((name, ", ".join(str(part) for part in value) or "none"))
        else:
            rows.append((name, "none" if value is None else str(value)))
    return rows


def day(seconds: float | None) -> str:
    """A date in UTC."""
    return ABSENT if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%-d %b %Y")
