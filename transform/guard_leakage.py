"""Guards against knowledge of the future: what the models may learn from must come from the training span alone.

Checked on what the transform wrote, not on how: the counts of products and of contexts against the sequences' own
spans, the order of times and spans in the sequences, and the vocabularies against the training counts.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transform.arrow_files import read_table
from transform.data_statistics import decode, records
from transform.feature_schema import VOCABULARY_FOLDER, read_schema, read_vocabulary
from transform.findings import Anomaly, found
from transform.tables import FIRST, POSITION_COUNTS_FILE

_SEQUENCES = "sequences"
# Records read at a time, and sequences looked at in all.
_READ, _MOST_SEQUENCES = 2_048, 50_000


def check_leakage(transform_dir: Path, most_items: int) -> list[Anomaly]:
    """Findings where something that models learn from knows what happened after the training span.

    The training counts of a catalogue of more than `most_items` products are not added up.
    """
    statistics = json.loads((transform_dir / "statistics.json").read_text(encoding="utf-8"))
    return [
        *_sequence_findings(transform_dir, statistics),
        *_count_findings(transform_dir, statistics, most_items),
        *_vocabulary_findings(transform_dir, statistics),
    ]


def _sequence_findings(transform_dir: Path, statistics: dict[str, Any]) -> Iterator[Anomaly]:
    """Times in order, and every interaction on its side of the cuts."""
    split = statistics["split"]
    if split["method"] != "time":
        return
    cuts = split["validation_start"], split["test_start"]
    for batch in _sequences(transform_dir, statistics["users"]):
        lists = batch.column("timestamps")
        times, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
        users = np.repeat(np.arange(len(lists)), np.diff(offsets))
        place = np.arange(len(times)) - offsets[:-1][users]
        ends = [batch.column(name).values.to_numpy()[users] for name in ("train_end", "validation_end")]
        span = (place >= ends[0]).astype(np.int8) + (place >= ends[1])
        for name, wrong in (
            ("timestamps", (np.diff(times, prepend=times[:1]) < 0) & (place > 0)),
            ("train_end", span != np.searchsorted(cuts, times, side="right")),
        ):
            if wrong.any():
                first = batch.column("user_id")[int(users[np.argmax(wrong)])].as_py()[0].decode()
                text = (
                    f"{int(wrong.sum()):,} interactions stand in the span of another time than their own, first of "
                    f"shopper {first!r}: the models would learn from what they are asked for."
                )
                yield found(_SEQUENCES, name, "LEAK", text)
                return


def _sequences(transform_dir: Path, users: int) -> Iterator[pa.RecordBatch]:
    """Sequences evenly drawn, some at a time."""
    held: list[bytes] = []
    files = sorted(transform_dir.glob("sequences-*.tfrecord"))
    for record in records(files, max(1, -(-users // _MOST_SEQUENCES))) if files else ():
        held.append(record)
        if len(held) == _READ:
            yield decode(held)
            held = []
    if held:
        yield decode(held)


def _count_findings(transform_dir: Path, statistics: dict[str, Any], most_items: int) -> Iterator[Anomaly]:
    """Counts that are features add up to the training span's interactions."""
    training = statistics["spans"]["train"]["interactions"]
    if statistics["items_catalogue"] + statistics["items_only_in_events"] <= most_items:
        counted = _train_counts(transform_dir)
    else:
        counted = training
    if counted != training:
        text = (
            f"The training counts of all products add up to {counted:,}, but the training span has {training:,} "
            "interactions: popularity would tell of others."
        )
        yield found("items", "train_count", "LEAK", text)
    for name, counts in statistics["context_counts"].items():
        if sum(counts.values()) > training:
            total = sum(counts.values())
            text = f"The counts by {name} add up to {total:,}, more than {training:,} training interactions."
            yield found("train", name, "LEAK", text)
    positions = transform_dir / POSITION_COUNTS_FILE
    clicks = pc.sum(read_table(str(positions))["clicks"]).as_py() if positions.is_file() else 0
    if (clicks or 0) > training:
        text = f"The clicks by position add up to {clicks:,}, more than {training:,} training interactions."
        yield found("train", "position", "LEAK", text)


def _train_counts(transform_dir: Path) -> int:
    """Sum over the catalogue."""
    total = 0
    held: list[bytes] = []
    files = sorted(transform_dir.glob("items-*.tfrecord"))
    for record in records(files, 1):
        held.append(record)
        if len(held) == _READ:
            total += _sum(held)
            held = []
    return total + (_sum(held) if held else 0)


def _sum(examples: list[bytes]) -> int:
    return int(pc.sum(decode(examples).column("train_count").values).as_py() or 0)


def _vocabulary_findings(transform_dir: Path, statistics: dict[str, Any]) -> Iterator[Anomaly]:
    """Words that a model has a row for have been seen in training."""
    for feature in read_schema(transform_dir).context:
        words = read_vocabulary(transform_dir / VOCABULARY_FOLDER / feature.vocabulary)[FIRST:]
        unseen = [word for word in words if not statistics["context_counts"][feature.name].get(word)]
        if unseen:
            text = f"{len(unseen):,} values of the vocabulary, first {unseen[0]!r}, have no training interaction."
            yield found("train", feature.name, "LEAK", text)
