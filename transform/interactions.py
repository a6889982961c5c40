"""Events of one group of shoppers to their interactions: ordered, de-duplicated, in sessions, collapsed, split.

Everything here works on whole columns of one bucket in memory and knows nothing of files or of Beam.

The rules:

* Order: shopper (by bytes of the id), time, place in the source. Without a clock the place in the source is the time.
* Duplicates: events equal in every column; the first stays. Without a clock nothing tells a copy from a repeat, and
  none is dropped.
* Robots: whoever has more than `max_daily_events` events within 24 hours is no shopper; nothing of theirs is kept.
* Session: the shop's own session id where it gives one, else events with gaps of at most `session_gap_seconds`, begun
  anew by events of the types `session_resets`. Every event counts, those that never enter histories too: a shopper
  who looks at lists is still there.
* Bounces: views and clicks that the shopper's next event within the session, impressions aside, follows in less than
  `min_dwell_seconds` are left out of histories; the last event of a session, or before a cut of the time split, has no
  known dwell time and stays.
* Basket: the events of one shopper with the same order id (or none) and the same time. It has no inner order.
* Interaction: consecutive events of a shopper on one product within a session. Its type is the strongest event's, its
  labels are all types, its time, price and circumstances are those of the first strongest event: a view at 12:00 and
  a purchase at 12:04 are a purchase at 12:04, in the basket of 12:04. Quantities of the strongest events add up. Two
  order ids are never one interaction, and nothing is merged across a cut of the time split, which would tell the
  training span what happened after it.
* Length of sessions: one of more than `max_session_length` interactions is divided, baskets stay whole; one with fewer
  than `min_session_length` interactions within a span is left out.
* Way in: the surface, the position and the logged propensity of an interaction are those of the first of its events
  that tells a position or a propensity. That is where the shopper met the product; the cart or the order that made
  the interaction stronger was not chosen from a list.
* Split by time: an interaction belongs to the span of its time. Leave-one-out: a shopper's last interaction is the
  test, the one before validation; shoppers with fewer than three are all training. It takes single interactions, as
  papers do, even out of a basket.
* Positions: impressions, and interactions by their way in (clicks), are counted by product, surface and position in
  the training span. Without a cut in time an impression belongs to it if it is not later than the last training
  interaction of a shopper of whom something is held out: what was shown before a held-out choice tells of it.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transform.day_counts import NO_DAYS, day_counts
from transform.day_sample import NO_SAMPLE, DayShares, day_sample
from transform.runs import changes, places_in_runs, run_numbers, run_starts
from transform.sessions import (
    divided_sessions,
    dwell_seconds,
    numbered_by_first,
    robot_events,
    session_lengths,
    session_numbers,
)
from transform.tables import ADD_TO_CART, CLICK, IMPRESSION, PURCHASE, SEARCH, VIEW

TRAIN, VALIDATION, TEST = 0, 1, 2
SPANS = ("train", "validation", "test")
_ABSENT = -1
# Shoppers with fewer interactions have nothing left to learn from after two are held out.
_LEAVE_ONE_OUT_MINIMUM = 3


@dataclass(frozen=True)
class Rules:
    """What the configuration and the data say about ordering, sessions and the split."""

    has_timestamps: bool
    session_gap_seconds: int
    history_types: frozenset[int]
    # Starts of the validation and test span, seconds; None: leave-one-out.
    cuts: tuple[int, int] | None
    session_resets: frozenset[int] = frozenset()
    # 0 = no limit, of this and the next three.
    max_daily_events: int = 0
    min_dwell_seconds: int = 0
    max_session_length: int = 0
    min_session_length: int = 0
    sampled_days: DayShares = NO_SAMPLE
    # Seconds; earlier events do not enter. None: all do.
    since: int | None = None


@dataclass(frozen=True)
class Events:
    """Events of one bucket in order, as arrays [events]; codes index the matching `*_values`, -1 = absent."""

    user: np.ndarray
    timestamp: np.ndarray  # seconds, or the place in the shopper's events where there is no clock
    row: np.ndarray  # place in the source
    item: np.ndarray
    type: np.ndarray
    session: np.ndarray
    order: np.ndarray
    device: np.ndarray
    region: np.ndarray
    quantity: np.ndarray  # float32, NaN = absent
    price: np.ndarray  # float32, NaN = absent
    surface: np.ndarray
    position: np.ndarray  # int32, 1 = first in its list, 0 = not from a list
    propensity: np.ndarray  # float32, as the shop logged it, NaN = absent
    rest: np.ndarray  # uint64 fingerprint of all other columns
    user_values: pa.Array
    item_values: pa.Array
    device_values: pa.Array
    region_values: pa.Array
    surface_values: pa.Array

    def take(self, chosen: np.ndarray) -> "Events":
        """The events at the positions (or under the mask) `chosen`, in that order."""
        arrays = {name: array[chosen] for name, array in vars(self).items() if not name.endswith("_values")}
        return replace(self, **arrays)

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Interactions:
    """Interactions of one bucket, by shopper and time, as arrays [interactions]; codes as in the events."""

    user: np.ndarray
    item: np.ndarray
    type: np.ndarray
    label: np.ndarray  # bit t is set if an event of type t was merged
    timestamp: np.ndarray
    session: np.ndarray  # 0, 1, 2 … for each shopper
    basket: np.ndarray  # 0, 1, 2 … for each shopper
    span: np.ndarray  # TRAIN, VALIDATION or TEST
    device: np.ndarray
    region: np.ndarray
    quantity: np.ndarray
    price: np.ndarray
    surface: np.ndarray
    position: np.ndarray
    propensity: np.ndarray

    def __len__(self) -> int:
        return len(self.user)


def order_events(table: pa.Table, has_timestamps: bool) -> Events:
    """Sorts the rows of `table` by shopper, time and place in the source.

    `table` has the columns of the canonical events that histories need, `type` as the enum's number, `row` int64
    (unique: the place in the source) and, if the shop has more columns, `rest` uint64.
    """
    count = table.num_rows
    users, user_values = _codes(table, "user_id")
    # Dictionary codes follow the rows; a shopper's rank among the ids' bytes does not.
    by_bytes = pc.sort_indices(user_values).to_numpy()
    rank = np.empty(len(by_bytes), np.int32)
    rank[by_bytes] = np.arange(len(by_bytes))
    user, row = rank[users], _numbers(table, "row", np.int64)
    place = np.lexsort((row, user))
    timestamp = _numbers(table, "timestamp", np.int64) if has_timestamps else np.empty(count, np.int64)
    if has_timestamps:
        place = np.lexsort((row, timestamp, user))
    else:
        timestamp[place] = places_in_runs(user[place])
    coded = {name: _codes(table, f"{name}_id" if name == "item" else name) for name in _CODED}
    return Events(
        user=user,
        timestamp=timestamp,
        row=row,
        type=_numbers(table, "type", np.int8),
        quantity=_numbers(table, "quantity", np.float32),
        price=_numbers(table, "price", np.float32),
        position=_positions(table),
        propensity=_numbers(table, "propensity", np.float32),
        rest=_numbers(table, "rest", np.uint64) if "rest" in table.column_names else np.zeros(count, np.uint64),
        **{name: codes for name, (codes, _) in coded.items()},
        user_values=user_values.take(pa.array(by_bytes)),
        item_values=coded["item"][1],
        device_values=coded["device"][1],
        region_values=coded["region"][1],
        surface_values=coded["surface"][1],
    ).take(place)


_CODED = ("item", "session", "order", "device", "region", "surface")
_FLOATS = ("quantity", "price", "propensity")


def _codes(table: pa.Table, column: str) -> tuple[np.ndarray, pa.Array]:
    """Codes int32 [rows] (-1 = null or empty) and their values; all absent if there is no such column."""
    if column not in table.column_names:
        return np.full(table.num_rows, _ABSENT, np.int32), pa.array([], pa.string())
    encoded = table.column(column).combine_chunks().dictionary_encode()
    codes = pc.fill_null(encoded.indices, _ABSENT).to_numpy()
    if not pa.types.is_string(encoded.dictionary.type):
        # Fingerprints, of which the reader has left out the empty ones.
        return codes, encoded.dictionary
    empty = pc.index(encoded.dictionary, "").as_py()
    return np.where(codes == empty, _ABSENT, codes) if empty >= 0 else codes, encoded.dictionary


def _numbers(table: pa.Table, column: str, dtype: type[np.generic]) -> np.ndarray:
    """Numbers [rows]; floats are NaN where null or where there is no such column."""
    if column not in table.column_names:
        return np.full(table.num_rows, np.nan, dtype)
    return table.column(column).to_numpy().astype(dtype)


def _positions(table: pa.Table) -> np.ndarray:
    """Positions in lists, int32 [rows]; 0 where null or where there is no such column."""
    if "position" not in table.column_names:
        return np.zeros(table.num_rows, np.int32)
    return pc.fill_null(table.column("position"), 0).to_numpy().astype(np.int32)


def repeated_events(events: Events) -> np.ndarray:
    """Bool [events]: an equal event of the same shopper stands before it."""
    repeated = np.zeros(len(events), bool)
    new_time = changes(events.user, events.timestamp)
    # Only shoppers with several events at one time can have copies.
    shared = np.flatnonzero(~new_time | ~np.append(new_time[1:], True))
    tied = events.take(shared)
    columns = [
        getattr(tied, field.name).astype(np.float64).view(np.int64)
        if field.name in _FLOATS
        else getattr(tied, field.name)
        for field in fields(tied)
        if not field.name.endswith("_values") and field.name != "row"
    ]
    # Stable: of equal events the first in the source comes first.
    sorting = np.lexsort(columns[::-1])
    repeated[shared[sorting]] = ~changes(*(column[sorting] for column in columns))
    return repeated


def basket_firsts(events: Events, has_timestamps: bool) -> np.ndarray:
    """Position of the first event of each event's basket, int64 [events]: equal for the events of one basket."""
    if has_timestamps:
        keys = (events.user, events.timestamp, events.order)
    else:
        alone = np.where(events.order == _ABSENT, np.arange(len(events)), _ABSENT)
        keys = (events.user, alone, events.order)
    return _group_firsts(*keys)


