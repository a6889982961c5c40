"""The rules of transform/interactions.py written one event after the other, to hold the columnar ones against."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from transform.clock import DAY
from transform.interactions import Rules
from transform.tables import CLICK, EVENT_TYPES, IMPRESSION, SEARCH, VIEW

Row = dict[str, Any]
# An empty text in one of these says nothing, as a missing one does.
_TEXTS = ("session", "order", "device", "region", "surface")


@dataclass
class Expected:
    """What becomes of a log of good events."""

    # In the order of the TFRecords: user_id, item_id, type, label, timestamp, session, basket, span, device, region,
    # quantity, price, surface, position.
    interactions: list[Row] = field(default_factory=list)
    # `DROPS` of transform/interactions.py, and interactions.
    counts: Counter[str] = field(default_factory=Counter)
    # Every event but copies and those of robots, with its number as `type`.
    events: list[Row] = field(default_factory=list)

    @property
    def training(self) -> list[Row]:
        """Interactions of the training span."""
        return [row for row in self.interactions if row["span"] == 0]


def expected(rows: list[Row], rules: Rules) -> Expected:
    """Interactions and counts of `rows`, canonical events in the order of the source."""
    found = Expected()
    numbered = [
        {**row, **{name: row.get(name) or None for name in _TEXTS}, "type": EVENT_TYPES[row["type"]], "row": place}
        for place, row in enumerate(rows)
    ]
    for user in sorted({row["user_id"] for row in rows}, key=str.encode):
        events = [row for row in numbered if row["user_id"] == user]
        if rules.has_timestamps:
            events.sort(key=lambda row: (row["timestamp"], row["row"]))
        else:
            events = [{**row, "timestamp": place} for place, row in enumerate(events)]
        unique = _without_copies(events)
        found.counts["duplicates"] += len(events) - len(unique)
        if _is_robot(unique, rules):
            found.counts["robots"] += len(unique)
            continue
        found.events += unique
        found.interactions += _of_shopper(unique, rules, found.counts)
    return found


def _of_shopper(events: list[Row], rules: Rules, counts: Counter[str]) -> list[Row]:
    _number_sessions(events, rules)
    history = [row for row in events if row["type"] in rules.history_types]
    entering = [row for row in history if not _bounces(row, events, rules)]
    merged = _merged(entering, rules)
    _divide(merged, rules.max_session_length)
    keys = [(row["session"], row["span"]) for row in merged]
    kept = [row for row, key in zip(merged, keys, strict=True) if keys.count(key) >= rules.min_session_length]
    sessions, baskets = list(dict.fromkeys(row["session"] for row in kept)), sorted({row["basket"] for row in kept})
    for row in kept:
        row["session"], row["basket"] = sessions.index(row["session"]), baskets.index(row["basket"])
    for place, row in enumerate(kept):
        row["timestamp"] = row["clock"] if rules.has_timestamps else place
        row["span"] = row["span"] if rules.cuts else _leave_one_out(place, len(kept))
    impressions = sum(row["type"] == IMPRESSION for row in events)
    searches = sum(row["type"] == SEARCH for row in events)
    counts.update(
        impressions=impressions,
        searches=searches,
        other_types=len(events) - len(history) - impressions - searches,
        bounces=len(history) - len(entering),
        collapsed=len(entering) - len(merged),
        short_sessions=len(merged) - len(kept),
        interactions=len(kept),
    )
    return kept


def positions(found: Expected, rules: Rules) -> Counter[tuple[Any, ...]]:
    """(item_id, surface, position, "impressions" or "clicks") → how often in the training span."""
    counts: Counter[tuple[Any, ...]] = Counter()
    for row in found.training:
        if row["position"]:
            counts[row["item_id"], row["surface"], row["position"], "clicks"] += 1
    held_out = {row["user_id"] for row in found.interactions if row["span"]}
    last = {row["user_id"]: row["clock"] for row in found.training}
    for event in found.events:
        user, time = event["user_id"], event["timestamp"]
        before = time < rules.cuts[0] if rules.cuts else user not in held_out or time <= last.get(user, -1)
        if event["type"] == IMPRESSION and event.get("position") and before:
            counts[event["item_id"], event["surface"], event["position"], "impressions"] += 1
    return counts


def _is_robot(events: list[Row], rules: Rules) -> bool:
    times = [row["timestamp"] for row in events]
    most = max(sum(0 <= other - time < DAY for other in times) for time in times)
    return rules.has_timestamps and 0 < rules.max_daily_events < most


def _bounces(row: Row, events: list[Row], rules: Rules) -> bool:
    later = [other for other in events[events.index(row) + 1 :] if other["type"] != IMPRESSION]
    following = [other for other in later if other["session_number"] == row["session_number"]]
    following = [other for other in following if _span(other, rules) == _span(row, rules)]
    if not (rules.has_timestamps and following and row["type"] in (VIEW, CLICK)):
        return False
    return bool(following[0]["timestamp"] - row["timestamp"] < rules.min_dwell_seconds)


def _divide(merged: list[Row], longest: int) -> None:
    """Numbers the sessions anew: parts of at most `longest` interactions, a basket in the part where it begins."""
    places: Counter[int] = Counter()
    for row in merged:
        begin = next(other for other in merged if other["basket"] == row["basket"])
        part = places[row["session"]] // longest if longest else 0
        row["part"] = row["session"], part if begin["session"] != row["session"] or begin is row else begin["part"][1]
        places[row["session"]] += 1
    parts = list(dict.fromkeys(row["part"] for row in merged))
    if longest:
        for row in merged:
            row["session"] = parts.index(row["part"])


def _without_copies(events: list[Row]) -> list[Row]:
    unique: list[Row] = []
    for row in events:
        if all({**row, "row": 0} != {**other, "row": 0} for other in unique):
            unique.append(row)
    return unique


def _number_sessions(events: list[Row], rules: Rules) -> None:
    named: dict[str, int] = {}
    count, last, unnamed = 0, None, None
    for row in events:
        if row["session"] is not None:
            if row["session"] not in named:
                named[row["session"]], count = count, count + 1
            row["session_number"] = named[row["session"]]
            continue
        gap = rules.has_timestamps and last is not None and row["timestamp"] - last > rules.session_gap_seconds
        if last is None or gap or row["type"] in rules.session_resets:
            unnamed, count = count, count + 1
        row["session_number"], last = unnamed, row["timestamp"]


def _merged(history: list[Row], rules: Rules) -> list[Row]:
    def basket(row: Row) -> tuple[Any, ...]:
        if rules.has_timestamps:
            return row["timestamp"], row["order"]
        return (row["order"], None) if row["order"] else (None, row["row"])

    def first(row: Row, same: Any) -> int:
        return next(place for place, other in enumerate(history) if same(row) == same(other))

    def key(row: Row) -> tuple[int, ...]:
        in_basket = first(row, lambda other: (basket(other), other["item_id"]))
        return row["session_number"], first(row, basket), in_basket, row["row"]

    groups: list[list[Row]] = []
    for row in sorted(history, key=key):
        before = groups[-1] if groups else []
        orders = [other["order"] for other in before if other["order"] is not None]
        joins = (
            before
            and (before[-1]["session_number"], before[-1]["item_id"]) == (row["session_number"], row["item_id"])
            and _span(before[-1], rules) == _span(row, rules)
            and (row["order"] is None or not orders or orders[-1] == row["order"])
        )
        if joins:
            before.append(row)
        else:
            groups.append([row])
    chosen = [(max(group, key=lambda row: row["type"]), group) for group in groups]
    chosen.sort(key=lambda pair: (first(pair[0], basket), history.index(pair[0])))
    return [
        {
            **_interaction(row, group),
            "clock": row["timestamp"],
            "session": row["session_number"],
            "basket": first(row, basket),
            "span": _span(row, rules),
        }
        for row, group in chosen
    ]


def _interaction(row: Row, group: list[Row]) -> Row:
    way_in = next((other for other in group if other.get("position")), row)
    pieces = [other.get("quantity") for other in group if other["type"] == row["type"]]
    return {
        **{name: row.get(name) for name in ("user_id", "item_id", "type", "device", "region", "price")},
        "label": sum({1 << other["type"] for other in group}),
        "quantity": float(sum(1 if piece is None else piece for piece in pieces)),
        "surface": way_in["surface"],
        "position": way_in.get("position") or 0,
    }


def _span(row: Row, rules: Rules) -> int:
    return sum(row["timestamp"] >= cut for cut in rules.cuts) if rules.cuts else 0


def _leave_one_out(place: int, count: int) -> int:
    return 0 if count < 3 else max(0, place - count + 3)
