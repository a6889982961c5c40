"""Guards each new day by exact counts: volume by type and slice, hours, shoppers, repeats, gaps.

A day is compared with the median of the same weekday in the four weeks before, or of the seven days before where
there are not three of that weekday. Counts scatter, and a shopper's events come together: a count of E events that
come c at a time has a standard deviation of √(E·c). A finding is beyond its limit and beyond `_SIGMAS` of these.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.spatial.distance import jensenshannon

from transform.config import ValidateConfig
from transform.day_counts import SLICES
from transform.findings import Anomaly, date, day_name, found

_WEEK = 7
_WEEKS = 4
_LEAST_WEEKDAYS = 3
_SIGMAS = 3.5
# Something is missed if so many groups of events that come together were expected.
_LEAST_GROUPS = 10
# A day farther than this from all others is not one of them.
_LARGEST_GAP = 7
# Classes of heavy shoppers are those that usually have at most this share of the events.
_HEAVY = 0.01
_ALL = "all events"
# A type of a slice with fewer events is left to what is said of the type and of the slice.
_LEAST_EVENTS = 100


@dataclass(frozen=True)
class DayCounts:
    """Counts of days known to be good and of days to be checked, as transform/day_counts.py lists them."""

    reference: pd.DataFrame
    new: pd.DataFrame
    reference_days: tuple[int, ...]  # in order, all that have events
    new_days: tuple[int, ...]

    def events_of_one_shopper(self) -> float:
        """How many events come together: those that the shopper of an event has that day, on average; 1 without any."""
        load = _of(self.reference, "load")
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


def check_days(counts: DayCounts, config: ValidateConfig) -> list[Anomaly]:
    """Findings about the days to be checked; none where there is nothing to compare them with."""
    if not counts.reference_days:
        return []
    findings = list(_places(counts))
    contents = pd.concat([_of(counts.reference, "content"), _of(counts.new, "content")]).drop_duplicates()
    for day in counts.new_days:
        today = _Day.of(counts, day)
        if today is None:
            continue
        findings += [
            *_volume(today, config),
            *_values(today, config),
            *_hours(today, config),
            *_shoppers(today, config),
            *_copies(today, contents, config),
        ]
    return findings


def _together(powers: pd.Series, events: pd.Series) -> float:
    """Mean size of the group of an event, by classes of 2^k to 2^(k+1) − 1: what the variance of a count depends on."""
    sizes = 1.5 * 2.0 ** powers.astype(int).to_numpy() - 0.5
    return float(np.average(sizes, weights=events.to_numpy()))


def _of(frame: pd.DataFrame, measure: str) -> pd.DataFrame:
    return frame[frame["measure"] == measure]


def _places(counts: DayCounts) -> Iterator[Anomaly]:
    """Days without events, and events where no day should be."""
    listed = sorted({*counts.reference_days, *counts.new_days})
    totals = events_by_frame(counts.new)
    isolated = set()
    for day in counts.new_days:
        gap = min((abs(day - other) for other in listed if other != day), default=0)
        if gap > _LARGEST_GAP:
            isolated.add(day)
            first, last = counts.reference_days[0], counts.reference_days[-1]
            text = (
                f"{totals[day]:,} events lie {gap:,} days from all others; the days known go from {date(first)} to "
                f"{date(last)}."
            )
            yield found(day_name(day), "timestamp", "DAY_OUT_OF_PLACE", text)
    inside = [day for day in counts.new_days if day not in isolated and day > counts.reference_days[-1]]
    expected = events_by_frame(counts.reference)
    for day in range(counts.reference_days[-1] + 1, max(inside, default=0)):
        usual = np.median(expected.reindex(counts.comparable(day), fill_value=0))
        if day not in counts.new_days and usual >= _LEAST_GROUPS:
            yield found(day_name(day), "timestamp", "DAY_MISSING", f"No event; {usual:,.0f} are usual on such a day.")


@dataclass(frozen=True)
class _Day:
    """One day beside those that it is compared with: columns of `usual` are days."""

    name: str
    counts: pd.Series  # by (measure, type, feature, value), "" where a key is absent
    usual: pd.DataFrame
    events: float  # as usual
    group: float  # events that come together, of one shopper

    @classmethod
    def of(cls, counts: DayCounts, day: int) -> "_Day | None":
        """None where the day's reference has no events."""
        others = counts.comparable(day)
        usual = _wide(counts.reference[counts.reference["day"].isin(others)], others)
        today = _wide(counts.new[counts.new["day"] == day], [day])[day]
        usual = usual.reindex(usual.index.union(today.index), fill_value=0)
        today = today.reindex(usual.index, fill_value=0)
        of_types = _select(usual, "events", feature="")
        events = of_types.sum().median()
        if not others or not events:
            return None
        load = _select(usual, "load").sum(axis=1)
        group = _together(load.index.get_level_values("value"), load)
        return cls(day_name(day), today, usual, float(events), group)

    def total(self, measure: str, **keys: str) -> tuple[float, np.ndarray]:
        """Sum of a measure today, and on each of the other days."""
        return float(_select(self.counts, measure, **keys).sum()), _select(self.usual, measure, **keys).sum().to_numpy()

    def share(self, measure: str, of: str, **keys: str) -> tuple[float, np.ndarray]:
        """Ratio of two measures today, and on each of the other days."""
        (part, parts), (whole, wholes) = self.total(measure), self.total(of, **keys)
        return part / max(whole, 1), parts / np.maximum(wholes, 1)


