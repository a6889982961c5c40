"""Writes canonical tables as a whole or not at all: what an importer brings, what it dropped, what it refused."""

import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transform.checks import DataError, check_events, check_items, check_users, conform, count_reasons
from transform.clock import DAY
from transform.import_sources import Malformed, SourceBatch

REPORT = "dataset.json"
DEAD_LETTER = "dead_letter"
_WRITTEN_HERE = {"events.parquet", "items.parquet", "users.parquet", REPORT, DEAD_LETTER}
_MAX_FUTURE_SECONDS = DAY
_SHOWN_REASONS = 5
_SECONDS_BETWEEN_LOGS = 5.0

logger = logging.getLogger(__name__)


@dataclass
class TableCounts:
    """What became of the rows of one table: rows_read = rows_kept + all of dropped + all of rejected."""

    rows_kept: int = 0
    # Rows left out on purpose, by the name of the rule.
    dropped: Counter[str] = field(default_factory=Counter)
    # Bad rows, by field and rule.
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def rows_read(self) -> int:
        return self.rows_kept + self.dropped.total() + self.rejected.total()

    def as_json(self) -> dict[str, Any]:
        """The counts as they stand in dataset.json."""
        return {
            "rows_read": self.rows_read,
            "rows_kept": self.rows_kept,
            "dropped": dict(self.dropped),
            "rejected": dict(self.rejected.most_common()),
        }


