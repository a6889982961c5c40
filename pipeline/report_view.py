"""From a run's results to what the report page shows, section by section, in plain words."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.charts import curve_chart
from pipeline.report_data import Line, data_charts, data_facts, data_tables, drift_tables, validation_lines
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
from pipeline.report_tables import Cell, Chart, Row, Table, day, duration, flat, metric, share

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
    data_charts: list[Chart]
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
        data=data_facts(results.statistics),
        data_charts=data_charts(results.validation),
        data_tables=[*data_tables(results.statistics), *drift_tables(results.validation)],
        validation=validation_lines(results.validation),
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
