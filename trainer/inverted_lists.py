"""Inverted lists: the products of each category, brand and price, side by side, for filters of requests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transform.tables import CATEGORY_SEPARATOR, FIRST, RESERVED_LINES, category_levels


@dataclass(frozen=True)
class InvertedList:
    """The catalogue's products sorted by a property, so that those of one value are neighbours."""

    rows: np.ndarray  # int32 [n], those that have the property
    places: np.ndarray  # int32 [V]: where each row stands in `rows`, −1 = nowhere
    values: tuple[str, ...]  # S values
    starts: np.ndarray  # int32 [S]: the products of value s are rows[starts[s] : ends[s]]
    ends: np.ndarray  # int32 [S]


@dataclass(frozen=True)
class InvertedLists:
    """What a catalogue can be filtered by."""

    categories: InvertedList  # every level of a path is a value; what is below it is part of it
    brands: InvertedList
    price_rows: np.ndarray  # int32 [n], rows with a price, cheapest first
    prices: np.ndarray  # float32 [V], NaN = absent


def invert_categories(paths: np.ndarray) -> InvertedList:
    """Of category paths, object [V], "" = none: by level, so that what is below a level is one range."""
    return _inverted(paths, lambda path: tuple(path.split(CATEGORY_SEPARATOR)), category_levels)


def invert_names(names: np.ndarray) -> InvertedList:
    """Of plain values such as brands, object [V], "" = none."""
    return _inverted(names, lambda name: (name,), lambda name: [name])


def invert_prices(prices: np.ndarray) -> np.ndarray:
    """Catalogue rows with a price, cheapest first, int32 [n], of float32 [V], NaN = absent."""
    rows = np.flatnonzero(np.isfinite(prices))
    return rows[np.argsort(prices[rows], kind="stable")].astype(np.int32)


def write_values(values: Sequence[str], path: Path) -> Path:
    """A vocabulary file of the values: the number of values[i] is i + 2, after padding and unknown."""
    path.write_text("".join(f"{line}\n" for line in (*RESERVED_LINES, *values)), encoding="utf-8")
    return path


def _inverted(
    values: np.ndarray, order: Callable[[str], tuple[str, ...]], levels: Callable[[str], list[str]]
) -> InvertedList:
    distinct, numbers = np.unique(values.astype(str), return_inverse=True)
    counts = np.bincount(numbers[FIRST:], minlength=len(distinct))
    ranked = sorted((number for number, value in enumerate(distinct) if value), key=lambda n: order(str(distinct[n])))
    rank = np.full(len(distinct), -1)
    rank[ranked] = np.arange(len(ranked))
    of_row = rank[numbers]
    of_row[:FIRST] = -1
    rows = np.flatnonzero(of_row >= 0)
    rows = rows[np.argsort(of_row[rows], kind="stable")]
    places = np.full(len(values), -1)
    places[rows] = np.arange(len(rows))
    ends = np.cumsum(counts[ranked])
    spans: dict[str, tuple[int, int]] = {}
    for number, end in zip(ranked, ends, strict=True):
        for level in levels(str(distinct[number])):
            start, _ = spans.get(level, (end - counts[number], 0))
            spans[level] = (start, end)
    bounds = np.array(list(spans.values()), np.int32).reshape(-1, 2)
    return InvertedList(
        rows.astype(np.int32), places.astype(np.int32), tuple(spans), bounds[:, 0].copy(), bounds[:, 1].copy()
    )
