"""The transform as one would write it by hand: Beam with one element per event. Only measured against, never used."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from transform.interactions import Rules
from transform.tables import EVENT_TYPES, FIRST

Event = dict[str, Any]


def interactions(events: Iterable[Event], rules: Rules) -> list[Event]:
    """One shopper's events to interactions, by the rules of transform/interactions.py, one event after the other."""
    ordered = list(_unique(sorted(events, key=lambda event: event["timestamp"])))
    _number_sessions(ordered, rules.session_gap_seconds)
    history = [event for event in ordered if EVENT_TYPES[event["type"]] in rules.history_types]
    _number_baskets(history, rules)
    merged = [_merged(run) for run in _runs(sorted(history, key=lambda event: event["arranged"]))]
    merged.sort(key=lambda one: one["place"])
    numbers = {name: number for number, name in enumerate(sorted({one["session"] for one in merged}))}
    return [{**one, "session": numbers[one["session"]]} for one in merged]


def _unique(events: Iterable[Event]) -> Iterator[Event]:
    seen = set()
    for event in events:
        values = tuple(tuple(value) if isinstance(value, list) else value for value in event.values())
        if values not in seen:
            seen.add(values)
            yield dict(event)


def _number_sessions(ordered: list[Event], gap_seconds: int) -> None:
    numbers: dict[Any, int] = {}
    pauses, last = 0, None
    for event in ordered:
        key = event["session"]
        if key is None:
            pauses += last is not None and event["timestamp"] - last > gap_seconds
            key, last = pauses, event["timestamp"]
        event["number"] = numbers.setdefault(key, len(numbers))


def _number_baskets(history: list[Event], rules: Rules) -> None:
    """The order in which runs are looked for, the order of the result, and the span of each event."""
    baskets: dict[Any, int] = {}
    products: dict[Any, int] = {}
    assert rules.cuts is not None
    for place, event in enumerate(history):
        basket = baskets.setdefault((event["timestamp"], event["order"]), place)
        product = products.setdefault((basket, event["item_id"]), place)
        event["arranged"] = (event["number"], basket, product)
        event["place"] = (basket, place)
        event["span"] = sum(event["timestamp"] >= cut for cut in rules.cuts)


def _runs(arranged: Iterable[Event]) -> Iterator[list[Event]]:
    run: list[Event] = []
    order = None
    for event in arranged:
        same = run and all(event[name] == run[-1][name] for name in ("number", "item_id", "span"))
        if run and (not same or (order is not None and event["order"] not in (None, order))):
            yield run
            run, order = [], None
        run.append(event)
        order = event["order"] or order
    if run:
        yield run


def _merged(run: list[Event]) -> Event:
    numbers = [EVENT_TYPES[event["type"]] for event in run]
    strongest = run[numbers.index(max(numbers))]
    return {
        "item_id": strongest["item_id"],
        "type": max(numbers),
        "label": sum({1 << number for number in numbers}),
        "timestamp": strongest["timestamp"],
        "session": strongest["number"],
        "span": strongest["span"],
        "place": strongest["place"],
    }


def _example(user: str, history: list[Event], rows: dict[str, int]) -> bytes:
    def integers(values: Iterable[int]) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    features = {
        "user_id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[user.encode()])),
        "rows": integers(rows[one["item_id"]] for one in history),
        "types": integers(one["type"] for one in history),
        "labels": integers(one["label"] for one in history),
        "timestamps": integers(one["timestamp"] for one in history),
        "sessions": integers(one["session"] for one in history),
        "train_end": integers([sum(one["span"] == 0 for one in history)]),
        "validation_end": integers([sum(one["span"] < 2 for one in history)]),
    }
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def plain_transform(events: Path, items: Path, output: Path, rules: Rules) -> None:
    """events.parquet → sequence TFRecords: group by shopper, order, sessionise, merge, split, number, write.

    `rules` holds the cuts of the split, which are not looked for here.
    """
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        everything = pipeline | beam.io.ReadFromParquet(str(events))
        listed = pipeline | "Items" >> beam.io.ReadFromParquet(str(items), columns=["item_id"])
        rows = (
            (everything, listed)
            | beam.Flatten()
            | beam.Map(lambda row: row["item_id"])
            | beam.Filter(lambda item: item is not None)
            | beam.combiners.Count.PerElement()
            | beam.Keys()
            | beam.combiners.ToList()
            | beam.Map(lambda ids: {item: row for row, item in enumerate(sorted(ids), start=FIRST)})
        )
        _ = (
            everything
            | beam.Map(lambda event: (event["user_id"], event))
            | beam.GroupByKey()
            | beam.MapTuple(lambda user, group: (user, interactions(group, rules)))
            | beam.Filter(lambda group: bool(group[1]))
            | beam.Map(lambda group, rows: _example(*group, rows), rows=beam.pvalue.AsSingleton(rows))
            | beam.io.WriteToTFRecord(str(output / "sequences"), file_name_suffix=".tfrecord")
        )