class CanonicalWriter:
    """Context manager that streams canonical tables into a folder beside OUT and renames it to OUT when whole.

    OUT gets events.parquet, items.parquet and users.parquet (those that were written), dataset.json (provenance and
    counts) and, if there were bad rows, dead_letter/import.jsonl: {"table", "file", "line", "reason", "row"} with the
    line of a text file or the row of a Parquet file, both from 1. An exception in the block, too many bad rows or no
    event at all leave OUT as it was.

    Args:
        out: a folder that is not there yet, is empty, or holds an earlier import, which is then replaced.
        name: the dataset's name, for reports.
        source_format: "movielens", "sequences" or "table".
        sources: the files or folders that are read.
        max_bad_share: the import fails if a larger share of a table's rows is bad.
        now: seconds since 1970; events later than a day after it are bad. None: the clock.

    Raises:
        DataError: OUT can't be used or written; on leaving the block, too many bad rows or no event kept.
    """

    def __init__(
        self,
        out: Path,
        name: str,
        source_format: str,
        sources: Sequence[Path],
        max_bad_share: float,
        now: int | None = None,
    ) -> None:
        if not 0 <= max_bad_share <= 1:
            raise DataError(f"max_bad_share must be between 0 and 1, received {max_bad_share}.")
        self._out = out.absolute()
        self._partial = self._out.with_name(f".{self._out.name}.importing")
        self._facts = {"name": name, "format": source_format, "sources": [str(source) for source in sources]}
        self._max_bad_share = max_bad_share
        self._now = int(time.time()) if now is None else now
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._counts: dict[str, TableCounts] = {"events": TableCounts()}
        self._dead_letter: TextIO | None = None
        self._first_reasons: dict[str, list[str]] = {}
        self._logged = time.monotonic()

    def __enter__(self) -> "CanonicalWriter":
        _refuse_foreign_folder(self._out)
        try:
            # What a killed import left.
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
        except OSError as error:
            raise DataError(
                f"OUT {self._out}: cannot write into {self._partial.parent}: {error.strerror}. "
                "Choose another folder or change its permissions."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            for writer in self._writers.values():
                writer.close()
            if self._dead_letter:
                self._dead_letter.close()
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    @property
    def report(self) -> dict[str, Any]:
        """What dataset.json holds: provenance, the counts of the events, and those of other tables under their name."""
        events = self._counts["events"].as_json()
        others = {table: counts.as_json() for table, counts in self._counts.items() if table != "events"}
        return {**self._facts, **events, **others}

    def events(self, table: pa.Table, file: Path, lines: np.ndarray) -> np.ndarray:
        """Checks and writes a batch of events; every batch has the same columns.

        `lines`: int64 [rows], where each row stands in `file`. Returns bool [rows]: which rows were kept.
        """
        good, bad = check_events(self._with_lines("events", table, file, lines), self._now, _MAX_FUTURE_SECONDS)
        self._write("events", good, bad, file)
        return ~np.isin(lines, bad.column("line").to_numpy())

    def items(self, table: pa.Table, file: Path, lines: np.ndarray) -> None:
        """Checks and writes the whole items table: item_id is unique within one call."""
        self._write("items", *check_items(self._with_lines("items", table, file, lines)), file)

    def users(self, table: pa.Table, file: Path, lines: np.ndarray) -> None:
        """Checks and writes the whole users table: user_id is unique within one call."""
        self._write("users", *check_users(self._with_lines("users", table, file, lines)), file)

    def drop(self, table: str, rule: str, rows: int) -> None:
        """Counts `rows` rows that are left out on purpose; a rule that met no row is reported with 0."""
        self._counts.setdefault(table, TableCounts()).dropped[rule] += rows

    def reject(self, table: str, file: Path, lines: Iterable[int], reasons: Sequence[str], rows: Iterable[Any]) -> None:
        """Sends bad rows to the dead letter; all arguments but the first two have one entry per row."""
        if not reasons:
            return
        if self._dead_letter is None:
            folder = self._partial / DEAD_LETTER
            folder.mkdir()
            self._dead_letter = (folder / "import.jsonl").open("w", encoding="utf-8")
        shown = self._first_reasons.setdefault(table, [])
        for line, reason, row in zip(lines, reasons, rows, strict=True):
            entry = {"table": table, "file": str(file), "line": int(line), "reason": reason, "row": row}
            self._dead_letter.write(json.dumps(entry, ensure_ascii=False, default=str) + "\n")
            if len(shown) < _SHOWN_REASONS:
                shown.append(f"  {file}:{line}: {reason}")
        self._counts.setdefault(table, TableCounts()).rejected.update(count_reasons(reasons))

    def reject_malformed(self, table: str, file: Path, malformed: Sequence[Malformed]) -> None:
        """Sends rows without columns to the dead letter."""
        lines, reasons, texts = ([getattr(bad, name) for bad in malformed] for name in ("line", "reason", "text"))
        self.reject(table, file, lines, reasons, texts)

    def reject_unparsed(self, table: str, file: Path, batch: SourceBatch, reasons: Mapping[int, str]) -> None:
        """Sends rows of `batch`, each with its reason, to the dead letter as they stand in the source."""
        rows = sorted(reasons)
        values = batch.columns.take(pa.array(rows, pa.int64())).to_pylist()
        self.reject(table, file, batch.lines[rows].tolist(), [reasons[row] for row in rows], values)

    def _with_lines(self, name: str, table: pa.Table, file: Path, lines: np.ndarray) -> pa.Table:
        return conform(table, name, str(file)).append_column("line", pa.array(lines, pa.int64()))

    def _write(self, name: str, good: pa.Table, bad: pa.Table, file: Path) -> None:
        values = bad.drop(["line", "reason"]).to_pylist()
        self.reject(name, file, bad.column("line").to_pylist(), bad.column("reason").to_pylist(), values)
        good = good.drop(["line"])
        if name not in self._writers:
            self._writers[name] = pq.ParquetWriter(self._partial / f"{name}.parquet", good.schema, compression="zstd")
        if good.num_rows:
            self._writers[name].write_table(good)
        counts = self._counts.setdefault(name, TableCounts())
        counts.rows_kept += good.num_rows
        if time.monotonic() - self._logged > _SECONDS_BETWEEN_LOGS:
            self._logged = time.monotonic()
            logger.info("%s: %s rows read, %s kept", name, f"{counts.rows_read:,}", f"{counts.rows_kept:,}")

    def _finish(self) -> None:
        for name, counts in self._counts.items():
            self._refuse_many_bad_rows(name, counts)
        events = self._counts["events"]
        if not events.rows_kept:
            left_out = ", ".join(f"{rule}: {rows:,}" for rule, rows in events.dropped.items()) or "none"
            raise DataError(
                f"{', '.join(self._facts['sources'])}: no event is left of {events.rows_read:,} rows "
                f"(left out on purpose: {left_out}; bad: {events.rejected.total():,}). {self._out} was not written."
            )
        text = json.dumps(self.report, indent=2, ensure_ascii=False)
        (self._partial / REPORT).write_text(text + "\n", encoding="utf-8")
        self._take_place()

    def _refuse_many_bad_rows(self, name: str, counts: TableCounts) -> None:
        bad = counts.rejected.total()
        if bad <= self._max_bad_share * counts.rows_read:
            return
        rules = "\n".join(f"  {rows:,} × {rule}" for rule, rows in counts.rejected.most_common(_SHOWN_REASONS))
        raise DataError(
            f"{bad:,} of {counts.rows_read:,} rows of the table {name!r} are bad ({bad / counts.rows_read:.1%}), "
            f"at most {self._max_bad_share:.1%} may be (max_bad_share). {self._out} was not written.\n"
            f"Broken rules:\n{rules}\nThe first of them:\n" + "\n".join(self._first_reasons[name]) + "\n"
            "Correct the source or the map; rows that are meant to stay out get a `drop` rule in the map file."
        )

    def _take_place(self) -> None:
        """Puts the finished folder where OUT is; an earlier import goes only once the new one is whole."""
        replaced = self._out.with_name(f".{self._out.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if self._out.exists():
            self._out.rename(replaced)
        self._partial.rename(self._out)
        shutil.rmtree(replaced, ignore_errors=True)


def _refuse_foreign_folder(out: Path) -> None:
    """Refuses an OUT that holds something no import has written: replacing it would lose it."""
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"OUT {out} is a file; a folder is needed. Choose another name or remove it.")
    present = {entry.name for entry in out.iterdir()}
    if present and not (REPORT in present and present <= _WRITTEN_HERE):
        raise DataError(
            f"OUT {out} already holds {sorted(present - _WRITTEN_HERE) or sorted(present)}, which `tandem import` has "
            "not written. Only an empty folder or an earlier import is replaced: choose another folder or empty it."
        )
