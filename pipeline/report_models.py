"""How good the models are: the verdict in words, tables with intervals, charts with whiskers, segments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.charts import Bar, bar_chart
from pipeline.report_tables import ABSENT, Cell, Chart, Row, Table, count, interval, metric, share, signed

HEADLINE = "ndcg@10"
_FOUND = "recall@10"
_TABLE_METRICS = ("ndcg@10", "recall@10", "recall@100", "hit_rate@10", "mrr", "map@10")
# Of these more is not always better, so that none is marked as the best.
_CHARACTER_METRICS = ("auc", "coverage@100", "novelty@10", "diversity@10", "popularity@10", "gini@10")
_CHART_METRICS = (HEADLINE, _FOUND, "recall@100")
_OURS = {"two_stage": "Two stages", "ranker": "Ranker alone", "retrieval": "Retrieval alone"}
_SEGMENTS = {
    "history_length": "By interactions before the cut-off",
    "item_popularity": "By popularity of the chosen product in training",
}
_GROUPS = {
    "head": "Head: half of all interactions",
    "mid": "Middle: the next 30 %",
    "tail": "Tail",
    "new": "New: none in training",
}
_CLASS_SIZES = {"candidates": "All candidates", "truth": "What shoppers chose"}
_PROTOCOLS = {
    "exclude_seen=true": "With products met before left out",
    "exclude_seen=false": "With products met before kept in",
    "rolling_next": "Rolling: before each basket, what comes next",
}
_WRITTEN = {
    "co_occurrence": "Co-occurrence",
    "session_knn": "Session kNN",
    "product2vec": "product2vec",
    "title_tfidf": "Title TF-IDF",
    "scann": "ScaNN",
}
# Between these, a ratio is told as "about as many".
_ALIKE = (0.95, 1.05)


@dataclass(frozen=True)
class Model:
    """What was measured of one model under one protocol."""

    key: str
    name: str
    tone: str
    metrics: Mapping[str, Any]

    def value(self, name: str) -> float | None:
        """One metric, None where it was not measured."""
        value = self.metrics.get(name)
        return None if value is None else float(value)

    def interval(self, name: str) -> tuple[float, float] | None:
        """95 % interval of one metric."""
        ends = self.metrics.get("intervals", {}).get(name)
        return None if ends is None else (float(ends[0]), float(ends[1]))


@dataclass(frozen=True)
class Verdict:
    """The run in one sentence, and the figures behind it."""

    headline: str
    detail: str


def models_of(measured: Mapping[str, Any]) -> list[Model]:
    """The models of one protocol, ours first, then baselines from best to worst by NDCG@10."""
    ours = [
        Model(key, name, "main" if key == "two_stage" else "part", measured[key])
        for key, name in _OURS.items()
        if measured.get(key)
    ]
    baselines = [Model(key, readable(key), "plain", values) for key, values in measured.get("baselines", {}).items()]
    return ours + sorted(baselines, key=lambda model: -(model.value(HEADLINE) or 0.0))


def readable(key: str) -> str:
    """A key of metrics.json as words: "recent_popularity" → "Recent popularity"."""
    words = key.replace("_", " ")
    return _WRITTEN.get(key, words[:1].upper() + words[1:])


def verdict(models: Sequence[Model], differences: Mapping[str, Any]) -> Verdict:
    """What a reader should remember: two stages against recent popularity, then against the best baseline."""
    two = next((model for model in models if model.key == "two_stage"), None)
    baselines = [model for model in models if model.tone == "plain"]
    if two is None or not baselines:
        return Verdict("Not measured: two stages against a baseline", "metrics.json lacks one of them.")
    popularity = next((model for model in baselines if "popular" in model.key), baselines[-1])
    best = baselines[0]
    return Verdict(
        _headline(two, popularity, differences), f"{_found(two, popularity)} {_against(two, best, differences)}"
    )


def _headline(two: Model, popularity: Model, differences: Mapping[str, Any]) -> str:
    ours, theirs, name = two.value(_FOUND), popularity.value(_FOUND), popularity.name.lower()
    if ours is None or theirs is None:
        return f"Not measured: {_FOUND} of two stages against {name}"
    low, high = differences.get(popularity.key, {}).get(_FOUND, {}).get("interval", (None, None))
    if low is not None and low <= 0 <= high:
        return f"Two stages and {name} find about as many of the next products: the difference is within chance"
    if theirs == 0:
        return f"Two stages find {share(ours)} of the next products, {name} none"
    ratio = ours / theirs
    if _ALIKE[0] <= ratio <= _ALIKE[1]:
        return f"Two stages find about as many of the next products as {name}"
    if ratio < 1:
        return f"Two stages find fewer of the next products than {name}: {ratio:.2f}× as many"
    return f"Two stages find {ratio:.1f}× as many of the next products as {name}"


def _found(two: Model, popularity: Model) -> str:
    ours, theirs = two.value(_FOUND), popularity.value(_FOUND)
    if ours is None or theirs is None:
        return ""
    return (
        f"On average, ten recommendations hold {share(ours)} of what a shopper goes on to choose; "
        f"ten of {popularity.name.lower()} hold {share(theirs)}."
    )


def _against(two: Model, best: Model, differences: Mapping[str, Any]) -> str:
    ours, theirs = two.value(HEADLINE), best.value(HEADLINE)
    if ours is None or theirs is None:
        return ""
    start = (
        f"The strongest baseline is {best.name.lower()} with NDCG@10 {metric(theirs)}; two stages reach {metric(ours)}"
    )
    ends = differences.get(best.key, {}).get(HEADLINE, {}).get("interval")
    if ends is None:
        return f"{start}."
    low, high = ends
    if low > 0:
        return f"{start}, better beyond chance (95 % interval of the difference: {signed(low)} to {signed(high)})."
    if high < 0:
        return f"{start}, worse beyond chance (95 % interval of the difference: {signed(low)} to {signed(high)})."
    return f"{start}; the difference is within chance (95 % interval: {signed(low)} to {signed(high)})."


def metric_charts(models: Sequence[Model], attainable: Mapping[str, Any]) -> list[Chart]:
    """One chart per main metric, bars with 95 % whiskers; the best attainable as a dashed line where it is known."""
    charts = []
    for name in _CHART_METRICS:
        bars = []
        for model in models:
            value = model.value(name)
            low, high = model.interval(name) or (None, None)
            if value is not None:
                bars.append(Bar(model.name, value, low, high, model.tone))
        if bars:
            limit = attainable.get(name)
            svg = bar_chart(f"{label(name)} of every model", bars, limit, "best attainable")
            charts.append(Chart(label(name), "whiskers: 95 % interval", svg))
    return charts


def metric_table(caption: str, models: Sequence[Model], attainable: Mapping[str, Any] | None = None) -> Table:
    """Every model against every accuracy metric that was measured, the best of each marked.

    Where the best attainable is known, it is the last line, and the column after NDCG@10 says each model's share of it.
    """
    names = _measured(models, _TABLE_METRICS)
    best = {name: max(model.value(name) or 0.0 for model in models) for name in names}
    rows = [Row(model.name, [_metric_cell(model, name, best[name]) for name in names], model.tone) for model in models]
    heads = ["Model", *(label(name) for name in names)]
    limit = (attainable or {}).get(HEADLINE)
    if attainable and limit and HEADLINE in names:
        for row, model in zip(rows, models, strict=True):
            value = model.value(HEADLINE)
            row.cells.insert(1, Cell(ABSENT if value is None else share(value / limit, 0)))
        truth = Model("attainable", "Best attainable", "plain", attainable)
        cells = [_metric_cell(truth, name, None) for name in names]
        rows.append(Row(truth.name, [cells[0], Cell(share(1, 0)), *cells[1:]]))
        heads.insert(2, "Of the attainable")
    return Table(caption, heads, rows)


def character_table(models: Sequence[Model]) -> Table | None:
    """What the lists are like, apart from being right at the top; None where that was not measured."""
    names = _measured(models, _CHARACTER_METRICS)
    if not names:
        return None
    rows = [Row(model.name, [_metric_cell(model, name, None) for name in names], model.tone) for model in models]
    return Table("The whole order, and what the lists are like", ["Model", *(label(name) for name in names)], rows)


def popularity_table(models: Sequence[Model], sizes: Mapping[str, Mapping[str, float]]) -> Table | None:
    """How the recommendations divide into popular and rare products, beside what there is and what was chosen.

    Args:
        models: of one protocol.
        sizes: "popularity_classes" of metrics.json.
    """
    names = _measured(models, [f"{group}_share@10" for group in _GROUPS])
    if not names:
        return None
    groups = [name.removesuffix("_share@10") for name in names]
    rows = [
        Row(written, [Cell(share(sizes[key][group])) for group in groups])
        for key, written in _CLASS_SIZES.items()
        if key in sizes
    ]
    for model in models:
        cells = [Cell(ABSENT if (value := model.value(name)) is None else share(value)) for name in names]
        rows.append(Row(model.name, cells, model.tone))
    return Table("Whose products the first ten are", ["", *map(group_name, groups)], rows)


def group_name(group: str) -> str:
    """A group of metrics.json as words; values of the shop's own data as they are."""
    return _GROUPS.get(group, group)


