"""Inline SVG charts, read back as XML."""

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.charts import Bar, bar_chart, curve_chart, figure


def widths(svg: str) -> list[float]:
    return [float(bar.attrib["width"]) for bar in ET.fromstring(svg).iter("rect")]


def texts(svg: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(svg).iter("text")]


def test_bars_are_as_long_as_their_values() -> None:
    long, short = widths(bar_chart("chart", [Bar("a", 0.4), Bar("b", 0.1)]))
    assert long / short == pytest.approx(4, rel=0.01)


def test_whisker_spans_its_interval_on_the_scale_of_the_bars() -> None:
    svg = bar_chart("chart", [Bar("a", 0.2, low=0.1, high=0.4)])
    path = next(ET.fromstring(svg).iter("path")).attrib["d"]
    low, high = (float(end) for end in re.match(r"M([\d.]+) [\d.]+H([\d.]+)", path).groups())
    assert [low, high] == pytest.approx([widths(svg)[0] / 2, widths(svg)[0] * 2], abs=0.1)


def test_limit_is_drawn_and_labelled() -> None:
    svg = bar_chart("chart", [Bar("a", 0.2)], limit=0.4, limit_label="best")
    line = next(ET.fromstring(svg).iter("line"))
    assert float(line.attrib["x1"]) == pytest.approx(2 * widths(svg)[0], abs=0.1)
    assert "best 0.400" in texts(svg)


def test_labels_are_escaped() -> None:
    svg = bar_chart('"><script>', [Bar("<script>", 1.0)])
    assert "<script>" not in svg
    assert "<script>" in texts(svg)


def test_bars_that_are_all_zero_are_drawn() -> None:
    assert texts(bar_chart("chart", [Bar("a", 0.0)])) == ["a", "0.000"]


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_value_that_cannot_be_drawn_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"chart 'c', bar 'a': value must be finite and ≥ 0, received {value}"):
        bar_chart("c", [Bar("a", value)])


def test_chart_without_bars_is_refused() -> None:
    with pytest.raises(ValueError, match="chart 'c': at least one bar is needed"):
        bar_chart("c", [])


def test_curve_marks_the_best_epoch() -> None:
    svg = curve_chart("curve", [1, 2, 3], [0.1, 0.3, 0.2], best=2)
    points = next(ET.fromstring(svg).iter("polyline")).attrib["points"].split()
    mark = next(ET.fromstring(svg).iter("circle")).attrib
    assert points[1] == f"{mark['cx']},{mark['cy']}"


def test_neighbouring_epoch_labels_do_not_overlap() -> None:
    epochs = list(range(1, 101))
    labels = texts(curve_chart("curve", epochs, [epoch / 1_000 for epoch in epochs], best=99))
    assert "99" in labels
    assert "100" not in labels


@pytest.mark.parametrize(("epochs", "values"), [([], []), ([1, 2], [0.1]), ([1], [math.nan])])
def test_curve_that_cannot_be_drawn_is_refused(epochs: list[int], values: list[float]) -> None:
    with pytest.raises(ValueError, match="chart 'c'"):
        curve_chart("c", epochs, values)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_curve_stays_inside_the_picture(values: list[float]) -> None:
    svg = ET.fromstring(curve_chart("curve", list(range(1, len(values) + 1)), values))
    width, height = (float(size) for size in svg.attrib["viewBox"].split()[2:])
    for point in next(svg.iter("polyline")).attrib["points"].split():
        x, y = (float(part) for part in point.split(","))
        assert 0 <= x <= width
        assert 0 <= y <= height


@pytest.mark.parametrize(
    ("value", "largest", "text"),
    [
        (0.1234, 0.5, "0.123"),
        (0.01234, 0.05, "0.0123"),
        (0.5, 1.0, "0.50"),
        (12345.6, 20000, "12,346"),
        (0, 0, "0.000"),
    ],
)
def test_figures_have_the_decimals_that_the_largest_needs(value: float, largest: float, text: str) -> None:
    assert figure(value, largest) == text
