"""Events drawn by a hash of the shopper from each of the newest days: what the guards of distribution look at.

A shopper's day is drawn whole or not at all, so that what is said of shoppers and sessions is exact for those drawn.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transform.clock import DAY, MINUTE, hour_of_day
from transform.fingerprints import fingerprint, share
from transform.runs import run_numbers, run_starts
from transform.tables import CATEGORY_SEPARATOR, FIRST, TYPE_NAMES

if TYPE_CHECKING:
    from transform.catalogue import Catalogue
    from transform.interactions import Events

DAY_SAMPLE_FILE = "events-by-day.arrow"
# Days that are drawn from, up to the newest: five weeks, so that each weekday has been there four times before.
SAMPLED_DAYS = 35
# Popularity of a product by the training interactions that the products before it have: the head has half of them.
_CLASSES = ((0.5, "head"), (0.9, "middle"), (1.0, "tail"))
UNSEEN = "no training interaction"
_ABSENT = -1


@dataclass(frozen=True)
class DayShares:
    """Shares of the shoppers that are drawn, one for each day from `first_day` (since 1970) on."""

    first_day: int
    shares: tuple[float, ...]

    def of(self, day: np.ndarray) -> np.ndarray:
        """Shares float64 [rows] of days int64 [rows]; 0 outside of what is drawn."""
        place = day - self.first_day
        inside = (place >= 0) & (place < len(self.shares))
        return np.append(self.shares, 0.0)[np.where(inside, place, _ABSENT)]


NO_SAMPLE = DayShares(0, ())


def day_shares(minutes: dict[str, int], events: int, size: int) -> DayShares:
    """Shares that draw about `size` events of each of the newest days.

    Args:
        minutes: minute since 1970 → events that enter histories; none without a clock.
        events: of all types. They are taken to be spread over the days as those that enter histories.
        size: events to draw a day; a day with fewer is taken whole.
    """
    if not minutes:
        return NO_SAMPLE
    keys, counts = np.array([(int(minute), count) for minute, count in minutes.items()]).T
    day = keys * MINUTE // DAY
    last = int(day.max())
    first = max(int(day.min()), last - SAMPLED_DAYS + 1)
    recent = day >= first
    of_day = np.bincount(day[recent] - first, counts[recent], minlength=last - first + 1) * events / counts.sum()
    return DayShares(first, tuple(np.minimum(1.0, size / np.maximum(of_day, 1)).tolist()))


def day_sample(events: "Events", session: np.ndarray, shares: DayShares) -> pa.Table:
    """The drawn events of one bucket.

    Args:
        events: in order of shopper and time, without repeated ones.
        session: of each event, numbered for each shopper.
        shares: of shoppers by day.
    """
    day = events.timestamp // DAY if shares.shares else np.zeros(len(events), np.int64)
    spread = share(fingerprint(events.user_values))[events.user]
    chosen = np.flatnonzero(spread < shares.of(day))
    drawn, day = events.take(chosen), day[chosen]
    names = pa.array([TYPE_NAMES.get(number) for number in range(max(TYPE_NAMES) + 1)], pa.string())
    columns = {
        "day": pa.array(day.astype(np.int32)),
        "type": names.take(pa.array(drawn.type)),
        "hour": pa.array(hour_of_day(drawn.timestamp)),
        "shopper_events": pa.array(_group_sizes(drawn.user, day)),
        "session_events": pa.array(_group_sizes(drawn.user, session[chosen])),
    }
    for name in ("item", "device", "region", "surface"):
        codes, values = getattr(drawn, name), getattr(drawn, f"{name}_values")
        columns["item_id" if name == "item" else name] = values.take(pa.array(codes, mask=codes == _ABSENT))
    for name in ("price", "quantity"):
        numbers = getattr(drawn, name)
        columns[name] = pa.array(numbers, mask=np.isnan(numbers))
    columns["position"] = pa.array(drawn.position, mask=drawn.position == 0)
    return pa.table(columns)


def _group_sizes(*keys: np.ndarray) -> np.ndarray:
    """How many rows have the same keys, int64 [rows]."""
    order = np.lexsort(keys[::-1])
    ordered = [key[order] for key in keys]
    sizes = np.empty(len(order), np.int64)
    sizes[order] = np.diff(np.append(run_starts(*ordered), len(order)))[run_numbers(*ordered)]
    return sizes


def with_products(sample: pa.Table, catalogue: "Catalogue") -> pa.Table:
    """The drawn events, by day, with what the catalogue says of their products.

    `known`: in the items table; `category`: its last level; `popularity`: the product's class among all products by
    interactions in the training span.
    """
    if not sample.num_rows:
        return sample
    sample = sample.combine_chunks()
    item = sample["item_id"].combine_chunks()
    named = pc.is_valid(item).to_numpy(zero_copy_only=False)
    places = np.full(len(item), _ABSENT)
    places[named] = catalogue.rows(item.filter(pa.array(named))) - FIRST
    of_item = pa.array(places, mask=~named)
    known = pa.array(["no", "yes"]).take(pa.array(catalogue.listed.astype(np.int8)))
    leaves = pc.replace_substring_regex(catalogue.category, pattern=f"^.*{CATEGORY_SEPARATOR}", replacement="")
    columns = {"known": known, "category": leaves, "popularity": popularity_classes(catalogue.train_count)}
    for name, values in columns.items():
        sample = sample.append_column(name, values.take(of_item))
    return sample.take(pc.sort_indices(sample, [(name, "ascending") for name in ("day", "hour", "type", "item_id")]))


def popularity_classes(train_count: np.ndarray) -> pa.Array:
    """Class of each product: `head` products have half of all training interactions, `middle` ones the next 40 %."""
    order = np.argsort(-train_count, kind="stable")
    before = np.cumsum(train_count[order]) - train_count[order]
    bounds = [part for part, _ in _CLASSES[:-1]]
    number = np.searchsorted(bounds, before / max(int(train_count.sum()), 1), side="right")
    classes = np.empty(len(order), np.int64)
    classes[order] = np.where(train_count[order] > 0, number, len(_CLASSES))
    return pa.array([name for _, name in _CLASSES] + [UNSEEN]).take(pa.array(classes))
