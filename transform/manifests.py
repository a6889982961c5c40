"""What one pipeline of the transform tells the next: JSON files with names of files and counts."""

from collections.abc import Iterable
from typing import Any

import apache_beam as beam

from transform.arrow_files import write_json
from transform.read_report import add_counts


def write_summary(value: Any, path: str) -> None:
    """Writes the one element of a collection."""
    write_json(path, value)


def write_manifest(files: beam.PCollection, label: str, path: str) -> None:
    """(partition, file) elements → one JSON file: partition → its files. This is all that the shuffle carries."""
    _ = (
        files
        | f"Group files of {label}" >> beam.GroupByKey()
        | f"List partitions of {label}" >> beam.MapTuple(_sorted_files)
        | f"Collect partitions of {label}" >> beam.CombineGlobally(beam.combiners.ToDictCombineFn())
        | f"Write partitions of {label}" >> beam.Map(write_summary, path)
    )


def _sorted_files(partition: str, files: Iterable[str]) -> tuple[str, list[str]]:
    return partition, sorted(files)


class MergeCounts(beam.CombineFn):
    """Sums dictionaries of counts."""

    def create_accumulator(self) -> dict[str, int]:
        return {}

    def add_input(self, accumulator: dict[str, int], counts: dict[str, int]) -> dict[str, int]:
        return add_counts(accumulator, counts)

    def merge_accumulators(self, accumulators: Iterable[dict[str, int]]) -> dict[str, int]:
        return add_counts(*accumulators)

    def extract_output(self, accumulator: dict[str, int]) -> dict[str, int]:
        return accumulator
