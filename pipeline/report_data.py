"""The report's section on the data: what was read, events by day, what the guards found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.charts import Bar, bar_chart, curve_chart
from pipeline.report_models import readable
from pipeline.report_tables import Cell, Chart, Row, Table, count, day, metric, share
from transform.content_faults import FAULTS
from transform.tables import FIRST

_SPANS = {"train": "Training", "validation": "Validation", "test": "Test"}


@dataclass(frozen=True)
class Line:
    """A sentence and its CSS class: "good", "bad" or ""."""

    text: str
    tone: str = ""


def data_facts(statistics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was read and kept."""
    read, rejected = statistics["rows_read"], sum(statistics["rejected"].values())
    first, last = statistics["first_timestamp"], statistics["last_timestamp"]
    return [
        ("Event rows read", count(read)),
        ("Bad rows set aside", f"{count(rejected)} ({share(rejected / max(read, 1), 2)})"),
        ("Duplicates dropped", count(statistics["duplicates"])),
        ("Interactions, repeats collapsed", count(statistics["interactions"])),
        ("Shoppers", count(statistics["users"])),
        ("Products in the catalogue", count(statistics["items_catalogue"])),
        ("Products with interactions", count(statistics["items_in_events"])),
        ("Products known only from events", count(statistics["items_only_in_events"])),
        ("Products with an id embedding", count(statistics["id_embedding_rows"] - FIRST)),
        ("Time", f"{day(first)} – {day(last)}" if statistics["has_timestamps"] else "no clock, only an order"),
    ]


def data_tables(statistics: Mapping[str, Any]) -> list[Table]:
    """Spans, event types, faults of products and bad rows."""
    tables = []
    if spans := statistics.get("spans"):
        rows = [
            Row(_SPANS.get(name, name), [Cell(count(span["interactions"])), Cell(count(span["users"]))])
            for name, span in spans.items()
        ]
        tables.append(Table("Spans", ["", "Interactions", "Shoppers"], rows))
    if types := statistics.get("event_types"):
        total = sum(types.values())
        rows = [
            Row(readable(name), [Cell(count(number)), Cell(share(number / total))]) for name, number in types.items()
        ]
        tables.append(Table("Events by type", ["", "Events", "Share"], rows))
    if faults := statistics.get("items_faults"):
        rows = [
            Row(FAULTS[name][0].upper() + FAULTS[name][1:], [Cell(count(number))]) for name, number in faults.items()
        ]
        tables.append(Table("What products lack, and what could not be read of them", ["", "Products"], rows))
    if rejected := statistics.get("rejected"):
        rows = [Row(reason, [Cell(count(number))]) for reason, number in rejected.items()]
        tables.append(Table("Bad rows, by reason", ["", "Rows"], rows))
    return tables


def validation_lines(files: Mapping[str, Any]) -> list[Line]:
    """What the guards found; a finding that stops a run is not here: no report is written after it."""
    summary, anomalies = files.get("summary"), files.get("anomalies")
    if summary is None or anomalies is None:
        return [Line("Not measured: the run has no finished validate step.")]
    looked = ", ".join(f"{name} {number:,}" for name, number in summary["examples"].items())
    where = f"TensorFlow Data Validation compared samples ({looked} rows) with the schema in {summary['schema']}"
    if not anomalies:
        return [Line(f"{where} and found nothing against it.", "good"), *_request_lines(files.get("skew"))]
    return [
        Line(f"{where} and found {summary['stop']} anomalies that stop a run and {summary['warn']} to look at:"),
        *(Line(_anomaly(found), "bad" if found["severity"] == "stop" else "") for found in anomalies),
        *_request_lines(files.get("skew")),
    ]


def _request_lines(skew: Mapping[str, Any] | None) -> list[Line]:
    """How the requests that were logged compare with the training span."""
    if skew is None:
        return []
    text = f"Of {skew['requests']:,} logged requests {skew['looked_at']:,} were compared with the training span"
    if not skew["findings"]:
        return [Line(f"{text}: nothing against them.", "good")]
    lines = [Line(_anomaly(found), "bad" if found["severity"] == "stop" else "") for found in skew["findings"]]
    return [Line(f"{text}:"), *lines]


def _anomaly(found: Mapping[str, Any]) -> str:
    return f"{found['dataset']}, {found['feature']}: {found['description']} ({found['rule']})"


def drift_tables(files: Mapping[str, Any]) -> list[Table]:
    """Distance of each later span from the training span, and of this run from the last blessed one."""
    summary = files.get("summary") or {}
    captions = (
        ("drift", "Drift: largest change of one value's share"),
        ("change", "Change since the last blessed run, or the days before: L-infinity; of prices Jensen-Shannon"),
    )
    return [
        _distance_table(caption, found)
        for key, caption in captions
        if (found := {name: part for name, part in (summary.get(key) or {}).items() if ", " not in name})
    ]


def _distance_table(caption: str, found: Mapping[str, Mapping[str, float]]) -> Table:
    features = sorted({feature for distances in found.values() for feature in distances})
    rows = [
        Row(feature, [Cell(metric(distances.get(feature)), "") for distances in found.values()]) for feature in features
    ]
    return Table(caption, ["Feature", *(readable(name) for name in found)], rows)


def data_charts(files: Mapping[str, Any]) -> list[Chart]:
    """Events by day, and by how much each feature has changed."""
    summary = files.get("summary") or {}
    charts = []
    if by_day := summary.get("events_by_day"):
        days, counts = list(by_day), list(by_day.values())
        note = f"{days[0]} to {days[-1]}, every event counted; marked is the newest day"
        drawn = curve_chart("Events by day", list(range(1, len(days) + 1)), counts)
        charts.append(Chart("Events by day", note, drawn))
    largest: dict[str, float] = {}
    for distances in (summary.get("change") or {}).values():
        for feature, distance in distances.items():
            largest[feature] = max(distance, largest.get(feature, 0.0))
    if largest:
        bars = [Bar(feature, value) for feature, value in sorted(largest.items(), key=lambda entry: -entry[1])]
        note = "Largest distance of a day, span or slice; 0 is the same, 1 has nothing in common"
        charts.append(Chart("Change of features", note, bar_chart("Change of features", bars)))
    return charts