def _group_firsts(*keys: np.ndarray) -> np.ndarray:
    """Position of the first row with the same keys, int64 [rows]."""
    sorting = np.lexsort(keys[::-1])
    ordered = [key[sorting] for key in keys]
    firsts = np.empty(len(sorting), np.int64)
    firsts[sorting] = sorting[run_starts(*ordered)][run_numbers(*ordered)]
    return firsts


def collapse(events: Events, session: np.ndarray, basket: np.ndarray, span: np.ndarray) -> Interactions:
    """Merges consecutive events on one product within a session, span and order into one interaction.

    Args:
        events: in order, of the types that enter histories.
        session, basket, span: of each event, as `session_numbers`, `basket_firsts` and `span_numbers` give them.
    """
    # Within a basket, which has no inner order, events on one product stand together.
    item_first = _group_firsts(basket, events.item)
    sorting = np.lexsort((item_first, basket, session, events.user))
    arranged = events.take(sorting)
    starts = changes(arranged.user, session[sorting], arranged.item, span[sorting])
    starts |= _other_order(arranged.order, starts)
    first = np.flatnonzero(starts)
    group = np.cumsum(starts) - 1
    if not len(first):
        none = np.empty(0, np.int64)
        return _interactions(arranged, _Merged(none, none, none, none), session, basket, span, sorting)
    strongest = np.maximum.reduceat(arranged.type, first)
    is_strongest = arranged.type == strongest[group]
    count = len(arranged)
    chosen = np.minimum.reduceat(np.where(is_strongest, np.arange(count), count), first)
    tells = (arranged.position > 0) | ~np.isnan(arranged.propensity)
    way_in = np.minimum.reduceat(np.where(tells, np.arange(count), count), first)
    labels = np.bitwise_or.reduceat(1 << arranged.type.astype(np.int64), first)
    pieces = np.where(np.isnan(arranged.quantity), np.float32(1), arranged.quantity)
    quantities = np.add.reduceat(np.where(is_strongest, pieces, np.float32(0)), first)
    merged = _Merged(chosen, np.where(way_in < count, way_in, chosen), labels, quantities)
    return _interactions(arranged, merged, session, basket, span, sorting)