def _wide(frame: pd.DataFrame, days: Sequence[int]) -> pd.DataFrame:
    keys = ["measure", "type", "feature", "value"]
    frame = frame[frame["measure"] != "content"].fillna({"type": "", "feature": "", "value": ""})
    return frame.pivot_table("count", keys, "day", fill_value=0, aggfunc="sum").reindex(columns=days, fill_value=0)


def _select(rows: pd.Series | pd.DataFrame, measure: str, **keys: str) -> pd.Series | pd.DataFrame:
    index = rows.index
    chosen = index.get_level_values("measure") == measure
    for level, value in keys.items():
        chosen &= index.get_level_values(level) == value
    return rows[chosen]


def _volume(day: _Day, config: ValidateConfig) -> Iterator[Anomaly]:
    """Too few and too many events: all, by type, by slice, by both. A part that moved as its whole did is not named."""
    change = config.max_volume_change
    ratios: dict[tuple[str, str], float] = {}
    for kind, feature, value, today, days in _cells(day):
        usual = float(np.median(days))
        of_kind = np.median(day.total("events", type=kind, feature="")[1]) if kind else day.events
        group = 1 + day.group * of_kind / day.events
        rule = _volume_rule(today, days, group, change)
        parents = [ratios[key] for key in (("", ""), (kind, ""), ("", f"{feature}={value}")) if key in ratios]
        explained = any(_volume_rule(today, days * ratio, group, change) is None for ratio in parents)
        too_few = kind and feature and max(today, usual) < _LEAST_EVENTS
        if rule is None or explained or too_few:
            continue
        ratios[kind, f"{feature}={value}" if feature else ""] = today / usual
        of_what = _named(kind, feature, value)
        text = f"{today:,.0f} {of_what} came; {usual:,.0f} are usual on such a day (limit ±{change:.0%})."
        yield found(day.name, kind or feature or _ALL, rule, text)
    shoppers, days = day.total("shoppers")
    rule = _volume_rule(shoppers, days, 1, change)
    if rule and ("", "") not in ratios:
        text = f"{shoppers:,.0f} shoppers came; {np.median(days):,.0f} are usual on such a day (limit ±{change:.0%})."
        yield found(day.name, "user_id", rule, text)


def _cells(day: _Day) -> Iterator[tuple[str, str, str, float, np.ndarray]]:
    """Type, feature, value ("" = all of them), count today and on the other days; wholes before their parts."""
    types = sorted(set(_select(day.usual, "events", feature="").index.get_level_values("type")))
    yield "", "", "", *day.total("events", feature="")
    for kind in types:
        yield kind, "", "", *day.total("events", feature="", type=kind)
    for kind in ("", *types):
        for feature in SLICES:
            keys = {"type": kind} if kind else {}
            values = set(_select(day.usual, "events", feature=feature, **keys).index.get_level_values("value"))
            for value in sorted(values):
                yield kind, feature, value, *day.total("events", feature=feature, value=value, **keys)


