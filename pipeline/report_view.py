"""From a run's results to what the report page shows, section by section, in plain words."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.charts import curve_chart
from pipeline.report_fairness import Fairness, fairness
from pipeline.report_head import head_table
from pipeline.report_index import index_facts, index_table
from pipeline.report_models import (
    HEADLINE,
    Model,
    Verdict,
    character_table,
    cold_start_tables,
    difference_table,
    metric_charts,
    metric_table,
    models_of,
    popularity_table,
    protocol_tables,
    readable,
    segment_tables,
    verdict,
)
from pipeline.report_tables import ABSENT, Cell, Chart, Row, Table, count, duration, flat, metric, share
from transform.content_faults import FAULTS
from transform.tables import FIRST

GLOSSARY = (
    ("Recall@k", "the share of the products a shopper went on to choose that stand among the first k recommended"),
    ("NDCG@k", "the same, but a product counts more the higher it stands; 1 is a perfect list"),
    ("Hit rate@k", "the share of shoppers for whom at least one of the first k was right"),
    ("MRR", "one divided by the place of the first right product, averaged"),
    ("MAP@k", "precision at each right product's place, averaged over the products and then over shoppers"),
    ("AUC", "the chance that a chosen product stands above one that was not; 0.5 is a coin toss"),
    ("Coverage@100", "the share of the catalogue that appears in somebody's first 100"),
    ("Novelty@10", "how unexpected the products are: bits of surprise at meeting them among the training interactions"),
    ("Diversity@10", "how much the content of one list's products differs; 0 is ten times the same"),
    ("Popularity@10", "the share of all training interactions that a recommended product has, averaged"),
    ("Gini@10", "how unequally the first ten are spread over the candidates; 0 is evenly, 1 is all on one product"),
    ("95 % interval", "bootstrap over shoppers: where the figure would lie with other shoppers of the same shop"),
)
_SPANS = {"train": "Training", "validation": "Validation", "test": "Test"}
_TRAINED = {"train-retrieval": "Retrieval: the two towers", "train-ranker": "Ranker: the transformer"}


@dataclass(frozen=True)
class Results:
    """What the steps of a run left, as they wrote it; None, {} or [] where a step left nothing."""

    run: Path
    metrics: dict[str, Any]
    statistics: dict[str, Any]
    validation: dict[str, Any]
    histories: dict[str, list[dict[str, Any]]]
    records: dict[str, dict[str, Any]]
    examples: list[dict[str, Any]]
    explanation: dict[str, Any] | None
    lists: dict[str, Any] | None
    map_points: list[dict[str, Any]]


@dataclass(frozen=True)
class Tile:
    """One of the figures at the top."""

    figure: str
    label: str
    note: str


@dataclass(frozen=True)
class Line:
    """A sentence and its CSS class: "good", "bad" or ""."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Curves:
    """Learning curves of one model, or why there are none."""

    name: str
    charts: list[Chart]
    missing: str = ""


@dataclass(frozen=True)
class View:
    """Everything the template shows but the shoppers."""

    name: str
    verdict: Verdict
    tiles: list[Tile]
    charts: list[Chart]
    tables: list[Table]
    missing: list[str]
    protocol_tables: list[Table]
    segment_tables: list[Table]
    fairness: Fairness | None
    learning: list[Curves]
    index_table: Table | None
    index_facts: list[tuple[str, str]]
    data: list[tuple[str, str]]
    data_tables: list[Table]
    validation: list[Line]
    protocol: list[str]
    protocol_facts: list[tuple[str, str]]
    glossary: tuple[tuple[str, str], ...]
    places: list[tuple[str, str]]
    step_table: Table | None
    configuration: list[tuple[str, str]]


