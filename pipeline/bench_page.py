"""DIR/bench.html: the loads of a benchmark as curves and tables, on one page that needs no other file."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipeline import VERSION
from pipeline.bench_results import Result
from pipeline.bias_charts import Curve, line_chart
from pipeline.pages import page_environment
from pipeline.report_tables import ABSENT, Cell, Chart, Row, Table

PAGE_FILE = "bench.html"
_PERCENTILES = ("p50", "p90", "p99")


def write_page(path: Path, target: str, signature: str, results: Sequence[Result]) -> None:
    """Writes the page, whole or not at all."""
    page = (
        page_environment()
        .get_template("bench.html.j2")
        .render(
            target=target,
            signature=signature,
            charts=charts(results),
            table=table(results),
            version=VERSION,
            made=datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
        )
    )
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)


def charts(results: Sequence[Result]) -> list[Chart]:
    """Percentiles over the rates, if there are several, then latency over time of each load."""
    rates = sorted({one.rate: one for one in results if one.rate is not None and one.latency_ms}.items())
    drawn = []
    if len(rates) > 1:
        curves = [Curve(name, [getattr(one.latency_ms, name) for _, one in rates]) for name in _PERCENTILES]
        places = {place: f"{rate:g}" for place, (rate, _) in enumerate(rates)}
        chart = line_chart("Latency in milliseconds by requests a second", curves, places)
        drawn.append(Chart("Latency by rate", "milliseconds; below: requests a second", chart))
    return drawn + [_over_time(one) for one in results if one.over_time]


def table(results: Sequence[Result]) -> Table:
    """One line a load."""
    heads = ["load", "answers/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "errors", "versions"]
    heads += ["server cores", "server ms/request", "client ms/request"]
    return Table("All loads", heads, [_row(one) for one in results])


def load_name(one: Result) -> str:
    """The load in words."""
    if one.rate is None:
        return f"{one.callers} caller{'s' * (one.callers > 1)}, one by one"
    return f"{one.rate:g} requests/s"


def _row(one: Result) -> Row:
    milliseconds = [getattr(one.latency_ms, name) for name in (*_PERCENTILES, "max")] if one.latency_ms else []
    errors = ", ".join(f"{code} {number}" for code, number in one.errors.items()) or "0"
    used = [f"{one.server.cores:.2f}", f"{one.server.cpu_ms_per_request:.2f}"] if one.server else [ABSENT] * 2
    texts = [
        f"{one.achieved_rate:.0f}",
        *([f"{value:.1f}" for value in milliseconds] or [ABSENT] * 4),
        errors,
        ", ".join(str(version) for version in one.versions) or ABSENT,
        *used,
        f"{one.client_cpu_ms_per_request:.2f}",
    ]
    return Row(load_name(one), [Cell(text) for text in texts])


def _over_time(one: Result) -> Chart:
    slices = one.over_time
    places = {0: "0 s", len(slices) - 1: f"{slices[-1].start:.0f} s"}
    seen = set(slices[0].versions)
    for place, part in enumerate(slices):
        if new := set(part.versions) - seen:
            places[place] = f"▲ version {max(new)}"
            seen |= new
    curves = [Curve(name, [getattr(part.latency_ms, name) for part in slices]) for name in _PERCENTILES]
    note = "milliseconds over time; ▲ where a new version first answers"
    return Chart(load_name(one), note, line_chart(f"Latency over time, {load_name(one)}", curves, places))