@dataclass(frozen=True)
class _Merged:
    """Groups of events that are one interaction each, as arrays [interactions]."""

    chosen: np.ndarray  # place of the event that gives type, time, price and circumstances
    way_in: np.ndarray  # place of the event that gives surface, position and propensity
    labels: np.ndarray
    quantities: np.ndarray


def _other_order(order: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Bool [events]: the event has another order id than the last one named since the run began."""
    places = np.arange(len(order))
    named = np.where(order != _ABSENT, places, _ABSENT)
    before = np.append(np.int64(_ABSENT), np.maximum.accumulate(named)[:-1]) if len(order) else named
    run_start = np.maximum.accumulate(np.where(starts, places, 0)) if len(order) else places
    in_run = before >= run_start
    return in_run & (order != _ABSENT) & (order != order[np.maximum(before, 0)])


def _interactions(
    arranged: Events,
    merged: _Merged,
    session: np.ndarray,
    basket: np.ndarray,
    span: np.ndarray,
    sorting: np.ndarray,
) -> Interactions:
    """Interactions in time order; `merged` names places in `arranged`, which is the events sorted by `sorting`."""
    original = sorting[merged.chosen]
    in_time = np.lexsort((original, basket[original]))
    original, way_in = original[in_time], merged.way_in[in_time]
    named = arranged.take(merged.chosen[in_time])
    return Interactions(
        user=named.user,
        item=named.item,
        type=named.type,
        label=merged.labels[in_time].astype(np.int64),
        timestamp=named.timestamp,
        # By their interactions, not by all of their events: a session of which nothing enters the training span before
        # the cut must not have a number there.
        session=numbered_by_first(named.user, session[original]),
        basket=_dense(named.user, basket[original]),
        span=span[original],
        device=named.device,
        region=named.region,
        quantity=merged.quantities[in_time].astype(np.float32),
        price=named.price,
        surface=arranged.surface[way_in],
        position=arranged.position[way_in],
        propensity=arranged.propensity[way_in],
    )


def _dense(user: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """`numbers` of each user replaced by 0, 1, 2 … in ascending order, int64; users stand together."""
    sorting = np.lexsort((numbers, user))
    runs = np.empty(len(user), np.int64)
    runs[sorting] = run_numbers(user[sorting], numbers[sorting])
    lowest = np.minimum.reduceat(runs, run_starts(user)) if len(user) else runs
    return runs - lowest[run_numbers(user)]


def span_numbers(timestamp: np.ndarray, cuts: tuple[int, int]) -> np.ndarray:
    """Span of each time, int8: a cut belongs to the span that it begins."""
    return np.searchsorted(np.array(cuts), timestamp, side="right").astype(np.int8)


def leave_one_out(user: np.ndarray) -> np.ndarray:
    """Span of each interaction, int8; a user's interactions stand together in time order."""
    starts = run_starts(user)
    lengths = np.diff(np.append(starts, len(user)))
    from_end = lengths[run_numbers(user)] - places_in_runs(user)
    span = np.where(from_end == 1, TEST, np.where(from_end == 2, VALIDATION, TRAIN))
    return np.where(lengths[run_numbers(user)] < _LEAVE_ONE_OUT_MINIMUM, TRAIN, span).astype(np.int8)


@dataclass(frozen=True)
class Bucket:
    """What the transform keeps of one bucket of shoppers."""

    interactions: pa.Table  # INTERACTION_COLUMNS, by shopper and time
    products: pa.Table  # item_id, first_seen (seconds or null), train_count, train_carts, train_purchases
    contexts: pa.Table  # feature, value, count, of the training span
    positions: pa.Table  # item_id, surface (or null), position, impressions, clicks, of the training span
    days: pa.Table  # see transform/day_counts.py; without rows where there is no clock
    sample: pa.Table  # see transform/day_sample.py; likewise
    counts: dict[str, int]


def build_bucket(table: pa.Table, rules: Rules) -> Bucket:
    """All the rules of this module, on the events of one bucket (columns: see `order_events`)."""
    every = order_events(table, rules.has_timestamps)
    repeated = repeated_events(every)
    events = every.take(~repeated)
    robots = robot_events(events.user, events.timestamp, rules.max_daily_events if rules.has_timestamps else 0)
    robot_count = len(run_starts(events.user[robots]))
    events = events.take(~robots)
    session = _sessions(events, rules)
    days = day_counts(events, session, every.timestamp[repeated]) if rules.has_timestamps else NO_DAYS
    sample = day_sample(events, session, rules.sampled_days)
    kept = np.isin(events.type, sorted(rules.history_types))
    bounced = kept & _bounced(events, session, rules)
    entering = kept & ~bounced
    history, session = events.take(entering), session[entering]
    by_time = span_numbers(history.timestamp, rules.cuts) if rules.cuts else np.zeros(len(history), np.int8)
    whole = collapse(history, session, basket_firsts(history, rules.has_timestamps), by_time)
    found = _of_length(whole, rules)
    if rules.cuts is None:
        found = replace(found, span=leave_one_out(found.user))
    positions = _position_table(events, found, rules)
    if not rules.has_timestamps:
        found = replace(found, timestamp=places_in_runs(found.user))
    counts = _event_counts(events, kept) | _span_counts(found)
    counts |= {
        "duplicates": int(repeated.sum()),
        "robots": int(robots.sum()),
        "robot_shoppers": robot_count,
        "bounces": int(bounced.sum()),
        "collapsed": len(history) - len(whole),
        "short_sessions": len(whole) - len(found),
        "interactions": len(found),
    }
    return Bucket(
        _interaction_table(events, found, table.column_names),
        _product_table(events, found, rules.has_timestamps),
        _context_table(events, found),
        positions,
        days,
        sample,
        counts,
    )


# What becomes of events that are no interaction of their own, by count.
DROPS = (
    "duplicates",
    "robots",
    "bounces",
    "impressions",
    "searches",
    "other_types",
    "collapsed",
    "short_sessions",
)


def _sessions(events: Events, rules: Rules) -> np.ndarray:
    """Session of each event, int64 [events]."""
    resets = np.isin(events.type, sorted(rules.session_resets))
    gap = rules.session_gap_seconds if rules.has_timestamps else None
    return session_numbers(events.user, events.session, events.timestamp, resets, gap)


def _bounced(events: Events, session: np.ndarray, rules: Rules) -> np.ndarray:
    """Bool [events]: a look that did not last."""
    if not (rules.min_dwell_seconds and rules.has_timestamps):
        return np.zeros(len(events), bool)
    looks = np.isin(events.type, (VIEW, CLICK))
    if rules.cuts is not None:
        # What comes after a cut would tell of what was before it.
        session = len(SPANS) * session + span_numbers(events.timestamp, rules.cuts)
    # NaN, an unknown time, is below nothing.
    return looks & (dwell_seconds(events.user, session, events.timestamp, events.type) < rules.min_dwell_seconds)


def _of_length(found: Interactions, rules: Rules) -> Interactions:
    """Interactions with sessions of the lengths that the rules allow."""
    if rules.max_session_length:
        pieces = divided_sessions(found.user, found.session, found.basket, rules.max_session_length)
        found = replace(found, session=pieces)
    if rules.min_session_length > 1:
        kept = session_lengths(found.user, found.session, found.span) >= rules.min_session_length
        found = Interactions(**{name: array[kept] for name, array in vars(found).items()})
        session = numbered_by_first(found.user, found.session)
        found = replace(found, session=session, basket=_dense(found.user, found.basket))
    return found


def _event_counts(events: Events, kept: np.ndarray) -> dict[str, int]:
    impressions, searches = events.type == IMPRESSION, events.type == SEARCH
    return {
        "impressions": int(impressions.sum()),
        "searches": int(searches.sum()),
        "other_types": int((~kept & ~impressions & ~searches).sum()),
        "shoppers": len(run_starts(events.user)),
    }


def _span_counts(found: Interactions) -> dict[str, int]:
    counts = {"users": len(run_starts(found.user))}
    for number, name in enumerate(SPANS):
        inside = found.user[found.span == number]
        counts |= {f"{name}_interactions": len(inside), f"{name}_users": len(run_starts(inside))}
    return counts


def _interaction_table(events: Events, found: Interactions, columns: list[str]) -> pa.Table:
    """Columns that the shop's events lack are left out."""
    arrays: dict[str, pa.Array] = {
        "user_id": _decoded(found.user, events.user_values),
        "item_id": _decoded(found.item, events.item_values),
    }
    for name in ("type", "label", "timestamp", "session", "basket", "span"):
        arrays[name] = pa.array(getattr(found, name))
    if "device" in columns:
        arrays["device"] = _decoded(found.device, events.device_values)
    if "region" in columns:
        arrays["region"] = _decoded(found.region, events.region_values)
    if "surface" in columns:
        arrays["surface"] = _decoded(found.surface, events.surface_values)
    for name in ("quantity", "price", "position", "propensity"):
        if name in columns:
            arrays[name] = pa.array(getattr(found, name))
    return pa.table(arrays)


def _decoded(codes: np.ndarray, values: pa.Array) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32(), mask=codes == _ABSENT), values)


