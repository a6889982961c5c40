"""A day of events beside those that it is compared with, in exact counts (transform/day_counts.py).

A day is compared with the same weekday in the four weeks before, or with the seven days before where there are not
three of that weekday.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from transform.findings import day_name

_WEEK = 7
_WEEKS = 4
_LEAST_WEEKDAYS = 3


@dataclass(frozen=True)
class DayCounts:
    """Counts of days known to be good and of days to be checked, as transform/day_counts.py lists them."""

    reference: pd.DataFrame
    new: pd.DataFrame
    reference_days: tuple[int, ...]  # in order, all that have events
    new_days: tuple[int, ...]

    def events_of_one_shopper(self) -> float:
        """How many events come together: those that the shopper of an event has that day, on average; 1 without any."""
        load = of_measure(self.reference, "load")
        return _together(load["value"], load["count"]) if len(load) else 1.0

    def comparable(self, day: int) -> list[int]:
        """Days that `day` is compared with; days without any event count as such."""
        first, last = self.reference_days[0], self.reference_days[-1]
        before = min(day, last + 1)
        window = range(max(first, before - _WEEK * _WEEKS), before)
        same = [other for other in window if (other - day) % _WEEK == 0]
        return same if len(same) >= _LEAST_WEEKDAYS else list(window)[-_WEEK:]


def day_split(days: pa.Table, blessed: pa.Table | None, newest: int, max_change: float) -> DayCounts:
    """Parts days into those known and those to be checked.

    Args:
        days: of this run.
        blessed: of the last blessed run. What it has not, or has with a number of events that differs by more than
            `max_change`, is to be checked; a part of a day is made whole by the next delivery.
        newest: without a blessed run the last so many days are to be checked.
    """
    own = days.to_pandas()
    own_totals = events_by_frame(own)
    if blessed is None or not blessed.num_rows:
        listed = sorted(own_totals.index)
        new, known = listed[-newest:], listed[:-newest]
        return DayCounts(own, own, tuple(known), tuple(new))
    before = blessed.to_pandas()
    totals = events_by_frame(before)
    same = own_totals.index.intersection(totals.index)
    change = (own_totals[same] - totals[same]).abs() / totals[same]
    changed = set(change.index[change > max_change])
    known = [day for day in totals.index if day not in changed]
    new = [day for day in own_totals.index if day not in totals.index or day in changed]
    return DayCounts(before, own, tuple(sorted(known)), tuple(sorted(new)))


def events_by_day(days: pa.Table) -> pd.Series:
    """Events by day since 1970."""
    return events_by_frame(days.to_pandas())


def events_by_frame(frame: pd.DataFrame) -> pd.Series:
    """Events by day since 1970, of the table as pandas has it."""
    chosen = frame[(frame["measure"] == "events") & frame["feature"].isna()]
    return chosen.groupby("day")["count"].sum()


def of_measure(frame: pd.DataFrame, measure: str) -> pd.DataFrame:
    return frame[frame["measure"] == measure]


@dataclass(frozen=True)
class Day:
    """One day beside those that it is compared with: columns of `usual` are days."""

    name: str
    counts: pd.Series  # by (measure, type, feature, value), "" where a key is absent
    usual: pd.DataFrame
    events: float  # as usual
    group: float  # events that come together, of one shopper

    @classmethod
    def of(cls, counts: DayCounts, day: int) -> "Day | None":
        """None where the day's reference has no events."""
        others = counts.comparable(day)
        usual = _wide(counts.reference[counts.reference["day"].isin(others)], others)
        today = _wide(counts.new[counts.new["day"] == day], [day])[day]
        usual = usual.reindex(usual.index.union(today.index), fill_value=0)
        today = today.reindex(usual.index, fill_value=0)
        of_types = select(usual, "events", feature="")
        events = of_types.sum().median()
        if not others or not events:
            return None
        load = select(usual, "load").sum(axis=1)
        group = _together(load.index.get_level_values("value"), load)
        return cls(day_name(day), today, usual, float(events), group)

    def total(self, measure: str, **keys: str) -> tuple[float, np.ndarray]:
        """Sum of a measure today, and on each of the other days."""
        return float(select(self.counts, measure, **keys).sum()), select(self.usual, measure, **keys).sum().to_numpy()

    def share(self, measure: str, of: str, **keys: str) -> tuple[float, np.ndarray]:
        """Ratio of two measures today, and on each of the other days."""
        (part, parts), (whole, wholes) = self.total(measure), self.total(of, **keys)
        return part / max(whole, 1), parts / np.maximum(wholes, 1)


def _wide(frame: pd.DataFrame, days: Sequence[int]) -> pd.DataFrame:
    keys = ["measure", "type", "feature", "value"]
    frame = frame[frame["measure"] != "content"].fillna({"type": "", "feature": "", "value": ""})
    return frame.pivot_table("count", keys, "day", fill_value=0, aggfunc="sum").reindex(columns=days, fill_value=0)


def select(rows: pd.Series | pd.DataFrame, measure: str, **keys: str) -> pd.Series | pd.DataFrame:
    index = rows.index
    chosen = index.get_level_values("measure") == measure
    for level, value in keys.items():
        chosen &= index.get_level_values(level) == value
    return rows[chosen]


def _together(powers: pd.Series, events: pd.Series) -> float:
    """Mean size of the group of an event, by classes of 2^k to 2^(k+1) − 1: what the variance of a count depends on."""
    sizes = 1.5 * 2.0 ** powers.astype(int).to_numpy() - 0.5
    return float(np.average(sizes, weights=events.to_numpy()))
