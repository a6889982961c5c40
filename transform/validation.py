"""Guards the transform's output: statistics, one reviewed schema, drift, volume by day, leaks of the future.

Two things are asked. Does the run's own data hold together: do examples and products fit the schema
(transform/data_schema.py), do later spans resemble the training span, does nothing know the future
(transform/guard_leakage.py)? And does it resemble what the last blessed run saw: each new day by exact counts
(transform/guard_days.py), new days, spans and products by their distributions (transform/guard_drift.py), the
catalogue as a whole (transform/guard_catalogue.py)? Rules, severities and sentences: transform/findings.py.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from transform.arrow_files import read_table
from transform.baseline import PROFILE, Profile, all_item_ids, drawn_item_ids, read_profile
from transform.config import ValidateConfig
from transform.data_schema import check_schema, kept_schema
from transform.data_statistics import (
    EVENTS,
    ITEMS,
    Statistics,
    common,
    event_statistics,
    item_statistics,
    sliced_statistics,
    span_statistics,
)
from transform.day_counts import DAYS_FILE
from transform.day_sample import DAY_SAMPLE_FILE
from transform.days_compared import DayCounts, day_split, events_by_day
from transform.findings import STOP, WARN, Anomaly, check_rule_names, date, day_name, judge, judged
from transform.guard_catalogue import check_catalogue, check_rejected
from transform.guard_days import check_days
from transform.guard_drift import AMOUNTS, Limits, drift
from transform.guard_leakage import check_leakage
from transform.interactions import SPANS
from transform.statistics_page import write_page

logger = logging.getLogger(__name__)

SUMMARY_FILE, ANOMALIES_FILE = "summary.json", "anomalies.json"
_TRAIN = SPANS[0]


@dataclass
class _Results:
    """What has been found so far."""

    anomalies: list[Anomaly] = field(default_factory=list)
    # By dataset and feature: from the training span, and from the last blessed run (or the days before).
    drift: dict[str, dict[str, float]] = field(default_factory=dict)
    change: dict[str, dict[str, float]] = field(default_factory=dict)

    def add_change(self, dataset: str, found: tuple[list[Anomaly], dict[str, float]]) -> None:
        """Takes what `drift` gives."""
        self.anomalies += found[0]
        self.change[dataset] = found[1]


@dataclass(frozen=True)
class _Run:
    """What is known of the run's data."""

    transform_dir: Path
    counts: dict[str, Any]  # statistics.json of the transform
    sample: pa.Table
    profile: Profile
    config: ValidateConfig

    @property
    def statistics(self) -> dict[str, Statistics]:
        """Those of the spans and products."""
        return {name: self.profile.statistics[name] for name in (*SPANS, ITEMS)}


def run_validation(
    transform_dir: Path,
    schema_dir: Path,
    output: Path,
    config: ValidateConfig,
    log_dir: Path,
    baseline: Path | None = None,
) -> None:
    """Checks what the transform wrote against the schema in `schema_dir` and the blessed run in `baseline`.

    Where `schema_dir` has no schema yet, it is inferred from the training span and written there, to be reviewed by a
    person and kept. `baseline` is the profile of the last blessed run; without one, the newest days are compared with
    those before them, and what is found of them warns. `output` gets statistics.html, anomalies.json, summary.json and
    the run's own profile, `log_dir` TensorBoard events.

    Raises:
        FileNotFoundError: the transform's output is not there.
        GuardError: a finding that stops the run.
        DataError: an unreadable schema or profile, or a severity of an unknown rule.
    """
    check_rule_names(dict(config.severity))
    output.mkdir(parents=True, exist_ok=True)
    blessed = read_profile(baseline) if baseline else None
    run = _read_run(transform_dir, config)
    run.profile.write(output / PROFILE)
    write_page(output / "statistics.html", run.profile.statistics)
    results = _Results()
    _check_spans(run, schema_dir, results)
    days = day_split(run.profile.days, blessed and blessed.days, config.newest_days, config.max_volume_change)
    results.anomalies += check_days(days, config)
    _check_new_days(run, days, blessed, results)
    if blessed:
        _check_blessed(run, days, blessed, results)
    results.anomalies += check_leakage(transform_dir, config.sample_items)
    results.anomalies = judged(results.anomalies, dict(config.severity), blessed is not None)
    _write_results(output, run, days, results, schema_dir, baseline)
    _log(log_dir, run, days, results)
    judge(results.anomalies)


def _read_run(transform_dir: Path, config: ValidateConfig) -> _Run:
    statistics = {span: span_statistics(transform_dir, span) for span in SPANS}
    statistics[ITEMS] = item_statistics(transform_dir, config.sample_items)
    counts = json.loads((transform_dir / "statistics.json").read_text(encoding="utf-8"))
    sample = read_table(str(transform_dir / "samples" / DAY_SAMPLE_FILE))
    for name, found in sliced_statistics(sample, config.sample_events).items():
        statistics[_of_slice(EVENTS, name)] = found
    facts = {
        "rows_read": counts["rows_read"],
        "rejected": sum(counts["rejected"].values()),
        "items": counts["items_catalogue"],
    }
    days = read_table(str(transform_dir / DAYS_FILE))
    return _Run(transform_dir, counts, sample, Profile(days, statistics, drawn_item_ids(transform_dir), facts), config)


def _of_slice(dataset: str, name: str) -> str:
    return f"{dataset}, {name}" if name else dataset


