"""The transform: canonical tables to validated TFRecords, in four Beam pipelines.

1. read: row groups → checked rows, spilled by bucket of shoppers (events) or whole (items); counts.
2. buckets: one bucket after another → interactions with their spans; when each product was first seen, how often taken.
3. content: products by catalogue row, spilled by shard; counts of their values.
4. write: shards → items TFRecords, buckets → sequences TFRecords and samples.

Elements are batches of columns and names of files; what one pipeline tells the next stands in files. Between them the
driver decides what needs all of the data: the cuts of the split, the rows of the catalogue, the vocabularies.
"""

import logging
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from protos.feature_schema_pb2 import FeatureSchema
from transform.arrow_files import (
    SpilledFile,
    joined,
    read_json,
    read_tables,
    replaced_when_whole,
    write_json,
    write_table,
)
from transform.beam_pipeline import beam_pipeline
from transform.catalogue import Catalogue, PartItems, WriteItems, make_catalogue, write_catalogue
from transform.checks import DataError, nearest, reason
from transform.clock import DAY, HOUR, MINUTE
from transform.config import TransformConfig
from transform.content import CONTEXTS, check_features, clock, context_features, item_features
from transform.content_faults import fault_sentences, picture_limits
from transform.day_counts import DAYS_FILE, merge_day_counts
from transform.day_sample import DAY_SAMPLE_FILE, day_shares, with_products
from transform.feature_schema import ITEM_IDS_FILE, VOCABULARY_FOLDER, write_schema, write_vocabulary
from transform.interactions import DROPS, SPANS, Rules
from transform.item_examples import ITEMS_PER_SHARD
from transform.manifests import MergeCounts, write_manifest, write_summary
from transform.positions import merge_positions, position_statistics, surface_vocabulary
from transform.read_report import Report
from transform.read_step import ReadStep, ReadTable, check_report
from transform.reading import DEAD_LETTERS, EventRows, ItemRows, write_dead_letters
from transform.sequences import BEFORE_WINDOW, BuildBuckets, SequenceTask, WriteSequences, bucket_files, sample_part
from transform.sources import Source, has_table, named_by_days, open_source
from transform.split import find_cuts, shown
from transform.tables import (
    DAYS_FOLDER,
    EVENT_TYPES,
    FIRST,
    IMPRESSION,
    POSITION_COUNTS_FILE,
    SEARCH,
    SURFACES_FILE,
)
from transform.vocabularies import merge_counts

logger = logging.getLogger(__name__)

SAMPLES = "samples"
STATISTICS_FILE = "statistics.json"
_SPILL = "tmp"
# A bucket of so many events takes some hundred megabytes while it is ordered, and some megabytes as sequences. Fewer
# buckets than the least would leave workers idle.
_EVENTS_PER_BUCKET = 500_000
_LEAST_BUCKETS = 16
# What becomes of good events that are no interaction of their own, by count: those before the window of days, beyond
# the cap, then by the rules.
_DROPS = (BEFORE_WINDOW, "over_cap", *DROPS)


@dataclass(frozen=True)
class _Places:
    """Folders of one run, and how many buckets they hold."""

    output: str
    buckets: int

    @property
    def spill(self) -> str:
        return FileSystems.join(self.output, _SPILL)

    @property
    def catalogue(self) -> str:
        return FileSystems.join(self.spill, "catalogue.arrow")

    @property
    def built(self) -> str:
        return FileSystems.join(self.spill, "buckets")

    def spilled(self, name: str) -> str:
        """Folder of one pipeline's spilled files."""
        return FileSystems.join(self.spill, name)

    def summary(self, name: str) -> str:
        """File in which one pipeline tells the driver what it found."""
        return FileSystems.join(self.spill, f"{name}.json")