def view(results: Results) -> View:
    """What the page says of these results."""
    metrics = results.metrics
    models = models_of(metrics)
    attainable, differences = metrics.get("attainable") or {}, metrics.get("differences") or {}
    tables = [metric_table("Every model, with 95 % intervals", models, attainable)]
    more = (
        difference_table(models, differences),
        character_table(models),
        popularity_table(models, metrics.get("popularity_classes") or {}),
        head_table(metrics.get("head") or {}),
    )
    tables += [table for table in more if table]
    return View(
        name=metrics["dataset"].get("name") or results.run.name,
        verdict=verdict(models, differences),
        tiles=_tiles(models, metrics),
        charts=metric_charts(models, attainable),
        tables=tables,
        missing=_missing(metrics),
        protocol_tables=protocol_tables(metrics.get("protocols") or {}),
        segment_tables=segment_tables(models) + cold_start_tables(metrics.get("cold_start") or {}),
        fairness=fairness(metrics.get("fairness") or {}, models),
        learning=[_curves(name, results.histories.get(step, [])) for step, name in _TRAINED.items()],
        index_table=index_table(metrics.get("index") or {}),
        index_facts=index_facts(metrics.get("index") or {}),
        data=_data(results.statistics),
        data_tables=[*_data_tables(results.statistics), *filter(None, [_drift_table(results.validation)])],
        validation=_validation(results.validation),
        protocol=_protocol(metrics["dataset"].get("protocol") or {}, results.statistics.get("split") or {}),
        protocol_facts=flat(metrics["dataset"].get("protocol") or {}),
        glossary=GLOSSARY,
        places=_places(results.run),
        step_table=_step_table(results.records),
        configuration=_configuration(results.records),
    )


def _tiles(models: list[Model], metrics: Mapping[str, Any]) -> list[Tile]:
    two = next((model for model in models if model.key == "two_stage"), None)
    baselines = [model for model in models if model.tone == "plain"]
    index, attainable = metrics.get("index") or {}, (metrics.get("attainable") or {}).get(HEADLINE)
    tiles = []
    if two and (ours := two.value(HEADLINE)) is not None:
        best = baselines[0] if baselines else None
        note = f"{best.name.lower()}: {metric(best.value(HEADLINE))}" if best else "no baseline was measured"
        tiles.append(Tile(metric(ours), "NDCG@10, two stages", note))
        if attainable:
            note = f"the simulated shop's own probabilities reach {metric(attainable)}"
            tiles.append(Tile(share(ours / attainable, 0), "of the attainable NDCG@10", note))
    if two and (hits := two.value("hit_rate@10")) is not None:
        tiles.append(Tile(share(hits, 0), "of shoppers find something", "at least one right product among ten"))
    if "recall@100" in index:
        note = f"{readable(str(index.get('kind', 'index')))} against brute force"
        tiles.append(Tile(share(index["recall@100"], 1), "index recall@100", note))
    return tiles


def _missing(metrics: Mapping[str, Any]) -> list[str]:
    """What a reader might look for and why it is not there."""
    sentences = [
        f"Not measured: {readable(key).lower()}."
        for key in ("two_stage", "retrieval", "ranker", "baselines", "differences")
        if not metrics.get(key)
    ]
    if not metrics.get("attainable"):
        sentences.append("Not measured: the best attainable ranking, which only a simulated shop knows.")
    return sentences


def _curves(name: str, history: list[dict[str, Any]]) -> Curves:
    if not history:
        return Curves(name, [], "Not measured: the training left no history.json.")
    epochs = [int(entry["epoch"]) for entry in history]
    validation = [float(entry["validation_ndcg"]) for entry in history]
    best = epochs[validation.index(max(validation))]
    seconds = sum(float(entry["seconds"]) for entry in history)
    pace = f"{len(epochs)} epochs in {duration(seconds)}"
    losses = [float(entry["loss"]) for entry in history]
    kept = f"best {max(validation):.4f} at epoch {best}"
    return Curves(
        name,
        [
            Chart("Validation NDCG@10", kept, curve_chart(f"{name}: NDCG@10 by epoch", epochs, validation, best)),
            Chart("Training loss", pace, curve_chart(f"{name}: loss by epoch", epochs, losses, best)),
        ],
    )


