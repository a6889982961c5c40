"""Exact counts of each day's events: by type and slice, hour and shopper. What the guards of volume compare.

A table of counts has one row for each day, measure, type, feature and value that occur:

| measure | type | feature | value | count |
|---|---|---|---|---|
| events | type | – | – | events |
| events | type | device, region | value | events that have one |
| hours | – | – | hour of the day, UTC | events |
| load | – | – | k | events of shoppers who have 2^k to 2^(k+1) − 1 of them that day |
| shoppers | – | – | – | shoppers with an event |
| returning | – | – | – | of them, those with an event on an earlier day |
| sessions | – | – | – | sessions with an event |
| shared_sessions | – | – | – | events with a session id of the shop's that another shopper of the bucket has, too |
| busiest | – | – | – | events of the shopper who has most |
| duplicates | – | – | – | events that repeat another one in every column; no other measure counts them |
| content | – | – | – | fingerprint of who did what to which product at which time of day, modulo 2^64 |

A shopper is whole in one bucket, so that the buckets' tables add up (`busiest`: their maximum).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transform.arrow_files import read_tables
from transform.clock import DAY, hour_of_day
from transform.fingerprints import combine, fingerprint
from transform.runs import changes, run_starts
from transform.tables import TYPE_NAMES

if TYPE_CHECKING:
    from transform.interactions import Events

# Of the transform's output.
DAYS_FILE = "days.arrow"
SLICES = ("device", "region")
# Values of a slice that are counted by themselves; those of the others are one.
MOST_VALUES = 64
OTHER = "(other values)"
_KEYS = ("day", "measure", "type", "feature", "value")
_SCHEMA = pa.schema(
    [
        ("day", pa.int32()),  # since 1970
        ("measure", pa.string()),
        ("type", pa.string()),
        ("feature", pa.string()),
        ("value", pa.string()),
        ("count", pa.int64()),
    ]
)
# Where there is no clock there are no days.
NO_DAYS = _SCHEMA.empty_table()
_ABSENT = -1


def day_counts(events: "Events", session: np.ndarray, repeated_times: np.ndarray) -> pa.Table:
    """Counts of one bucket.

    Args:
        events: in order of shopper and time, without repeated ones; their times are seconds since 1970.
        session: of each event, numbered for each shopper.
        repeated_times: seconds of the events that were dropped because they repeat another one.
    """
    if not len(events):
        return NO_DAYS
    day = events.timestamp // DAY
    tally = _Tally(int(min(day.min(), (repeated_times // DAY).min(initial=day.min()))), [])
    types = [TYPE_NAMES.get(number) for number in range(max(TYPE_NAMES) + 1)]
    tally.add("events", day, types=(events.type, types))
    for name in SLICES:
        codes, values = getattr(events, name), getattr(events, f"{name}_values").to_pylist()
        if len(values):
            told = codes != _ABSENT
            tally.add("events", day[told], (events.type[told], types), name, (codes[told], values))
    hours = hour_of_day(events.timestamp).astype(np.int64)
    tally.add("hours", day, values=(hours, [f"{hour:02d}" for hour in range(24)]))
    tally.add("duplicates", repeated_times // DAY)
    _count_shoppers(tally, events, day, session)
    tally.add_numbers("content", *_content(events, day))
    return pa.concat_tables(tally.parts)


@dataclass(frozen=True)
class _Tally:
    """Collects tables of counts; days are counted from `first`."""

    first: int
    parts: list[pa.Table]

    def add(
        self,
        measure: str,
        day: np.ndarray,
        types: tuple[np.ndarray, list[str | None]] | None = None,
        feature: str | None = None,
        values: tuple[np.ndarray, list[str | None]] | None = None,
    ) -> None:
        """Rows by day, type and value; both are codes [rows] and the names that they index."""
        type_codes, type_names = types or (np.zeros(len(day), np.int64), [None])
        codes, names = values or (np.zeros(len(day), np.int64), [None])
        width = len(names)
        key = ((day - self.first) * len(type_names) + type_codes) * width + codes
        bins = int(key.max(initial=-1)) + 1
        if bins <= 4 * len(key) + 2**20:
            counts = np.bincount(key, minlength=bins)
            found = np.flatnonzero(counts)
            counts = counts[found]
        else:
            found, counts = np.unique(key, return_counts=True)
        of_type = found // width
        self._append(
            self.first + of_type // len(type_names),
            measure,
            counts,
            pa.array(type_names, pa.string()).take(pa.array(of_type % len(type_names))),
            feature,
            pa.array(names, pa.string()).take(pa.array(found % width)),
        )

    def add_numbers(self, measure: str, days: np.ndarray, counts: np.ndarray) -> None:
        """One number a day."""
        none = pa.nulls(len(days), pa.string())
        self._append(days, measure, counts, none, None, none)

    def _append(
        self, days: np.ndarray, measure: str, counts: np.ndarray, types: pa.Array, feature: str | None, values: pa.Array
    ) -> None:
        rows = len(days)
        columns = [
            pa.array(days.astype(np.int32)),
            pa.array([measure] * rows, pa.string()),
            types,
            pa.array([feature] * rows, pa.string()),
            values,
            pa.array(counts.astype(np.int64)),
        ]
        self.parts.append(pa.table(columns, schema=_SCHEMA))


def _count_shoppers(tally: _Tally, events: "Events", day: np.ndarray, session: np.ndarray) -> None:
    """Measures of shoppers' days: a shopper's events stand together in order of time."""
    starts = run_starts(events.user, day)
    of_day, loads = day[starts], np.diff(np.append(starts, len(day)))
    tally.add("shoppers", of_day)
    tally.add("returning", of_day[~changes(events.user[starts])])
    powers = np.frexp(loads)[1] - 1
    tally.add("load", np.repeat(of_day, loads), values=(np.repeat(powers, loads), [str(power) for power in range(64)]))
    # A session may be interleaved with another one of the shopper: its runs are counted once.
    runs = run_starts(events.user, session, day)
    in_order = runs[np.lexsort((day[runs], session[runs], events.user[runs]))]
    once = run_starts(events.user[in_order], session[in_order], day[in_order])
    tally.add("sessions", day[in_order][once])
    tally.add("shared_sessions", day[_shared_sessions(events)])
    days, numbers = np.unique(of_day, return_inverse=True)
    busiest = np.zeros(len(days), np.int64)
    np.maximum.at(busiest, numbers, loads)
    tally.add_numbers("busiest", days, busiest)


def _shared_sessions(events: "Events") -> np.ndarray:
    """Bool [events]: the shop's session id stands with several shoppers; they are in order."""
    ends = int(events.session.max(initial=_ABSENT)) + 2
    first, last = np.full(ends, _ABSENT), np.full(ends, _ABSENT)
    first[events.session[::-1]] = events.user[::-1]
    last[events.session] = events.user
    return (events.session != _ABSENT) & (first != last)[events.session]