def run_transform(data: Path, output: Path, config: TransformConfig, previous: Path | None = None) -> None:
    """Transforms the canonical tables in `data` into TFRecords, vocabularies, feature schema and statistics.

    All of it stands in `output` afterwards. The same tables and configuration give the same bytes, whatever the runner,
    the number of its workers, and the cut of the tables into files and row groups. The order of the events counts
    only among those of one shopper at the same second, of which the one that stands before the other came before it
    (files in the order of their names), and everywhere if they carry no times. Events that come day by day are read
    once: see transform/read_step.py.

    Args:
        data: folder of the canonical tables.
        output: of this transform.
        config: see there.
        previous: output of an earlier transform (perhaps of other data): what it read and kept is not read again.

    Raises:
        FileNotFoundError: the events table is not there.
        DataError: a table, too many of its rows, or the split is not as it must be; the message says what and where.
        RuntimeError: rows went missing inside the transform (in ≠ out + counted drops).
    """
    check_history_types(config.history_types)
    check_session_resets(config.session_resets)
    check_features(config)
    by_days = named_by_days(data, "events")
    incremental = by_days if config.incremental is None else config.incremental
    events = open_source(data, "events", apart=incremental)
    _check_times(data, events, by_days, config)
    items = open_source(data, "items") if has_table(data, "items") else None
    places = _Places(str(output), config.buckets or default_buckets(events.rows))
    _clear(output)
    read = _read(events, items, places, config, incremental, previous)
    reports = {name: table.report for name, table in read.items()} | ({} if items else {"items": Report()})
    rules = _rules(events, reports["events"], config)
    counts = _build_buckets(read["events"], places, rules, config)
    _account(reports["events"], counts, rules)
    if counts["over_cap"]:
        logger.warning(_over_cap(counts, config.max_events_per_shopper))
    product_files = read["items"].partitions() if items else {}
    catalogue, repeated = _catalogue(items, product_files, places, config)
    contexts = merge_counts([read_tables(_per_bucket(places, "contexts"))])
    schema = _content(catalogue, contexts, product_files, rules, places, config)
    positions = merge_positions(_per_bucket(places, "positions"), catalogue)
    surfaces = _write_positions(positions, places)
    _write_days(catalogue, places)
    _write(catalogue, schema, surfaces, counts, rules, places, config)
    _write_statistics(places, reports, counts, rules, catalogue, schema, contexts, positions, repeated)
    shutil.rmtree(places.spill)


