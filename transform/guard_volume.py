"""Guards the volume of a day: events by type and slice, missing values and values never seen.

Counts scatter, and a shopper's events come together: a count of E events that come c at a time has a standard deviation
of √(E·c). A finding is beyond its limit and beyond `SIGMAS` of these.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from transform.config import ValidateConfig
from transform.day_counts import SLICES
from transform.days_compared import Day, select
from transform.findings import Anomaly, found

SIGMAS = 3.5
# Something is missed if so many groups of events that come together were expected.
LEAST_GROUPS = 10
_ALL = "all events"
# A type of a slice with fewer events, or with too many, is left to what is said of the type and of the slice.
_LEAST_EVENTS = 100


def check_volume(day: Day, config: ValidateConfig) -> Iterator[Anomaly]:
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
        untold = kind and feature and (usual < _LEAST_EVENTS or rule == "VOLUME_HIGH")
        if rule is None or explained or untold:
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


def _cells(day: Day) -> Iterator[tuple[str, str, str, float, np.ndarray]]:
    """Type, feature, value ("" = all of them), count today and on the other days; wholes before their parts."""
    types = sorted(set(select(day.usual, "events", feature="").index.get_level_values("type")))
    yield "", "", "", *day.total("events", feature="")
    for kind in types:
        yield kind, "", "", *day.total("events", feature="", type=kind)
    for kind in ("", *types):
        for feature in SLICES:
            keys = {"type": kind} if kind else {}
            values = set(select(day.usual, "events", feature=feature, **keys).index.get_level_values("value"))
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
    if today == 0 and usual >= LEAST_GROUPS * group:
        return "VANISHED"
    if today < min(usual * (1 - limit), usual - SIGMAS * np.sqrt(usual * group)):
        return "VOLUME_LOW"
    if today > max(highest / (1 - limit), highest + SIGMAS * np.sqrt(highest * group)) and usual > 0:
        return "VOLUME_HIGH"
    return None


def check_values(day: Day, config: ValidateConfig) -> Iterator[Anomaly]:
    """Values of slices that nobody has seen before, and missing ones."""
    events, usual_events = day.total("events", feature="")
    for feature in SLICES:
        rows, usual = select(day.counts, "events", feature=feature), select(day.usual, "events", feature=feature)
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