def _named(kind: str, feature: str, value: str) -> str:
    of_type = f"events of type {kind!r}" if kind else "events"
    return f"{of_type} with {feature} {value!r}" if feature else of_type


def _volume_rule(today: float, days: np.ndarray, group: float, limit: float) -> str | None:
    """The rule that a count breaks, beside that of other days, of events that come `group` at a time.

    Too few is less than the median; too many is more than ever, so that a day that was missed excuses nothing and a
    weekly peak is not told each time.
    """
    usual, highest = float(np.median(days)), float(days.max())
    if today == 0 and usual >= _LEAST_GROUPS * group:
        return "VANISHED"
    if today < min(usual * (1 - limit), usual - _SIGMAS * np.sqrt(usual * group)):
        return "VOLUME_LOW"
    if today > max(highest / (1 - limit), highest + _SIGMAS * np.sqrt(highest * group)) and usual > 0:
        return "VOLUME_HIGH"
    return None


def _values(day: _Day, config: ValidateConfig) -> Iterator[Anomaly]:
    """Values of slices that nobody has seen before, and missing ones."""
    events, usual_events = day.total("events", feature="")
    for feature in SLICES:
        rows, usual = _select(day.counts, "events", feature=feature), _select(day.usual, "events", feature=feature)
        if not usual.to_numpy().any():
            continue
        by_value = rows.groupby("value").sum()
        seen = usual.groupby("value").sum()
        missing = events - by_value.sum()
        usually = np.median((usual_events - seen.sum().to_numpy()) / np.maximum(usual_events, 1))
        if missing / events > usually + config.max_missing_change:
            text = (
                f"The value is missing in {missing / events:.1%} of the events; {usually:.1%} are usual "
                f"(limit +{config.max_missing_change:.0%})."
            )
            yield found(day.name, feature, "MISSING_HIGH", text)
        known = {value for value in seen.index if seen.loc[value].any()}
        unseen = by_value[[value for value in by_value.index if value not in known]]
        if unseen.sum() > config.max_new_values * events:
            yield found(day.name, feature, "NEW_VALUES", new_values_text(unseen, known, unseen.sum() / events))


def new_values_text(unseen: pd.Series, known: set[str], share: float) -> str:
    """What is new (counts by value), and which of it differs from a known value in case only."""
    most = unseen.sort_values(ascending=False).index[:3]
    folded = {value.casefold(): value for value in known}
    twins = [f"{value!r} is {folded[value.casefold()]!r} but for case" for value in most if value.casefold() in folded]
    names = ", ".join(repr(value) for value in most)
    return f"{share:.1%} have values never seen before: {names}{'; ' if twins else ''}{', '.join(twins)}."


def _hours(day: _Day, config: ValidateConfig) -> Iterator[Anomaly]:
    """Hours without events, and a rhythm of the day that has moved."""
    hours = [f"{hour:02d}" for hour in range(24)]
    today = _select(day.counts, "hours").droplevel(["measure", "type", "feature"]).reindex(hours, fill_value=0)
    usual = _select(day.usual, "hours").droplevel(["measure", "type", "feature"]).reindex(hours, fill_value=0)
    counts, expected = today.to_numpy(float), usual.median(axis=1).to_numpy(float)
    if not counts.sum() or not expected.sum():
        return
    empty = [hour for hour in range(24) if counts[hour] == 0 and expected[hour]]
    if expected[empty].sum() >= _LEAST_GROUPS * day.group:
        share = expected[empty].sum() / expected.sum()
        text = (
            f"No event in {len(empty)} hours from {empty[0]:02d}:00 to {empty[-1]:02d}:59 UTC that usually have "
            f"{share:.0%} of a day's events."
        )
        yield found(day.name, "hour", "HOURS_EMPTY", text)
        return
    # What chance alone gives is (bins − 1) / (8 n ln 2) on average, with a deviation of 0.3 of that for 24 bins.
    allowed = 2 * 23 / (8 * np.log(2) * counts.sum() / day.group)
    distance = jensenshannon(counts, expected, base=2) ** 2
    if distance <= max(config.max_hour_change, allowed):
        return
    distances = [jensenshannon(np.roll(counts, -shift), expected, base=2) ** 2 for shift in range(24)]
    best = int(np.argmin(distances))
    signed = best if best <= 12 else best - 24
    text = (
        f"The rhythm of the day differs: Jensen-Shannon divergence {distance:.3f} of the events by hour from the usual "
        f"(limit {config.max_hour_change}, by chance up to {allowed:.3f})."
    )
    if distances[best] < distance / 2:
        text += f" Moved by {-signed:+d} hours it would fit: {distances[best]:.3f}."
    yield found(day.name, "hour", "HOURS_SHIFTED", text)


