"""The newest events of each shopper, up to a cap: one shopper with millions of events must not fill the memory."""

import numpy as np
import pyarrow as pa

from transform.arrow_files import joined

# Rows that are held before shoppers over the cap are looked for.
_HELD_ROWS = 1_000_000


class NewestEvents:
    """Takes the events of a bucket table by table and keeps, of each shopper, at most so many.

    The newest by time and place in the source stay (without a clock: by the place alone), whatever the order of the
    tables. Held are at most twice the events that are kept in the end, or `held_rows`, and one table.
    """

    def __init__(self, most: int, held_rows: int = _HELD_ROWS) -> None:
        """Args:
        most: events of one shopper.
        held_rows: rows that are held before any is left out.
        """
        self._most = most
        self._held_rows = self._limit = held_rows
        self._tables: list[pa.Table] = []
        self._rows = 0
        self._over: set[str] = set()
        self._taken = self._dropped = 0

    @property
    def counts(self) -> dict[str, int]:
        """`events` that were taken, `over_cap`: of them left out, and `shoppers_over_cap`."""
        return {"events": self._taken, "over_cap": self._dropped, "shoppers_over_cap": len(self._over)}

    def add(self, table: pa.Table) -> None:
        """Takes events: the columns of transform/interactions.py, `user_id` as a dictionary."""
        self._tables.append(table)
        self._rows += table.num_rows
        self._taken += table.num_rows
        if self._rows > self._limit:
            self._leave_out()
            self._limit = max(self._held_rows, 2 * self._rows)

    def table(self) -> pa.Table:
        """What is kept, in one chunk."""
        self._leave_out()
        return self._tables[0]

    def _leave_out(self) -> None:
        table = joined(self._tables)
        users = table.column("user_id").chunk(0)
        codes = users.indices.to_numpy()
        over = np.bincount(codes, minlength=len(users.dictionary)) > self._most
        if over.any():
            self._over.update(users.dictionary.filter(pa.array(over)).to_pylist())
            kept = _newest(table, codes, over, self._most)
            self._dropped += table.num_rows - int(kept.sum())
            table = joined([table.filter(pa.array(kept))])
        self._tables, self._rows = [table], table.num_rows


def _newest(table: pa.Table, codes: np.ndarray, over: np.ndarray, most: int) -> np.ndarray:
    """Bool [rows]: all rows but those of the shoppers `over` (bool [shoppers]) that have `most` newer ones."""
    rows = np.flatnonzero(over[codes])
    keys = [table.column("row").to_numpy()[rows]]
    if "timestamp" in table.column_names:
        keys.append(table.column("timestamp").to_numpy()[rows])
    rows = rows[np.lexsort([*keys, codes[rows]])]
    ends = np.cumsum(np.bincount(codes[rows]))[codes[rows]]
    kept = np.ones(len(codes), bool)
    kept[rows[ends - np.arange(len(rows)) > most]] = False
    return kept
