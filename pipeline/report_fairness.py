"""Whether everybody is served equally well: charts and tables of each group, and a sentence for every gap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.charts import Bar, bar_chart
from pipeline.report_models import HEADLINE, Model, group_name, label
from pipeline.report_tables import ABSENT, Cell, Chart, Row, Table, count, interval, metric, signed

_ATTRIBUTES = {
    "history_length": ("Shoppers, from new to loyal", "interactions before the cut-off"),
    "item_popularity": ("Products chosen, by popularity in training", "from head to tail sellers"),
    "device": ("Device", "of the request"),
    "region": ("Region", "of the request"),
}
_METRICS = (HEADLINE, "recall@10")
# Bars of one chart; the rest stands in the table.
_DRAWN = 12


@dataclass(frozen=True)
class Finding:
    """What a gap means, and its CSS class: "bad" where groups are served unequally beyond chance."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Fairness:
    """What the section shows, of the model that the shop would use."""

    model: str
    minimum: int
    findings: list[Finding]
    charts: list[Chart]
    tables: list[Table]


def fairness(measured: Mapping[str, Any], models: Sequence[Model]) -> Fairness | None:
    """The section on fairness, told of two stages, or of the first model there is; None where nothing was measured.

    Args:
        measured: "fairness" of metrics.json.
        models: of the headline protocol, ours first.
    """
    named = {model.key: of_model(measured, model.key) for model in models}
    first = next((model for model in models if named[model.key]), None)
    if first is None:
        return None
    attributes = named[first.key]
    tables = [_group_table(attribute, found) for attribute, found in attributes.items()]
    return Fairness(
        model=first.name,
        minimum=measured["minimum_queries"],
        findings=[_finding(attribute, found) for attribute, found in attributes.items()],
        charts=[_chart(attribute, found, first) for attribute, found in attributes.items()],
        tables=[*tables, *_gap_tables(models, named)],
    )


def of_model(measured: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Attribute → groups and gaps of one model; empty where it was not measured."""
    found: Mapping[str, Any] = measured.get(key) or measured.get("baselines", {}).get(key) or {}
    return found


def _finding(attribute: str, found: Mapping[str, Any]) -> Finding:
    """One sentence: who is served best and worst, and whether chance alone could have made it."""
    title, gap = _title(attribute), found["gaps"].get(HEADLINE)
    if gap is None:
        return Finding(f"{title}: fewer than two groups are large enough to be judged.")
    groups = {end: _group(attribute, gap[end]) for end in ("best", "worst")}
    values = {end: metric(found["groups"][gap[end]][HEADLINE]) for end in ("best", "worst")}
    apart = (
        f"{title}: NDCG@10 is highest for {groups['best']} ({values['best']}) and lowest for {groups['worst']} "
        f"({values['worst']}), {metric(gap['gap'])} apart (95 % interval {interval(gap['interval'], signed)})"
    )
    if gap["outside_chance"]:
        return Finding(f"{apart}: more than chance.", "bad")
    if others := gap["pairs_outside_chance"]:
        return Finding(f"{apart}: within chance, but {others} other pairs of groups differ beyond it.", "bad")
    return Finding(f"{apart}: within chance.")


def _chart(attribute: str, found: Mapping[str, Any], model: Model) -> Chart:
    """NDCG@10 of each group; the largest groups where there are many, those that are not judged in grey."""
    groups = found["groups"]
    largest = sorted(groups, key=lambda name: -groups[name]["queries"])[:_DRAWN]
    bars = []
    for name in (name for name in groups if name in largest):
        low, high = groups[name].get("intervals", {}).get(HEADLINE, (None, None))
        bars.append(
            Bar(
                _group(attribute, name),
                groups[name][HEADLINE],
                low,
                high,
                "main" if groups[name]["judged"] else "plain",
            )
        )
    drawn = f"{label(HEADLINE)}, {_note(attribute)}"
    if len(groups) > _DRAWN:
        drawn += f"; the {_DRAWN} largest of {len(groups)} groups"
    svg = bar_chart(f"{label(HEADLINE)} by {_title(attribute)}", bars, model.value(HEADLINE), "everybody")
    return Chart(_title(attribute), drawn, svg)


def _group_table(attribute: str, found: Mapping[str, Any]) -> Table:
    rows = []
    for name, group in found["groups"].items():
        ends = group.get("intervals", {})
        cells = [Cell(metric(group[key]), interval(ends.get(key)) or "too few to judge") for key in _METRICS]
        rows.append(Row(_group(attribute, name), [Cell(count(group["queries"])), *cells]))
    return Table(_title(attribute), ["", "Shoppers", *(label(key) for key in _METRICS)], rows)


def _gap_tables(models: Sequence[Model], named: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """The gap in NDCG@10 of every model, by attribute; none where no attribute has two groups to judge."""
    judged = [
        attribute
        for attribute in dict.fromkeys(attribute for found in named.values() for attribute in found)
        if any(found.get(attribute, {}).get("gaps") for found in named.values())
    ]
    if not judged:
        return []
    rows = [
        Row(model.name, [_gap_cell(named[model.key].get(attribute, {})) for attribute in judged], model.tone)
        for model in models
        if named[model.key]
    ]
    caption = f"Gap in {label(HEADLINE)} between the groups served best and worst, of every model"
    return [Table(caption, ["Model", *map(_title, judged)], rows)]


def _gap_cell(found: Mapping[str, Any]) -> Cell:
    gap = found.get("gaps", {}).get(HEADLINE)
    if gap is None:
        return Cell(ABSENT)
    told = "more than chance" if gap["outside_chance"] else "within chance"
    return Cell(metric(gap["gap"]), f"{interval(gap['interval'], signed)}, {told}")


def _group(attribute: str, name: str) -> str:
    return f"{name} interactions" if attribute == "history_length" else group_name(name)


def _title(attribute: str) -> str:
    return _ATTRIBUTES.get(attribute, (attribute, ""))[0]


def _note(attribute: str) -> str:
    return _ATTRIBUTES.get(attribute, ("", "of each group"))[1]
