"""The transform as one would write it by hand: Beam with one element per event. Only measured against, never used."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from transform.tables import EVENT_TYPES, FIRST

Event = dict[str, Any]


def interactions(events: Iterable[Event], gap_seconds: int) -> Iterator[Event]:
    """One shopper's events in order, sessions marked, repeats on one product within a session merged."""
    session, previous = 0, None
    for event in sorted(events, key=lambda event: (event["timestamp"], event["position_in_file"])):
        number = EVENT_TYPES[event["type"]]
        if previous is not None:
            same = event["session"] is not None and event["session"] == previous["shop_session"]
            if not same and (event["session"] or event["timestamp"] - previous["last"] > gap_seconds):
                session += 1
            elif event["item_id"] == previous["item_id"]:
                previous["type"] = max(previous["type"], number)
                previous["last"] = event["timestamp"]
                continue
            yield previous
        previous = {
            "item_id": event["item_id"],
            "type": number,
            "timestamp": event["timestamp"],
            "last": event["timestamp"],
            "shop_session": event["session"],
            "session": session,
        }
    if previous is not None:
        yield previous


def _example(user: str, history: list[Event], rows: dict[str, int]) -> bytes:
    def integers(values: Iterable[int]) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    features = {
        "user_id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[user.encode()])),
        "rows": integers(rows[one["item_id"]] for one in history),
        "types": integers(one["type"] for one in history),
        "timestamps": integers(one["timestamp"] for one in history),
        "sessions": integers(one["session"] for one in history),
    }
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def plain_transform(events: Path, output: Path, history_types: frozenset[str], gap_minutes: int) -> None:
    """events.parquet → sequence TFRecords: filter, group by shopper, order, sessionise, merge, number, write."""
    columns = ["user_id", "item_id", "type", "timestamp", "session"]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        kept = (
            pipeline
            | beam.io.ReadFromParquet(str(events), columns=columns)
            | beam.Filter(lambda event: event["type"] in history_types)
            | beam.Map(lambda event: {**event, "position_in_file": 0})
        )
        rows = (
            kept
            | beam.Map(lambda event: event["item_id"])
            | beam.combiners.Count.PerElement()
            | beam.Keys()
            | beam.combiners.ToList()
            | beam.Map(lambda ids: {item: row for row, item in enumerate(sorted(ids), start=FIRST)})
        )
        (
            kept
            | beam.Map(lambda event: (event["user_id"], event))
            | beam.GroupByKey()
            | beam.MapTuple(lambda user, group: (user, list(interactions(group, gap_minutes * 60))))
            | beam.Map(lambda group, rows: _example(*group, rows), rows=beam.pvalue.AsSingleton(rows))
            | beam.io.WriteToTFRecord(str(output / "plain"), file_name_suffix=".tfrecord")
        )
