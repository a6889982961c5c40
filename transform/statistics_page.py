"""A plain, self-contained HTML page of TensorFlow Data Validation's statistics, one table for each feature's spans."""

from html import escape
from pathlib import Path

from tensorflow_metadata.proto.v0 import statistics_pb2

_TOP_VALUES = 5
_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; }
table { border-collapse: collapse; margin-bottom: 2rem; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .75rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child, td.values { text-align: left; }
"""
_NUMBERS = ("missing", "mean", "standard deviation", "minimum", "median", "maximum", "zeros", "distinct")


def write_page(file: Path, statistics: dict[str, statistics_pb2.DatasetFeatureStatisticsList]) -> None:
    """Writes one table of features for each dataset in `statistics`, by name."""
    tables = [_table(name, found.datasets[0]) for name, found in statistics.items()]
    title = "Data statistics"
    file.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"</head><body><h1>{title}</h1>{''.join(tables)}</body></html>\n",
        encoding="utf-8",
    )


def _table(name: str, found: statistics_pb2.DatasetFeatureStatistics) -> str:
    head = "".join(f"<th>{column}</th>" for column in ("feature", *_NUMBERS, "most frequent values"))
    rows = "".join(_row(feature, found.num_examples) for feature in found.features)
    return (
        f"<h2>{escape(name)}: {found.num_examples:,} rows</h2>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _row(feature: statistics_pb2.FeatureNameStatistics, rows: int) -> str:
    numbers = _numeric_cells(feature, rows) if feature.HasField("num_stats") else _string_cells(feature, rows)
    cells = "".join(f"<td>{numbers.get(column, '')}</td>" for column in _NUMBERS)
    return f"<tr><td>{escape(feature.path.step[0])}</td>{cells}<td class=values>{_top(feature, rows)}</td></tr>"


def _numeric_cells(feature: statistics_pb2.FeatureNameStatistics, rows: int) -> dict[str, str]:
    found = feature.num_stats
    return {
        "missing": f"{found.common_stats.num_missing / rows:.1%}",
        "mean": f"{found.mean:,.4g}",
        "standard deviation": f"{found.std_dev:,.4g}",
        "minimum": f"{found.min:,.6g}",
        "median": f"{found.median:,.6g}",
        "maximum": f"{found.max:,.6g}",
        "zeros": f"{found.num_zeros / rows:.1%}",
    }


def _string_cells(feature: statistics_pb2.FeatureNameStatistics, rows: int) -> dict[str, str]:
    found = feature.string_stats
    return {"missing": f"{found.common_stats.num_missing / rows:.1%}", "distinct": f"{found.unique:,}"}


def _top(feature: statistics_pb2.FeatureNameStatistics, rows: int) -> str:
    values = feature.string_stats.top_values[:_TOP_VALUES]
    return "<br>".join(f"{escape(value.value)} ({value.frequency / rows:.1%})" for value in values)