def _product_table(events: Events, found: Interactions, has_timestamps: bool) -> pa.Table:
    count = len(events.item_values)
    named = events.item != _ABSENT
    first_seen = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first_seen, events.item[named], events.timestamp[named])
    training = found.span == TRAIN

    def interactions(labels: int) -> pa.Array:
        """Of each product in the training span, those that have one of the labels; -1 has every bit."""
        counted = found.item[training & (found.label & labels != 0)]
        return pa.array(np.bincount(counted, minlength=count), pa.int64())

    products = pa.table(
        {
            "item_id": events.item_values,
            "first_seen": pa.array(first_seen) if has_timestamps else pa.nulls(count, pa.int64()),
            "train_count": interactions(-1),
            "train_carts": interactions(1 << ADD_TO_CART),
            "train_purchases": interactions(1 << PURCHASE),
        }
    )
    # What only robots met is known to nobody.
    return products.filter(pa.array(np.bincount(events.item[named], minlength=count) > 0))


def _context_table(events: Events, found: Interactions) -> pa.Table:
    parts = []
    for name, values in (("device", events.device_values), ("region", events.region_values)):
        codes = getattr(found, name)[found.span == TRAIN]
        counts = np.bincount(codes[codes != _ABSENT], minlength=len(values))
        parts.append(
            pa.table({"feature": pa.array([name] * len(values), pa.string()), "value": values, "count": counts})
        )
    return pa.concat_tables(parts)


