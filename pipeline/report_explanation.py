"""Why these products: what in each example shopper's history made the first recommendation, and what the ranker has
learned of distance and time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.bias_charts import Curve, heat_map, line_chart
from pipeline.report_shoppers import Shelf
from pipeline.report_tables import ABSENT, Chart, share, signed

_SHOWN_SLOTS = 6
_TIMES = {"1 s": 1, "1 min": 60, "1 h": 3_600, "1 day": 86_400, "1 year": 31_536_000}
_BIAS_NOTE = "one curve per head; higher = looked at more, whatever the product"


@dataclass(frozen=True)
class Slot:
    """One interaction of the history with its two bars; widths in percent of the shopper's widest."""

    name: str
    note: str
    attention: str
    attention_width: float
    attribution: str
    attribution_width: float
    against: bool


@dataclass(frozen=True)
class ExplainedShopper:
    """What made one shopper's first recommendation."""

    product: str
    summary: str
    slots: list[Slot]


@dataclass(frozen=True)
class Explanation:
    """What the section shows."""

    shoppers: list[ExplainedShopper]
    sentences: list[str]
    charts: list[Chart]


def explanation(content: Mapping[str, Any] | None, shelf: Shelf) -> Explanation | None:
    """The section on explanations; None where nothing was measured.

    Args:
        content: explanation.json.
        shelf: the products that example shoppers met.
    """
    if content is None:
        return None
    return Explanation(
        shoppers=[_shopper(shopper, shelf) for shopper in content["shoppers"]],
        sentences=[_agreement(content["agreement"]), _completeness(content["completeness"], content["steps"])],
        charts=_charts(content["biases"]),
    )


def _shopper(shopper: Mapping[str, Any], shelf: Shelf) -> ExplainedShopper:
    """The slots that made most of the score, and all others in one line, so that the numbers add up."""
    attention, attributions = shopper["attention"], shopper["attributions"]
    order = sorted(range(len(attributions)), key=lambda slot: -abs(attributions[slot]))
    shown, others = order[:_SHOWN_SLOTS], order[_SHOWN_SLOTS:]
    lines = [
        (shelf.take(shopper["history"][slot]).name, _age(len(order) - 1 - slot), attention[slot], attributions[slot])
        for slot in shown
    ]
    if others:
        sums = (sum(values[slot] for slot in others) for values in (attention, attributions))
        lines.append((f"The other {len(others)} interactions", "together", *sums))
    most_looked = max((line[2] for line in lines), default=0.0) or 1.0
    largest = max((abs(line[3]) for line in lines), default=0.0) or 1.0
    return ExplainedShopper(
        product=shelf.take(shopper["item_id"]).name,
        summary=f"The ranker's score is {shopper['score']:.2f}. With the same history of products that nothing is "
        f"known of it would be {shopper['baseline_score']:.2f}: the products make "
        f"{signed_short(shopper['score'] - shopper['baseline_score'])}.",
        slots=[
            Slot(
                name=name,
                note=note,
                attention=share(looked),
                attention_width=round(100 * looked / most_looked, 1),
                attribution=signed_short(made),
                attribution_width=round(100 * abs(made) / largest, 1),
                against=made < 0,
            )
            for name, note, looked, made in lines
        ],
    )


def signed_short(value: float) -> str:
    """A contribution to a score, with its sign."""
    return f"{value:+.2f}".replace("-", "−")


def _age(back: int) -> str:
    return "the newest" if back == 0 else f"{back} before the newest"


def _agreement(found: Mapping[str, Any]) -> str:
    """Whether attention tells more than what is new."""
    if found["attention"] is None:
        return "Not measured: how far attention and attribution agree; no history is long enough."
    told = (
        f"Over {found['shoppers']:,} shoppers with {found['fewest_slots']} interactions or more, attention puts the "
        f"slots in the order of their contributions' sizes with a Spearman correlation of {signed(found['attention'])} "
        f"on average; the order of time alone reaches {signed(found['recency'])}"
    )
    if found["attention"] <= found["recency"]:
        return f"{told}: here attention says no more than what is new, so trust the contributions."
    return f"{told}."


def _completeness(found: Mapping[str, Any], steps: int) -> str:
    whole = found["mean_difference"]
    missed = share(found["mean_error"] / whole) if whole else ABSENT
    return (
        f"Contributions are integrated gradients over {steps} points and the gain of buying again; what they should "
        f"add up to they miss by {missed} on average."
    )


def _charts(biases: Mapping[str, Any]) -> list[Chart]:
    charts = []
    for number, block in enumerate(biases["blocks"], start=1):
        if block["distance"] is not None:
            charts.append(_distance_chart(number, block["distance"]))
        if block["time"] is not None:
            charts.append(_time_chart(number, block["time"], biases["time_from"]))
    if biases["places"] is not None:
        title = "Embeddings of places: how alike"
        places = biases["places"]
        svg = heat_map(title, places, "newest", f"{len(places) - 1} back")
        charts.append(Chart(title, "cosine of two places; green = alike, red = opposite", svg))
    return charts


def _distance_chart(number: int, distance: Mapping[str, Any]) -> Chart:
    first, heads = distance["first"], distance["heads"]
    last = first + len(heads[0]) - 1
    wanted = sorted({first, 0, last // 2, last} & set(range(first, last + 1)))
    places = {back - first: _distance(back) for back in wanted}
    title = f"Block {number}: bias by distance"
    return Chart(title, _BIAS_NOTE, line_chart(title, _heads(heads), places))


def _distance(back: int) -> str:
    return "itself" if back == 0 else f"{back} back" if back > 0 else f"{-back} on"


def _time_chart(number: int, heads: Sequence[Sequence[float]], time_from: Sequence[int | None]) -> Chart:
    """Without the bucket of unknown times, which is no place on the axis."""
    known = [place for place, seconds in enumerate(time_from) if seconds is not None]
    curves = _heads([[values[place] for place in known] for values in heads])
    places = {}
    for name, seconds in _TIMES.items():
        # The bucket that the time falls into.
        places[sum((time_from[place] or 0) <= seconds for place in known) - 1] = name
    title = f"Block {number}: bias by the time between"
    return Chart(title, _BIAS_NOTE, line_chart(title, curves, places))


def _heads(heads: Sequence[Sequence[float]]) -> list[Curve]:
    return [Curve(f"head {number}", values) for number, values in enumerate(heads, start=1)]
