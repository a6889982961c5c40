"""Drawings of what a model has learned of places: curves by distance, and which places it takes for alike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from PIL import Image

from pipeline.charts import WIDTH, drawing, ticks
from pipeline.pictures import data_uri

_HEIGHT = 170
_TOP, _RIGHT, _BOTTOM, _LEFT = 14, 12, 30, 46
_LEGEND_ROW, _LEGEND_COLUMNS = 16, 4
_SIDE = 240
# Colours of 1, 0 and −1, which stand on light and on dark paper.
_ALIKE, _NEITHER, _OPPOSITE = (15, 111, 104), (244, 242, 236), (163, 58, 43)
# CSS classes of curves, in their order.
_TONES = ("", "part", "plain", "dashed", "part dashed", "plain dashed")


@dataclass(frozen=True)
class Curve:
    """One value per place, left to right."""

    label: str
    values: Sequence[float]


def line_chart(title: str, curves: Sequence[Curve], places: Mapping[int, str]) -> Markup:
    """Curves over the same places, with a legend.

    Args:
        title: what is drawn, read out by screen readers.
        curves: at least one, all of one length, of finite values.
        places: labels below the axis, by place.

    Raises:
        ValueError: there is nothing to draw, lengths differ, or a value is not finite.
    """
    lengths = {len(curve.values) for curve in curves}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"chart {title!r}: curves must be of one length, at least 1, received {sorted(lengths)}.")
    values = [value for curve in curves for value in curve.values]
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"chart {title!r}: values must be finite, received {values}.")
    last = lengths.pop() - 1
    step = (WIDTH - _LEFT - _RIGHT) / max(1, last)
    marks = ticks(min(values), max(values))

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - marks[0]) / (marks[-1] - marks[0]) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_mark(f"{mark:.6g}".replace("-", "−"), y(mark)) for mark in marks]
    for place, label in places.items():
        # What stands at the right edge must not leave the drawing.
        parts.append(_text(_LEFT + step * place, _HEIGHT - _BOTTOM + 16, label, "end" if place == last else "middle"))
    for number, curve in enumerate(curves):
        points = " ".join(f"{_LEFT + step * place:.1f},{y(value):.1f}" for place, value in enumerate(curve.values))
        parts.append(_curve(number, points))
    return drawing(title, _HEIGHT + _legend_height(curves), [*parts, *_legend(curves)])


def heat_map(title: str, cosines: Sequence[Sequence[float]], first: str, last: str) -> Markup:
    """How alike each is to each, as colours: 1 green, 0 pale, −1 red.

    Args:
        title: what is drawn, read out by screen readers.
        cosines: [N][N], from −1 to 1.
        first: label of line and column 0.
        last: label of the last column.
    """
    picture = Image.new("RGB", (len(cosines), len(cosines)))
    picture.putdata([_colour(value) for line in cosines for value in line])
    parts = [
        Markup('<image x="{0}" y="0" width="{1}" height="{1}" style="image-rendering:pixelated" href="{2}"/>').format(
            _LEFT, _SIDE, data_uri(picture)
        ),
        _text(_LEFT - 6, 11, first, "end"),
        _text(_LEFT, _SIDE + 16, first, "start"),
        _text(_LEFT + _SIDE, _SIDE + 16, last, "end"),
    ]
    return drawing(title, _SIDE + 22, parts)


def _colour(cosine: float) -> tuple[int, int, int]:
    end, share = (_ALIKE, cosine) if cosine > 0 else (_OPPOSITE, -cosine)
    share = min(1.0, share)
    red, green, blue = (round(pale + share * (full - pale)) for pale, full in zip(_NEITHER, end, strict=True))
    return red, green, blue


def _mark(label: str, y: float) -> Markup:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>').format(_LEFT, WIDTH - _RIGHT, y=y)
    return line + _text(_LEFT - 6, y + 4, label, "end")


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="note" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _curve(number: int, points: str) -> Markup:
    return Markup('<polyline class="curve {}" points="{}"/>').format(_TONES[number % len(_TONES)], points)


def _legend_height(curves: Sequence[Curve]) -> int:
    return _LEGEND_ROW * math.ceil(len(curves) / _LEGEND_COLUMNS) + 4


def _legend(curves: Sequence[Curve]) -> list[Markup]:
    parts = []
    for number, curve in enumerate(curves):
        row, column = divmod(number, _LEGEND_COLUMNS)
        x, y = 2 + column * WIDTH / _LEGEND_COLUMNS, _HEIGHT + row * _LEGEND_ROW
        parts += [_curve(number, f"{x:.1f},{y + 6} {x + 16:.1f},{y + 6}"), _text(x + 21, y + 10, curve.label, "start")]
    return parts