def default_buckets(events: int) -> int:
    """Groups of shoppers for so many events; nothing else decides, so that every machine writes the same files."""
    # A power of two, because days that were parted into other groups have to be read again.
    return max(_LEAST_BUCKETS, 1 << (-(-events // _EVENTS_PER_BUCKET) - 1).bit_length())


def _check_times(data: Path, events: Source, by_days: bool, config: TransformConfig) -> None:
    """Raises DataError where the configuration needs times that the events do not carry.

    `by_days`: files of the events are named by the day on which they came.
    """
    timed = "timestamp" in events.columns
    if not timed and config.split.method == "time":
        raise DataError(
            f"{data}: the events have no column `timestamp`, so they cannot be split by time. "
            "Set transform.split.method to leave_one_out, or import the times."
        )
    if not timed and config.window_days is not None:
        raise DataError(
            f"transform.window_days: received {config.window_days}, but the events in {data} have no column "
            "`timestamp`, so that nothing tells which are new. Leave the key out, or import the times."
        )
    if not (timed and by_days) and config.late_days is not None:
        raise DataError(
            f"transform.late_days: received {config.late_days}, but when the events in {data} came is not known. Name "
            "their files by the day (events/2026-11-20.parquet, events/day=2026-11-20/…), with a column `timestamp`, "
            "or leave the key out."
        )


def check_history_types(names: tuple[str, ...]) -> None:
    """Raises DataError if `names` are not event types that may enter histories."""
    allowed = [name for name, number in EVENT_TYPES.items() if number not in (IMPRESSION, SEARCH)]
    rule = f"transform.history_types: must be some of {', '.join(allowed)}"
    if not names:
        raise DataError(f"{rule}, received none.")
    for name in names:
        if name not in allowed:
            raise DataError(f"{rule}, received {name!r}.{nearest(name, allowed)}")


def check_session_resets(names: tuple[str, ...]) -> None:
    """Raises DataError if `names` are not event types."""
    for name in names:
        if name not in EVENT_TYPES:
            raise DataError(
                f"transform.session_resets: must be some of {', '.join(EVENT_TYPES)}, received {name!r}."
                f"{nearest(name, list(EVENT_TYPES))}"
            )


def _clear(output: Path) -> None:
    """Removes what an attempt that was killed left behind."""
    for folder in (_SPILL, DAYS_FOLDER, DEAD_LETTERS, SAMPLES, VOCABULARY_FOLDER):
        shutil.rmtree(output / folder, ignore_errors=True)
    for file in (*output.glob("*.tfrecord"), *output.glob("*.partial")):
        file.unlink()


# --- 1. read


def _read(
    events: Source,
    items: Source | None,
    places: _Places,
    config: TransformConfig,
    incremental: bool,
    previous: Path | None,
) -> dict[str, ReadTable]:
    """Tables by name, after the bad rows have been judged."""
    output = Path(places.output)
    step = ReadStep(output, config.beam, places.spill)
    rows = EventRows(
        int(time.time()), config.max_future_hours * HOUR, places.buckets, config.history_types, config.late_days
    )
    step.add(events, rows, keep=incremental, previous=previous)
    if items:
        step.add(items, ItemRows(picture_limits(config)))
    read = step.run()
    for source in filter(None, (events, items)):
        check_report(source, read[source.name].report, config.max_bad_share, output / DEAD_LETTERS)
    if items:
        for sentence in fault_sentences(read["items"].report.faults):
            logger.warning("items: %s", sentence)
    if late := read["events"].report.late:
        sentence = f"{late:,} came more than transform.late_days = {config.late_days} days after they happened"
        if not read["events"].report.spilled:
            raise DataError(f"events: all {sentence}. Wait for more days, or name the files by the day they came on.")
        logger.warning("events: %s and are left out.", sentence)
    return read


def _rules(events: Source, report: Report, config: TransformConfig) -> Rules:
    by_time = config.split.method == "time"
    since = _window_start(report, config.window_days)
    within = report.minutes[report.minutes[:, 0] * MINUTE >= (since or 0)]
    minutes = {str(minute): count for minute, count in within.tolist()}
    # Of all types, as many as there are of those that enter histories.
    events_within = sum(report.types.values()) * int(within[:, 1].sum()) // max(int(report.minutes[:, 1].sum()), 1)
    return Rules(
        has_timestamps="timestamp" in events.columns,
        session_gap_seconds=config.session_gap_minutes * MINUTE,
        history_types=frozenset(EVENT_TYPES[name] for name in config.history_types),
        cuts=find_cuts(minutes, config.split) if by_time else None,
        session_resets=frozenset(EVENT_TYPES[name] for name in config.session_resets),
        max_daily_events=config.max_daily_events,
        min_dwell_seconds=config.min_dwell_seconds,
        max_session_length=config.max_session_length,
        min_session_length=config.min_session_length,
        sampled_days=day_shares(minutes, events_within, config.sample_day_events),
        since=since,
    )


def _window_start(report: Report, days: int | None) -> int | None:
    """Second at which the newest `days` days begin, the last one read included; None: everything counts."""
    if days is None or report.last_timestamp is None:
        return None
    return (report.last_timestamp // DAY - days + 1) * DAY


# --- 2. buckets


def _build_buckets(events: ReadTable, places: _Places, rules: Rules, config: TransformConfig) -> dict[str, int]:
    """Counts over all buckets, see transform/interactions.py."""
    spilled = [(int(partition), files) for partition, files in sorted(events.partitions(rules.since).items())]
    with beam_pipeline(config.beam, "Transform 2/4, ordering and splitting interactions") as pipeline:
        _ = (
            pipeline
            | "Buckets" >> beam.Create(spilled)
            | "Build buckets" >> beam.ParDo(BuildBuckets(rules, places.built, config.max_events_per_shopper))
            | "Sum counts" >> beam.CombineGlobally(MergeCounts())
            | "Write counts" >> beam.Map(write_summary, places.summary("buckets"))
        )
    counts: dict[str, int] = read_json(places.summary("buckets"))
    counts[BEFORE_WINDOW] += events.rows_before(rules.since)
    return counts


def _account(report: Report, counts: dict[str, int], rules: Rules) -> None:
    """Nothing is lost, and every span has something in it."""
    accounted = counts["interactions"] + sum(counts[name] for name in _DROPS)
    found = counts["events"] + counts[BEFORE_WINDOW]
    if found != report.spilled or accounted != report.spilled:
        raise RuntimeError(
            f"events were lost: {report.spilled} good ones read, {found} found in buckets, {accounted} "
            f"accounted for ({', '.join(f'{name} {counts[name]}' for name in ('interactions', *_DROPS))})."
        )
    if not counts["interactions"]:
        raise DataError(
            "the events table has no event that enters histories; it has "
            + ", ".join(f"{count:,} of type {name}" for name, count in sorted(report.types.items()))
            + ". Check transform.history_types."
        )
    for span in SPANS:
        if not counts[f"{span}_interactions"]:
            raise DataError(_empty_span(span, report, counts, rules))


def _over_cap(counts: dict[str, int], most: int) -> str:
    return (
        f"events: {counts['shoppers_over_cap']:,} shoppers with more than {most:,} events each; "
        f"the newest are kept, {counts['over_cap']:,} older ones are left out. Crawlers and names that many share look "
        "like this: leave them out of the events, or change transform.max_events_per_shopper."
    )


def _empty_span(span: str, report: Report, counts: dict[str, int], rules: Rules) -> str:
    if rules.cuts is None:
        return (
            f"the {span} span is empty: leave-one-out holds out the last two interactions of shoppers who have at "
            f"least three, and none of the {counts['users']:,} shoppers has. Use more data, or split by time."
        )
    validation, test = rules.cuts
    first, last = report.first_timestamp or 0, report.last_timestamp or 0
    return (
        f"the {span} span is empty: the events go from {shown(first)} to {shown(last)}, validation begins at "
        f"{shown(validation)} and the test at {shown(test)}. Change transform.split.validation_start, test_start or "
        "their shares so that training, validation and test each get events."
    )


# --- 3. content


def _catalogue(
    items: Source | None, files: dict[str, list[SpilledFile]], places: _Places, config: TransformConfig
) -> tuple[Catalogue, int]:
    """The catalogue, kept for the workers, and how many rows of the items table repeat an id."""
    products = read_tables(_per_bucket(places, "products"))
    key_files = files.get("keys", [])
    keys = (
        joined([file.read() for file in key_files])
        if key_files
        else pa.table({"item_id": pa.array([], pa.string()), "row": pa.array([], pa.int64())})
    )
    catalogue = make_catalogue(products, keys, config.min_item_count)
    write_catalogue(places.catalogue, catalogue)
    write_vocabulary(Path(places.output) / VOCABULARY_FOLDER / ITEM_IDS_FILE, catalogue.item_ids.to_pylist())
    repeated = keys.num_rows - int(catalogue.listed.sum())
    if items and repeated:
        _write_repeated(items, keys, catalogue, places)
    return catalogue, repeated


def _per_bucket(places: _Places, kind: str) -> list[str]:
    """Files of one kind of all buckets that have shoppers."""
    files = (getattr(bucket_files(places.built, number), kind) for number in range(places.buckets))
    return [file for file in files if FileSystems.exists(file)]


def _write_repeated(items: Source, keys: pa.Table, catalogue: Catalogue, places: _Places) -> None:
    """Products whose id stands in the items table before, in another batch than the one that was checked."""
    rows, ids = keys["row"].to_numpy(), keys["item_id"]
    first = catalogue.source_row[catalogue.rows(ids.combine_chunks()) - FIRST]
    letters = []
    for place in np.flatnonzero(rows != first).tolist():
        item_id = ids[place].as_py()
        group = max((group for group in items.groups if group.first_row <= rows[place]), key=lambda g: g.first_row)
        letters.append(
            {
                "file": group.path,
                "row": int(rows[place]) - group.first_row + group.first_row_in_file,
                "reason": reason("item_id", "must occur once in the table", item_id),
                "item_id": item_id,
            }
        )
    letters.sort(key=lambda letter: (letter["file"], letter["row"]))
    write_dead_letters(FileSystems.join(places.output, DEAD_LETTERS, "items-repeated.jsonl"), letters)


def _content(
    catalogue: Catalogue,
    contexts: pa.Table,
    products: dict[str, list[SpilledFile]],
    rules: Rules,
    places: _Places,
    config: TransformConfig,
) -> FeatureSchema:
    """Vocabularies and the feature schema, both written; products are spilled by shard."""
    rows = [file.path for file in products.get("rows", [])]
    files: dict[str, list[str]] = {}
    if rows:
        known_before = rules.cuts[0] if rules.cuts else None
        part = PartItems(places.catalogue, places.spilled("content"), known_before, config)
        with beam_pipeline(config.beam, f"Transform 3/4, content of {len(catalogue):,} products") as pipeline:
            spilled = pipeline | "Products" >> beam.Create(rows) | "Part products" >> beam.ParDo(part)
            write_manifest(spilled, "content", places.summary("content-files"))
        files = read_json(places.summary("content-files"))
    write_json(places.summary("content-files"), files)
    schema = FeatureSchema(
        catalogue_size=len(catalogue) + FIRST,
        id_embedding_size=int(catalogue.id_row.max()) + 1,
        has_timestamps=rules.has_timestamps,
        item=item_features(files, Path(places.output), config),
        context=context_features(contexts, Path(places.output), config),
        clock=clock(config),
    )
    write_schema(Path(places.output), schema)
    return schema


# --- 4. write


def _write_positions(positions: pa.Table, places: _Places) -> tuple[str, ...]:
    """Counts by position and the vocabulary of surfaces, both written; returns the vocabulary."""
    write_table(FileSystems.join(places.output, POSITION_COUNTS_FILE), positions)
    surfaces = surface_vocabulary(positions)
    write_vocabulary(Path(places.output) / VOCABULARY_FOLDER / SURFACES_FILE, surfaces)
    return tuple(surfaces)


def _write_days(catalogue: Catalogue, places: _Places) -> None:
    """Counts of each day, and events drawn of the newest days."""
    write_table(FileSystems.join(places.output, DAYS_FILE), merge_day_counts(_per_bucket(places, "days")))
    drawn = with_products(read_tables(_per_bucket(places, "sample")), catalogue)
    write_table(FileSystems.join(places.output, SAMPLES, DAY_SAMPLE_FILE), drawn)


def _write(
    catalogue: Catalogue,
    schema: FeatureSchema,
    surfaces: tuple[str, ...],
    counts: dict[str, int],
    rules: Rules,
    places: _Places,
    config: TransformConfig,
) -> None:
    """TFRecords of items, sequences and samples."""
    shards = -(-len(catalogue) // ITEMS_PER_SHARD)
    files = read_json(places.summary("content-files"))
    sizes = [counts[f"{span}_interactions"] for span in SPANS]
    task = SequenceTask(
        catalogue_path=places.catalogue,
        folder=places.built,
        output=places.output,
        buckets=places.buckets,
        has_timestamps=rules.has_timestamps,
        surfaces=surfaces,
        sample_shares=tuple(min(1.0, config.sample_events / size) for size in sizes),
    )
    write_items = WriteItems(places.catalogue, places.output, shards, schema)
    label = f"Transform 4/4, writing {counts['users']:,} sequences and {len(catalogue):,} products"
    with beam_pipeline(config.beam, label) as pipeline:
        _ = (
            pipeline
            | "Shards" >> beam.Create([(number, files.get(f"{number:05d}", [])) for number in range(shards)])
            | "Write items" >> beam.ParDo(write_items)
        )
        _ = (
            pipeline
            | "Bucket numbers" >> beam.Create(list(range(places.buckets)))
            | "Write sequences" >> beam.ParDo(WriteSequences(task, schema))
        )
    for number, span in enumerate(SPANS):
        parts = (sample_part(places.built, number, bucket) for bucket in range(places.buckets))
        _join(parts, FileSystems.join(places.output, SAMPLES, f"events-{span}.tfrecord"))


def _join(parts: Iterable[str], path: str) -> None:
    """TFRecord files end to end, those that exist."""
    with replaced_when_whole(path) as joined:
        for part in parts:
            if FileSystems.exists(part):
                with FileSystems.open(part) as file:
                    shutil.copyfileobj(file, joined)


def _write_statistics(
    places: _Places,
    reports: dict[str, Report],
    counts: dict[str, int],
    rules: Rules,
    catalogue: Catalogue,
    schema: FeatureSchema,
    contexts: pa.Table,
    positions: pa.Table,
    repeated_items: int,
) -> None:
    """Exact counts of what was read, dropped and written."""
    events, items = reports["events"], reports["items"]
    validation, test = rules.cuts or (None, None)
    kept = (*_DROPS, "robot_shoppers", "interactions", "shoppers", "shoppers_over_cap", "users")
    statistics = {
        "rows_read": events.rows,
        "rejected": events.rejected,
        "late": events.late,
        "window_start": rules.since,
        **{name: counts[name] for name in kept},
        "event_types": events.types,
        "first_timestamp": events.first_timestamp,
        "last_timestamp": events.last_timestamp,
        "has_timestamps": rules.has_timestamps,
        "split": {
            "method": "time" if rules.cuts else "leave_one_out",
            "validation_start": validation,
            "test_start": test,
        },
        "spans": {
            span: {"interactions": counts[f"{span}_interactions"], "users": counts[f"{span}_users"]} for span in SPANS
        },
        "items_rows_read": items.rows,
        "items_rejected": items.rejected,
        "items_faults": items.faults,
        "items_repeated": repeated_items,
        "items_catalogue": int(catalogue.listed.sum()),
        "items_in_events": int(catalogue.in_events.sum()),
        "items_only_in_events": int((~catalogue.listed).sum()),
        "id_embedding_rows": schema.id_embedding_size,
        "context_counts": {name: _context_counts(contexts, name) for name in CONTEXTS},
        "positions": position_statistics(positions),
    }
    write_json(FileSystems.join(places.output, STATISTICS_FILE), statistics, indent=2)


def _context_counts(contexts: pa.Table, name: str) -> dict[str, int]:
    """Training interactions by value of one context feature."""
    chosen = contexts.filter(pc.equal(contexts["feature"], name))
    return dict(zip(chosen["value"].to_pylist(), chosen["count"].to_pylist(), strict=True))
