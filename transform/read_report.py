"""Counts of the rows that were read of a table."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np


@dataclass
class Report:
    """Counts of the rows read; those of all workers merge to the same result in any order."""

    rows: int = 0
    spilled: int = 0
    late: int = 0  # good rows that came later than the configuration waits for
    rejected: dict[str, int] = field(default_factory=dict)  # field and rule → rows
    faults: dict[str, int] = field(default_factory=dict)  # of good rows, see transform/content_faults.py
    failures: list[str] = field(default_factory=list)  # row groups that cannot be read
    types: dict[str, int] = field(default_factory=dict)
    # Minute since 1970, in order, and how many events that enter histories it has: int64 [minutes, 2].
    minutes: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    first_timestamp: int | None = None
    last_timestamp: int | None = None

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return vars(self) | {"minutes": self.minutes.tolist()}

    @staticmethod
    def from_json(found: dict[str, Any]) -> "Report":
        """The report that `as_json` told."""
        return Report(**found | {"minutes": np.array(found["minutes"], np.int64).reshape(-1, 2)})


def merged(reports: Iterable[Report]) -> Report:
    """The counts of all."""
    reports = list(reports)
    firsts = [report.first_timestamp for report in reports if report.first_timestamp is not None]
    lasts = [report.last_timestamp for report in reports if report.last_timestamp is not None]
    return Report(
        rows=sum(report.rows for report in reports),
        spilled=sum(report.spilled for report in reports),
        late=sum(report.late for report in reports),
        rejected=add_counts(*(report.rejected for report in reports)),
        faults=add_counts(*(report.faults for report in reports)),
        failures=sorted(failure for report in reports for failure in report.failures),
        types=add_counts(*(report.types for report in reports)),
        minutes=_add_minutes([report.minutes for report in reports]),
        first_timestamp=min(firsts, default=None),
        last_timestamp=max(lasts, default=None),
    )


def add_counts(*several: dict[str, int]) -> dict[str, int]:
    """Sums by key, in the order in which the keys are met."""
    total: dict[str, int] = {}
    for counts in several:
        for key, count in counts.items():
            total[key] = total.get(key, 0) + count
    return total


def _add_minutes(several: list[np.ndarray]) -> np.ndarray:
    """Sums by minute, int64 [minutes, 2]."""
    every = np.concatenate([np.empty((0, 2), np.int64), *several])
    minutes, which = np.unique(every[:, 0], return_inverse=True)
    counts = np.zeros(len(minutes), np.int64)
    np.add.at(counts, which, every[:, 1])
    return np.column_stack([minutes, counts])


class MergeReports(beam.CombineFn):
    """Sums reports."""

    def create_accumulator(self) -> Report:
        return Report()

    def add_input(self, accumulator: Report, report: Report) -> Report:
        return merged([accumulator, report])

    def merge_accumulators(self, accumulators: Iterable[Report]) -> Report:
        return merged(accumulators)

    def extract_output(self, accumulator: Report) -> dict[str, Any]:
        return accumulator.as_json()