def _measured(models: Sequence[Model], names: Sequence[str]) -> list[str]:
    return [name for name in names if any(model.value(name) is not None for model in models)]


def _metric_cell(model: Model, name: str, best: float | None) -> Cell:
    value = model.value(name)
    form = _small_share if name.startswith("popularity") else metric
    return Cell(form(value), interval(model.interval(name), form), best=bool(value) and value == best)


def _small_share(value: float | None) -> str:
    return ABSENT if value is None else share(value, 3)


def difference_table(models: Sequence[Model], differences: Mapping[str, Any]) -> Table | None:
    """Two stages minus each other model, the same shoppers on both sides; None where nothing was compared."""
    names = {model.key: model for model in models}
    compared = [key for key in differences if key in names]
    if not compared:
        return None
    shown = [name for name in _TABLE_METRICS if any(name in differences[key] for key in compared)]
    rows = []
    for key in compared:
        cells = []
        for name in shown:
            found = differences[key].get(name)
            cells.append(
                Cell(ABSENT)
                if found is None
                else Cell(signed(found["difference"]), interval(found["interval"], signed))
            )
        rows.append(Row(f"minus {names[key].name.lower()}", cells, names[key].tone))
    caption = "Two stages minus each other model, on the same shoppers"
    return Table(caption, ["Two stages", *(label(name) for name in shown)], rows)