def _shoppers(day: _Day, config: ValidateConfig) -> Iterator[Anomaly]:
    """How the events are spread over shoppers and sessions."""
    share, usual = day.share("busiest", "events", feature="")
    if share > usual.max() + config.max_shopper_share:
        text = f"One shopper has {share:.1%} of the events; at most {usual.max():.1%} are usual."
        yield found(day.name, "user_id", "ONE_SHOPPER_HIGH", text)
    yield from _heavy(day, config.max_shopper_share)
    share, usual = day.share("returning", "shoppers")
    if np.median(usual) > 0.1 and share < np.median(usual) * (1 - config.max_volume_change):
        text = f"{share:.1%} of the shoppers have been there on an earlier day; {np.median(usual):.1%} are usual."
        yield found(day.name, "user_id", "RETURNING_LOW", text)
    share, usual = day.share("shared_sessions", "events", feature="")
    if share > usual.max() + config.max_shopper_share:
        text = f"{share:.1%} of the events are in sessions of several shoppers; at most {usual.max():.1%} are usual."
        yield found(day.name, "session", "SHARED_SESSIONS_HIGH", text)


def _heavy(day: _Day, limit: float) -> Iterator[Anomaly]:
    """Events of shoppers who have far more of them than shoppers have."""
    powers = [str(power) for power in range(64)]
    levels = ["measure", "type", "feature"]
    today = _select(day.counts, "load").droplevel(levels).reindex(powers, fill_value=0).to_numpy(float)
    usual = _select(day.usual, "load").droplevel(levels).reindex(powers, fill_value=0).to_numpy(float)
    above = usual[::-1].cumsum(axis=0)[::-1] / np.maximum(usual.sum(axis=0), 1)
    heavy = int(np.argmax(np.median(above, axis=1) <= _HEAVY))
    share, usually = today[heavy:].sum() / max(today.sum(), 1), float(above[heavy].max())
    if share > usually + limit:
        text = (
            f"{share:.1%} of the events are of shoppers with {2**heavy} events or more that day; at most {usually:.1%} "
            "are usual."
        )
        yield found(day.name, "user_id", "HEAVY_SHOPPERS_HIGH", text)


def _copies(day: _Day, contents: pd.DataFrame, config: ValidateConfig) -> Iterator[Anomaly]:
    """Events twice, and a whole day twice."""
    share, usual = day.share("duplicates", "events", feature="")
    # Of all rows, not of those kept.
    share, usually = share / (1 + share), float(np.max(usual / (1 + usual)))
    if share > usually + config.max_duplicates:
        text = f"{share:.1%} of the day's rows repeat another one in every column; at most {usually:.1%} are usual."
        yield found(day.name, "(all columns)", "DUPLICATES_HIGH", text)
    names = contents["day"].map(day_name)
    own = contents.loc[names == day.name, "count"]
    twins = contents.loc[contents["count"].isin(own) & (names != day.name), "day"]
    if len(twins) and day.counts.sum() > _LEAST_GROUPS:
        text = f"The same shoppers did the same with the same products at the same times as on {date(twins.min())}."
        yield found(day.name, "(all columns)", "REPEATED_DAY", text)
