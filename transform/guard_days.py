"""Guards each new day by exact counts: gaps, volume (transform/guard_volume.py), hours, shoppers, repeats."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon

from transform.config import ValidateConfig
from transform.days_compared import Day, DayCounts, events_by_frame, of_measure, select
from transform.findings import Anomaly, date, day_name, found
from transform.guard_volume import LEAST_GROUPS, check_values, check_volume

# A day farther than this from all others is not one of them.
_LARGEST_GAP = 7
# Classes of heavy shoppers are those that usually have at most this share of the events.
_HEAVY = 0.01


def check_days(counts: DayCounts, config: ValidateConfig) -> list[Anomaly]:
    """Findings about the days to be checked; none where there is nothing to compare them with."""
    if not counts.reference_days:
        return []
    findings = list(_places(counts))
    contents = pd.concat([of_measure(counts.reference, "content"), of_measure(counts.new, "content")]).drop_duplicates()
    for day in counts.new_days:
        today = Day.of(counts, day)
        if today is None:
            continue
        findings += [
            *check_volume(today, config),
            *check_values(today, config),
            *_hours(today, config),
            *_shoppers(today, config),
            *_copies(today, contents, config),
        ]
    return findings


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
        if day not in counts.new_days and usual >= LEAST_GROUPS:
            yield found(day_name(day), "timestamp", "DAY_MISSING", f"No event; {usual:,.0f} are usual on such a day.")


def _hours(day: Day, config: ValidateConfig) -> Iterator[Anomaly]:
    """Hours without events, and a rhythm of the day that has moved."""
    hours = [f"{hour:02d}" for hour in range(24)]
    today = select(day.counts, "hours").droplevel(["measure", "type", "feature"]).reindex(hours, fill_value=0)
    usual = select(day.usual, "hours").droplevel(["measure", "type", "feature"]).reindex(hours, fill_value=0)
    counts, expected = today.to_numpy(float), usual.median(axis=1).to_numpy(float)
    if not counts.sum() or not expected.sum():
        return
    empty = [hour for hour in range(24) if counts[hour] == 0 and expected[hour]]
    if expected[empty].sum() >= LEAST_GROUPS * day.group:
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


def _shoppers(day: Day, config: ValidateConfig) -> Iterator[Anomaly]:
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


def _heavy(day: Day, limit: float) -> Iterator[Anomaly]:
    """Events of shoppers who have far more of them than shoppers have."""
    powers = [str(power) for power in range(64)]
    levels = ["measure", "type", "feature"]
    today = select(day.counts, "load").droplevel(levels).reindex(powers, fill_value=0).to_numpy(float)
    usual = select(day.usual, "load").droplevel(levels).reindex(powers, fill_value=0).to_numpy(float)
    above = usual[::-1].cumsum(axis=0)[::-1] / np.maximum(usual.sum(axis=0), 1)
    heavy = int(np.argmax(np.median(above, axis=1) <= _HEAVY))
    share, usually = today[heavy:].sum() / max(today.sum(), 1), float(above[heavy].max())
    if share > usually + limit:
        text = (
            f"{share:.1%} of the events are of shoppers with {2**heavy} events or more that day; at most {usually:.1%} "
            "are usual."
        )
        yield found(day.name, "user_id", "HEAVY_SHOPPERS_HIGH", text)


def _copies(day: Day, contents: pd.DataFrame, config: ValidateConfig) -> Iterator[Anomaly]:
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
    if len(twins) and day.counts.sum() > LEAST_GROUPS:
        text = f"The same shoppers did the same with the same products at the same times as on {date(twins.min())}."
        yield found(day.name, "(all columns)", "REPEATED_DAY", text)