def segment_tables(models: Sequence[Model]) -> list[Table]:
    """NDCG@10 of every model within each group of shoppers or products."""
    two = next((model for model in models if model.key == "two_stage"), None)
    if two is None:
        return []
    tables = []
    for segment, groups in two.metrics.get("segments", {}).items():
        rows = []
        for group, ours in groups.items():
            figures = [
                model.metrics.get("segments", {}).get(segment, {}).get(group, {}).get(HEADLINE) for model in models
            ]
            rows.append(Row(group_name(group), [Cell(count(ours["queries"])), *_best_marked(figures)]))
        caption = _SEGMENTS.get(segment, readable(segment))
        tables.append(Table(caption, ["", "Shoppers", *(model.name for model in models)], rows))
    return tables


def cold_start_tables(cold_start: Mapping[str, Any]) -> list[Table]:
    """Products that nobody had met in training, and shoppers without a history; as far as there are any."""
    tables = []
    rolling = cold_start.get("rolling_next") or {}
    for asked, found in ((", at the cut-off", cold_start), (", each time one was chosen", rolling)):
        tables += _product_tables(f"Products met in training{asked}", found.get("known_products") or {})
        tables += _product_tables(f"Products nobody had met in training{asked}", found.get("new_products") or {})
        rare = found.get("rare_products") or {}
        tables += _product_tables(f"Products with fewer than {rare.get('below')} interactions in training{asked}", rare)
    tables += _product_tables("Products listed after the cut-off", rolling.get("listed_later") or {})
    tables += _product_tables(
        "Products of categories that their shoppers had not met", rolling.get("unvisited_categories") or {}
    )
    visitors = cold_start.get("new_visitors") or {}
    if models_of(visitors):
        caption = f"Shoppers without a history: {visitors['queries']:,}"
        tables.append(metric_table(caption, models_of(visitors)))
    return tables


def _product_tables(what: str, found: Mapping[str, Any]) -> list[Table]:
    """Figures for a part of the products chosen: in the whole catalogue and, for a group of products, among it."""
    if not found.get("truth"):
        return []
    caption = f"{what}: {found['truth']:,} of the products chosen, {share(found['truth_share'], 2)}"
    models = models_of(found)
    tables = [metric_table(caption, models)]
    if all("among_themselves" in model.metrics for model in models):
        alone = [Model(model.key, model.name, model.tone, model.metrics["among_themselves"]) for model in models]
        tables.append(metric_table(f"The same, ranked among those {found['products']:,} products alone", alone))
    return tables


def protocol_tables(protocols: Mapping[str, Any]) -> list[Table]:
    """The same models measured in other ways."""
    tables = []
    for name, measured in protocols.items():
        models = models_of(measured)
        if models:
            caption = f"{_PROTOCOLS.get(name, readable(name))}: {measured['queries']:,} questions"
            tables.append(metric_table(caption, models))
    return tables


def _best_marked(figures: Sequence[float | None]) -> list[Cell]:
    best = max((figure for figure in figures if figure is not None), default=None)
    return [Cell(metric(figure), best=bool(figure) and figure == best) for figure in figures]


def label(name: str) -> str:
    """A metric's key as people write it: "ndcg@10" → "NDCG@10"."""
    stem, at, cutoff = name.partition("@")
    written = stem.upper() if stem in ("ndcg", "mrr", "map", "auc") else readable(stem)
    return f"{written}{at}{cutoff}"
