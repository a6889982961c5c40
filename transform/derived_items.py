"""A catalogue out of the events themselves, for shops whose order lines carry the product's text and price."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa

from transform.table_map import DerivedField
from transform.tables import ITEMS


class DerivedItems:
    """Gathers products' fields batch by batch; memory grows with the products' distinct values, not with the events.

    The kept events of all times are read, also later than any cut-off: `most_frequent` and `last` can carry knowledge
    of the future. For a text that names the product that is harmless; a price moves with demand, so take its `first`.
    """

    def __init__(self, fields: Mapping[str, DerivedField]) -> None:
        self._fields = fields
        self._found: dict[str, pd.DataFrame] = {}
        self._item_ids: set[str] = set()
        self._rows = 0

    def add(self, item_ids: pa.ChunkedArray, times: pa.Array | None, values: Mapping[str, pa.Array]) -> None:
        """Reads kept events: ids [rows], seconds [rows] or None (their order counts), and each field's value [rows]."""
        ids = item_ids.to_pandas()
        self._item_ids.update(ids.dropna().unique().tolist())
        order = np.arange(self._rows, self._rows + len(ids))
        self._rows += len(ids)
        for name, column in values.items():
            frame = pd.DataFrame(
                {
                    "item": ids.to_numpy(),
                    "value": column.to_pandas().to_numpy(),
                    "time": order if times is None else times.to_numpy(),
                    "order": order,
                }
            ).dropna(subset=["item", "value"])
            gathered = [self._found[name], frame] if name in self._found else [frame]
            self._found[name] = self._reduce(pd.concat(gathered, ignore_index=True), self._fields[name].pick)

    @staticmethod
    def _reduce(frame: pd.DataFrame, pick: str) -> pd.DataFrame:
        if pick == "most_frequent":
            if "count" not in frame:
                frame["count"] = np.nan
            frame["count"] = frame["count"].fillna(1)
            return frame.groupby(["item", "value"], as_index=False, sort=False)["count"].sum()
        keep = "first" if pick == "first" else "last"
        return frame.sort_values(["time", "order"]).drop_duplicates("item", keep=keep)

    def table(self) -> pa.Table:
        """The items table, sorted by item_id; a product without a value has null."""
        items = pd.DataFrame(index=pd.Index(sorted(self._item_ids), name="item_id"))
        for name, found in self._found.items():
            if self._fields[name].pick == "most_frequent":
                found = found.sort_values(["count", "value"], ascending=[False, True]).drop_duplicates("item")
            items[name] = found.set_index("item")["value"]
        columns = {"item_id": pa.array(items.index, pa.string())}
        for name in self._fields:
            columns[name] = pa.array(items[name], from_pandas=True).cast(ITEMS.field(name).type)
        return pa.table(columns)