def _content(events: "Events", day: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Days and the fingerprint of each, as int64."""
    users = fingerprint(events.user_values)[events.user]
    items = np.append(fingerprint(events.item_values), np.uint64(0))[events.item]
    moment = (events.timestamp % DAY * len(TYPE_NAMES) * 2 + events.type).astype(np.uint64)
    each = combine(combine(users, items), moment)
    starts = run_starts(day)
    days, numbers = np.unique(day[starts], return_inverse=True)
    total = np.zeros(len(days), np.uint64)
    np.add.at(total, numbers, np.add.reduceat(each, starts))
    return days, total.view(np.int64)


def merge_day_counts(files: list[str]) -> pa.Table:
    """The counts of all buckets as one table, in a fixed order; rare values of a slice are one value, OTHER.

    Without files (no clock) the table is empty.
    """
    if not files:
        return NO_DAYS
    rows = _named_values(read_tables(files))
    is_largest = pc.equal(rows["measure"], "busiest")
    added = rows.filter(pc.invert(is_largest)).group_by(list(_KEYS)).aggregate([("count", "sum")])
    largest = rows.filter(is_largest).group_by(list(_KEYS)).aggregate([("count", "max")])
    merged = pa.concat_tables(
        [
            pa.table([part[name] for name in (*_KEYS, column)], schema=_SCHEMA)
            for part, column in ((added, "count_sum"), (largest, "count_max"))
        ]
    )
    return merged.take(pc.sort_indices(merged, [(name, "ascending") for name in _KEYS])).combine_chunks()


def _named_values(rows: pa.Table) -> pa.Table:
    """`rows` with the values beyond the MOST_VALUES most frequent of each slice named OTHER."""
    value = rows["value"]
    for name in SLICES:
        of_slice = pc.equal(rows["feature"], name)
        totals = rows.filter(pc.fill_null(of_slice, False)).group_by(["value"]).aggregate([("count", "sum")])
        totals = totals.filter(pc.is_valid(totals["value"]))
        if totals.num_rows <= MOST_VALUES:
            continue
        order = pc.sort_indices(totals, [("count_sum", "descending"), ("value", "ascending")])
        kept = totals["value"].take(order[:MOST_VALUES])
        rare = pc.and_(pc.and_(of_slice, pc.is_valid(value)), pc.invert(pc.is_in(value, value_set=kept)))
        value = pc.if_else(pc.fill_null(rare, False), OTHER, value)
    return rows.set_column(rows.schema.get_field_index("value"), "value", value)