def _check_spans(run: _Run, schema_dir: Path, results: _Results) -> None:
    """Examples and products by the schema, later spans by the training span."""
    schemas = {
        name: (kept_schema(file, run.statistics[first]), file)
        for name, first, file in (
            (EVENTS, _TRAIN, schema_dir / "events.pbtxt"),
            (ITEMS, ITEMS, schema_dir / "items.pbtxt"),
        )
    }
    for name, statistics in run.statistics.items():
        schema, file = schemas[ITEMS if name == ITEMS else EVENTS]
        training = run.statistics[_TRAIN] if name in SPANS and name != _TRAIN else None
        anomalies, distances = check_schema(name, statistics, schema, file, training, run.config.max_drift)
        results.anomalies += anomalies
        results.drift[name] = distances


def _check_new_days(run: _Run, days: DayCounts, blessed: Profile | None, results: _Results) -> None:
    """Each new day by all its events, all new days together by slice."""
    if not run.sample.num_rows or not days.new_days:
        return
    is_new = pc.is_in(run.sample["day"], value_set=pa.array(days.new_days, pa.int32()))
    new = run.sample.filter(is_new)
    before = (
        {name: found for name, found in blessed.statistics.items() if name.startswith(EVENTS)}
        if blessed
        else _named(EVENTS, sliced_statistics(run.sample.filter(pc.invert(is_new)), run.config.sample_events))
    )
    if EVENTS not in before:
        return
    limits = _limits(run.config, days.events_of_one_shopper())
    for day in days.new_days:
        rows = new.filter(pc.equal(new["day"], day))
        if rows.num_rows:
            statistics = event_statistics(rows, run.config.sample_events)
            results.add_change(day_name(day), drift(day_name(day), statistics, before[EVENTS], limits))
    for name, statistics in sliced_statistics(new, run.config.sample_events).items():
        earlier = before.get(_of_slice(EVENTS, name))
        if name and earlier:
            first, last = date(days.new_days[0]), date(days.new_days[-1])
            dataset = f"day {first}, {name}" if first == last else f"day {first} to {last}, {name}"
            results.add_change(dataset, drift(dataset, statistics, earlier, limits))


def _named(dataset: str, slices: dict[str, Statistics]) -> dict[str, Statistics]:
    return {_of_slice(dataset, name): found for name, found in slices.items()}


def _limits(config: ValidateConfig, group: float) -> Limits:
    return Limits(config.max_change, config.max_divergence, config.max_missing_change, config.max_new_values, group)


def _check_blessed(run: _Run, days: DayCounts, blessed: Profile, results: _Results) -> None:
    """Spans, products and rejected rows against the last blessed run."""
    for name, statistics in run.statistics.items():
        if name in blessed.statistics:
            limits = _limits(run.config, 1.0 if name == ITEMS else days.events_of_one_shopper())
            before = blessed.statistics[name]
            results.add_change(name, drift(name, statistics, before, limits, uncompared=AMOUNTS))
    ids = all_item_ids(run.transform_dir)
    results.anomalies += check_catalogue(run.profile, ids, blessed, run.config)
    events = events_by_day(run.profile.days)
    new_events = int(events[[day for day in days.new_days if day in events.index]].sum())
    results.anomalies += check_rejected(
        run.profile, blessed, new_events, run.counts["rejected"], run.config.max_rejected
    )


def _write_results(
    output: Path, run: _Run, days: DayCounts, results: _Results, schema_dir: Path, baseline: Path | None
) -> None:
    found = [asdict(anomaly) for anomaly in results.anomalies]
    (output / ANOMALIES_FILE).write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    largest = max((value for distances in results.change.values() for value in distances.values()), default=0.0)
    events = events_by_day(run.profile.days)
    summary = {
        "examples": {name: int(stats.datasets[0].num_examples) for name, stats in run.profile.statistics.items()},
        "stop": sum(anomaly.severity == STOP for anomaly in results.anomalies),
        "warn": sum(anomaly.severity == WARN for anomaly in results.anomalies),
        "drift": {name: distances for name, distances in results.drift.items() if distances},
        "change": {name: distances for name, distances in results.change.items() if distances},
        "retrain": baseline is not None and largest > run.config.retrain_change,
        "schema": str(schema_dir),
        "baseline": str(baseline) if baseline else None,
        "new_days": [date(day) for day in days.new_days],
        "events_by_day": {date(day): int(count) for day, count in events.items()},
    }
    (output / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _log(log_dir: Path, run: _Run, days: DayCounts, results: _Results) -> None:
    """TensorBoard scalars: one run per dataset would hide the comparison, so the dataset is part of the tag."""
    writer = tf.summary.create_file_writer(str(log_dir))
    with writer.as_default(step=0):
        for name, statistics in run.profile.statistics.items():
            rows = statistics.datasets[0].num_examples
            tf.summary.scalar(f"examples/{name}", rows)
            for feature in statistics.datasets[0].features:
                path = feature.path.step[0]
                tf.summary.scalar(f"missing_share/{path}/{name}", common(feature).num_missing / rows)
                if feature.HasField("num_stats"):
                    tf.summary.scalar(f"mean/{path}/{name}", feature.num_stats.mean)
        for kind, found in (("drift", results.drift), ("change", results.change)):
            for name, distances in found.items():
                for path, distance in distances.items():
                    tf.summary.scalar(f"{kind}/{path}/{name}", distance)
        for rule in sorted({anomaly.rule for anomaly in results.anomalies}):
            tf.summary.scalar(f"findings/{rule}", sum(anomaly.rule == rule for anomaly in results.anomalies))
        for day, count in events_by_day(run.profile.days).items():
            tf.summary.scalar("events_by_day", count, step=int(day))
        lines = [f"* **{one.severity}** {one.dataset}, `{one.feature}`: {one.description}" for one in results.anomalies]
        tf.summary.text("anomalies", "\n".join(lines) or "none")
    writer.close()
