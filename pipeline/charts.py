"""Small charts as inline SVG: bars with whiskers and curves over epochs. Colours come from the page's CSS variables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

# User units. Phones show a chart at about this width in pixels, so that the text keeps its size.
WIDTH = 300
_FONT = 12
_BAR_ROW = 36
_BAR_HEIGHT = 11
# Kept free for the figure right of the longest bar.
_FIGURE_WIDTH = 54
_CURVE_HEIGHT = 170
_CURVE_MARGIN = (14, 12, 30, 46)  # top, right, bottom, left


@dataclass(frozen=True)
class Bar:
    """One bar; `tone` is the CSS class that colours it ("main", "part" or "plain"), `low` and `high` the whisker."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    tone: str = "plain"


def bar_chart(title: str, bars: Sequence[Bar], limit: float | None = None, limit_label: str = "") -> Markup:
    """Horizontal bars from 0, labels above them, figures beside them.

    Args:
        title: what is drawn, read out by screen readers.
        bars: at least one, values finite and not negative.
        limit: a value marked by a dashed line through all bars, such as the best attainable.
        limit_label: what that value is.

    Raises:
        ValueError: there is no bar, or a value is negative or not finite.
    """
    if not bars:
        raise ValueError(f"chart {title!r}: at least one bar is needed, received none.")
    for bar in bars:
        if not math.isfinite(bar.value) or bar.value < 0:
            raise ValueError(f"chart {title!r}, bar {bar.label!r}: value must be finite and ≥ 0, received {bar.value}.")
    ends = [bar.value if bar.high is None else bar.high for bar in bars] + ([] if limit is None else [limit])
    scale = (WIDTH - _FIGURE_WIDTH) / (max(ends) or 1.0)
    height = len(bars) * _BAR_ROW + (18 if limit is not None else 0)
    parts = []
    if limit is not None:
        # Before the bars, so that a figure that stands on the line stays readable.
        x, bottom = limit * scale, len(bars) * _BAR_ROW
        parts.append(Markup('<line class="limit" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="{1}"/>').format(x, bottom))
        parts.append(
            Markup('<text class="note" x="{:.1f}" y="{}" text-anchor="{}">{} {}</text>').format(
                x,
                bottom + 13,
                "end" if x > WIDTH / 2 else "start",
                limit_label,
                figure(limit, max(ends)),
            )
        )
    parts += [_bar(bar, row, scale, max(ends)) for row, bar in enumerate(bars)]
    return drawing(title, height, parts)


def _bar(bar: Bar, row: int, scale: float, largest: float) -> Markup:
    top = row * _BAR_ROW
    middle = top + 18 + _BAR_HEIGHT / 2
    end = bar.value * scale
    parts = [
        Markup('<text class="label" x="0" y="{}">{}</text>').format(top + 13, bar.label),
        Markup('<rect class="bar {}" x="0" y="{}" width="{:.1f}" height="{}" rx="2"/>').format(
            bar.tone, top + 18, max(end, 1.0), _BAR_HEIGHT
        ),
    ]
    if bar.low is not None and bar.high is not None:
        low, high = bar.low * scale, bar.high * scale
        parts.append(
            Markup('<path class="whisker" d="M{0:.1f} {2}H{1:.1f}M{0:.1f} {3}V{4}M{1:.1f} {3}V{4}"/>').format(
                low, high, middle, middle - 4, middle + 4
            )
        )
        end = max(end, high)
    parts.append(
        Markup('<text class="figure" x="{:.1f}" y="{}">{}</text>').format(
            end + 6, middle + 4, figure(bar.value, largest)
        )
    )
    return Markup("").join(parts)


def curve_chart(title: str, epochs: Sequence[int], values: Sequence[float], best: int | None = None) -> Markup:
    """One value per epoch as a line; the epoch `best` is marked.

    Raises:
        ValueError: nothing to draw, lengths differ, or a value is not finite.
    """
    if not values or len(values) != len(epochs):
        raise ValueError(
            f"chart {title!r}: as many epochs as values are needed, and at least one; "
            f"received {len(epochs)} epochs and {len(values)} values."
        )
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"chart {title!r}: values must be finite, received {list(values)}.")
    top, right, bottom, left = _CURVE_MARGIN
    marks = ticks(min(values), max(values))
    floor, ceiling = marks[0], marks[-1]

    def x(epoch: float) -> float:
        span = (epochs[-1] - epochs[0]) or 1
        return left + (epoch - epochs[0]) / span * (WIDTH - left - right)

    def y(value: float) -> float:
        return _CURVE_HEIGHT - bottom - (value - floor) / (ceiling - floor) * (_CURVE_HEIGHT - top - bottom)

    parts = []
    for tick in marks:
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>').format(
                left, WIDTH - right, y=y(tick)
            )
        )
        parts.append(
            Markup('<text class="note" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
                left - 6, y(tick) + 4, f"{tick:.6g}"
            )
        )
    points = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in zip(epochs, values, strict=True))
    parts.append(Markup('<polyline class="curve" points="{}"/>').format(points))
    marked = epochs[-1] if best is None else best
    at = list(epochs).index(marked)
    parts.append(Markup('<circle class="mark" cx="{:.1f}" cy="{:.1f}" r="4"/>').format(x(marked), y(values[at])))
    for epoch in sorted({epochs[0], marked, epochs[-1]}):
        # The marked epoch's own label would run into the first's or last's when it is their neighbour.
        if epoch == marked or abs(x(epoch) - x(marked)) > 2 * _FONT:
            parts.append(
                Markup('<text class="note" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                    x(epoch), _CURVE_HEIGHT - bottom + 16, epoch
                )
            )
    return drawing(title, _CURVE_HEIGHT, parts)


def figure(value: float, largest: float) -> str:
    """A metric with as many decimals as its neighbours need: three significant digits of the largest."""
    if largest >= 100:
        return f"{value:,.0f}"
    if largest <= 0:
        return f"{value:.3f}"
    return f"{value:.{min(6, max(2, 2 - math.floor(math.log10(largest))))}f}"


def ticks(low: float, high: float) -> list[float]:
    """Three to six round values that enclose [low, high]."""
    if high == low:
        low, high = low - abs(low) * 0.1 - 0.01, high + abs(high) * 0.1 + 0.01
    rough = (high - low) / 3
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough)
    return [number * step for number in range(math.floor(low / step), math.ceil(high / step) + 1)]


def drawing(title: str, height: int, parts: Sequence[Markup]) -> Markup:
    """Parts as one inline SVG, as wide as all charts; `title` is read out by screen readers."""
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, escape(title), Markup("").join(parts)
    )