def _position_table(events: Events, found: Interactions, rules: Rules) -> pa.Table:
    """Impressions and clicks of the training span by product, surface and position, where a position is known.

    `found` still has the clock of `events`.
    """
    shown = (events.type == IMPRESSION) & (events.position > 0) & _in_training(events, found, rules)
    clicked = (found.span == TRAIN) & (found.position > 0)
    is_click = np.repeat([0, 1], [shown.sum(), clicked.sum()])
    keys = ("item", "surface", "position")
    columns = {name: np.concatenate([getattr(events, name)[shown], getattr(found, name)[clicked]]) for name in keys}
    rows = pa.table({**columns, "impressions": 1 - is_click, "clicks": is_click})
    counts = rows.group_by(list(keys)).aggregate([("impressions", "sum"), ("clicks", "sum")])
    return pa.table(
        {
            "item_id": _decoded(counts["item"].to_numpy(), events.item_values),
            "surface": _decoded(counts["surface"].to_numpy(), events.surface_values),
            "position": counts["position"],
            "impressions": counts["impressions_sum"],
            "clicks": counts["clicks_sum"],
        }
    )


def _in_training(events: Events, found: Interactions, rules: Rules) -> np.ndarray:
    """Bool [events]: what happened before the cut or, without one, before the first interaction held out."""
    if rules.cuts is not None:
        return events.timestamp < rules.cuts[0]
    last = np.full(len(events.user_values), np.iinfo(np.int64).min)
    in_span = found.span == TRAIN
    np.maximum.at(last, found.user[in_span], found.timestamp[in_span])
    held_out = np.zeros(len(last), bool)
    held_out[found.user[~in_span]] = True
    return ~held_out[events.user] | (events.timestamp <= last[events.user])
