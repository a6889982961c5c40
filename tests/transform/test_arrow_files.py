"""Tables that are spilled and joined again."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from transform.arrow_files import Spill, joined, read_tables

VALUES = st.lists(st.one_of(st.none(), st.sampled_from(["", "a", "b", "ü"])), max_size=8)


def encoded(values: list[str | None]) -> pa.DictionaryArray:
    """With an entry that nothing names, and nonsense where nulls are."""
    entries = ["nobody", *sorted({value for value in values if value is not None})]
    codes = np.array([10**9 if value is None else entries.index(value) for value in values], np.int32)
    absent = np.array([value is None for value in values], bool)
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=absent), pa.array(entries, pa.string()))


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_joined_dictionaries_keep_the_values_and_nothing_else(parts: list[list[str | None]]) -> None:
    table = joined([pa.table({"name": encoded(part)}) for part in parts])
    expected = [value for part in parts for value in part]
    assert table.column("name").to_pylist() == expected
    if expected:
        entries = table.column("name").chunk(0).dictionary.to_pylist()
        assert sorted(entries) == sorted({value for value in expected if value is not None})


def test_spilled_rows_come_back_from_all_flushes(tmp_path: Path) -> None:
    spill = Spill(str(tmp_path / "spill"))
    files: dict[str, list[str]] = {}
    for flush in range(3):
        for partition in ("even", "odd"):
            rows = pa.table({"name": encoded([None, f"{partition}-{flush}", "both"]), "row": [flush, flush, flush]})
            list(spill.add(partition, rows))
        for partition, path in spill.flush():
            files.setdefault(partition, []).append(path)
    odd = read_tables(files["odd"])
    assert odd.column("name").to_pylist() == [None, "odd-0", "both", None, "odd-1", "both", None, "odd-2", "both"]
    assert odd.column("row").to_pylist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