def _data(statistics: Mapping[str, Any]) -> list[tuple[str, str]]:
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


def _data_tables(statistics: Mapping[str, Any]) -> list[Table]:
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


def _protocol(protocol: Mapping[str, Any], split: Mapping[str, Any]) -> list[str]:
    """How the figures came about, for people."""
    if split.get("method") == "leave_one_out":
        how = (
            "Leave-one-out: each shopper's last interaction is the test, the one before it the validation, the rest is "
            "for training. This is for comparison with papers; a time split is closer to what a shop meets."
        )
    else:
        validation, test = day(split.get("validation_start")), day(split.get("test_start"))
        how = (
            f"The past predicts the future: the models learned from interactions before {validation}, chose their "
            f"epoch on those up to {test}, and were measured on what came after. One question per shopper at the "
            "cut-off: which distinct products will this shopper choose later? Candidates are all products known then."
        )
    seen = (
        "Products of the shopper's history are left out of the ranking."
        if protocol.get("exclude_seen")
        else "Products the shopper has met before stay in the ranking: people buy again."
    )
    return [how, f"The whole catalogue is ranked, nothing is sampled; ties are broken by a fixed rule. {seen}"]


def _validation(files: Mapping[str, Any]) -> list[Line]:
    """What TensorFlow Data Validation found; a finding that stops a run is here only after a run that was stopped."""
    summary, anomalies = files.get("summary"), files.get("anomalies")
    if summary is None or anomalies is None:
        return [Line("Not measured: the run has no finished validate step.")]
    looked = ", ".join(f"{name} {number:,}" for name, number in summary["examples"].items())
    where = f"TensorFlow Data Validation compared samples ({looked} rows) with the schema in {summary['schema']}"
    if not anomalies:
        return [Line(f"{where} and found nothing against it.", "good")]
    return [
        Line(f"{where} and found {summary['stop']} anomalies that stop a run and {summary['warn']} to look at:"),
        *(Line(_anomaly(found), "bad" if found["severity"] == "stop" else "") for found in anomalies),
    ]


def _anomaly(found: Mapping[str, Any]) -> str:
    return f"{found['dataset']}, {found['feature']}: {found['description']} ({found['rule']})"


def _drift_table(files: Mapping[str, Any]) -> Table | None:
    """Distance of each later span's categories from the training span."""
    drift = (files.get("summary") or {}).get("drift") or {}
    features = sorted({feature for distances in drift.values() for feature in distances})
    if not features:
        return None
    rows = [
        Row(feature, [Cell(metric(distances.get(feature)), "") for distances in drift.values()]) for feature in features
    ]
    return Table("Drift: largest change of one value's share", ["Feature", *(readable(name) for name in drift)], rows)


def _places(run: Path) -> list[tuple[str, str]]:
    return [
        ("Run", str(run)),
        ("All figures", str(run / "metrics.json")),
        ("Models to serve", str(run / "export")),
        ("Curves, statistics, product map", f"tensorboard --logdir {run / 'tensorboard'}"),
        ("Data schema, to be reviewed", str(run / "schema")),
        ("Data statistics, to be looked at", str(run / "steps" / "validate" / "statistics.html")),
        ("Bad rows", str(run / "steps" / "transform" / "dead_letter")),
    ]


def _step_table(records: Mapping[str, Any]) -> Table | None:
    rows = [
        Row(step, [Cell(duration(record["seconds"])), Cell(record["fingerprint"][:12])])
        for step, record in records.items()
        if record
    ]
    return Table("Steps", ["Step", "Took", "Fingerprint"], rows) if rows else None


def _configuration(records: Mapping[str, Any]) -> list[tuple[str, str]]:
    sections: dict[str, Any] = {}
    for record in records.values():
        sections.update(record.get("config", {}))
    return flat(sections)


def day(seconds: float | None) -> str:
    """A date in UTC."""
    return ABSENT if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%-d %b %Y")
