import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transform.checks import DataError
from transform.import_tables import CanonicalWriter

NOW = 1_600_000_000
SOURCE = Path("shop.csv")


def writer(out: Path, max_bad_share: float = 0.5) -> CanonicalWriter:
    return CanonicalWriter(out, "Shop", "table", [SOURCE], max_bad_share, NOW)


def batch(*users: str) -> tuple[pa.Table, Path, np.ndarray]:
    """Events of these users, from the lines 2, 3, …"""
    table = pa.table({"user_id": list(users), "item_id": ["i"] * len(users), "type": ["view"] * len(users)})
    return table, SOURCE, np.arange(2, len(users) + 2)


def write_batches(out: Path, *batches: tuple[pa.Table, Path, np.ndarray]) -> None:
    with writer(out) as canonical:
        for rows in batches:
            canonical.events(*rows)


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_tables_report_and_dead_letter_are_written(tmp_path: Path) -> None:
    with writer(tmp_path / "out") as canonical:
        canonical.drop("events", "no_customer", 3)
        assert canonical.events(*batch("a", "", "b")).tolist() == [True, False, True]
    assert entries(tmp_path / "out") == ["dataset.json", "dead_letter", "events.parquet"]
    assert pq.read_table(tmp_path / "out" / "events.parquet").column("user_id").to_pylist() == ["a", "b"]
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == {
        "name": "Shop",
        "format": "table",
        "sources": ["shop.csv"],
        "rows_read": 6,
        "rows_kept": 2,
        "dropped": {"no_customer": 3},
        "rejected": {"user_id: must not be empty": 1},
    }
    assert json.loads((tmp_path / "out" / "dead_letter" / "import.jsonl").read_text()) == {
        "table": "events",
        "file": "shop.csv",
        "line": 3,
        "reason": "user_id: must not be empty, received ''.",
        "row": {"user_id": "", "item_id": "i", "type": "view"},
    }


def test_too_many_bad_rows_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused, writer(tmp_path / "out", 0.3) as canonical:
        canonical.events(*batch("a", "", "b", ""))
    message = str(refused.value)
    assert "2 of 4 rows of the table 'events' are bad (50.0%), at most 30.0% may be (max_bad_share)" in message
    assert "2 × user_id: must not be empty" in message
    assert "shop.csv:3: user_id: must not be empty, received ''." in message
    assert entries(tmp_path) == []


def test_share_of_bad_rows_may_be_reached(tmp_path: Path) -> None:
    with writer(tmp_path / "out", 0.5) as canonical:
        canonical.events(*batch("a", ""))
    assert (tmp_path / "out").is_dir()


def test_error_midway_keeps_the_earlier_import(tmp_path: Path) -> None:
    with writer(tmp_path / "out") as canonical:
        canonical.events(*batch("a"))
    with pytest.raises(DataError, match="column 'item_id' of the table 'events' is missing"):
        write_batches(tmp_path / "out", batch("b"), (pa.table({"user_id": ["c"]}), SOURCE, np.array([3])))
    assert entries(tmp_path) == ["out"]
    assert pq.read_table(tmp_path / "out" / "events.parquet").column("user_id").to_pylist() == ["a"]


def test_earlier_import_is_replaced_whole(tmp_path: Path) -> None:
    with writer(tmp_path / "out") as canonical:
        canonical.events(*batch("a", ""))
    with writer(tmp_path / "out") as canonical:
        canonical.events(*batch("b"))
    assert entries(tmp_path / "out") == ["dataset.json", "events.parquet"]
    assert entries(tmp_path) == ["out"]


def test_what_a_killed_import_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".out.importing" / "dead_letter").mkdir(parents=True)
    with writer(tmp_path / "out") as canonical:
        canonical.events(*batch("a"))
    assert entries(tmp_path) == ["out"]


def test_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with writer(tmp_path / "out") as canonical:
        canonical.events(*batch("a"))
    assert "events.parquet" in entries(tmp_path / "out")


def test_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{}")
    (tmp_path / "thesis.doc").write_text("ten years of work")
    with pytest.raises(DataError, match=r"already holds \['thesis\.doc'\], which `tandem import` has not written"):
        writer(tmp_path).__enter__()
    assert entries(tmp_path) == ["dataset.json", "thesis.doc"]


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write into .*: Not a directory\. Choose another folder"):
        writer(tmp_path / "file" / "out").__enter__()


def test_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="out is a file; a folder is needed"):
        writer(tmp_path / "out").__enter__()


def test_import_without_an_event_is_refused(tmp_path: Path) -> None:
    message = r"no event is left of 4 rows \(left out on purpose: returns: 4; bad: 0\)"
    with pytest.raises(DataError, match=message), writer(tmp_path / "out") as canonical:
        canonical.drop("events", "returns", 4)
    assert entries(tmp_path) == []


def test_impossible_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"max_bad_share must be between 0 and 1, received 5\."):
        writer(tmp_path / "out", 5)
