import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from transform.checks import DataError
from transform.import_sequences import detect_layout, import_sequences
from transform.table_map import TableMap, with_pairs


def written(tmp_path: Path, text: str, name: str = "shop.txt") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def pairs(out: Path) -> list[tuple[str, str]]:
    return [(event["user_id"], event["item_id"]) for event in pq.read_table(out / "events.parquet").to_pylist()]


def test_pairs_keep_their_order(tmp_path: Path) -> None:
    import_sequences(written(tmp_path, "1 9\n1 3\n2 9\n"), tmp_path / "out")
    assert pairs(tmp_path / "out") == [("1", "9"), ("1", "3"), ("2", "9")]


def test_lines_become_one_event_per_item(tmp_path: Path) -> None:
    import_sequences(written(tmp_path, "1 9 3 9\n2 5 6\n"), tmp_path / "out")
    assert pairs(tmp_path / "out") == [("1", "9"), ("1", "3"), ("1", "9"), ("2", "5"), ("2", "6")]


def test_there_is_no_timestamp(tmp_path: Path) -> None:
    import_sequences(written(tmp_path, "1 9\n"), tmp_path / "out")
    assert pq.read_schema(tmp_path / "out" / "events.parquet").names == ["user_id", "item_id", "type"]


def test_gzip_is_read(tmp_path: Path) -> None:
    (tmp_path / "shop.txt.gz").write_bytes(gzip.compress(b"1 9\n"))
    assert import_sequences(tmp_path / "shop.txt.gz", tmp_path / "out")["name"] == "shop"


def test_stray_line_does_not_change_the_layout(tmp_path: Path) -> None:
    file = written(tmp_path, "1 2\n" * 99 + "1 2 3\n")
    assert detect_layout(file) == "pairs"
    import_sequences(file, tmp_path / "out", max_bad_share=0.01)
    letter = json.loads((tmp_path / "out" / "dead_letter" / "import.jsonl").read_text())
    assert (letter["line"], letter["row"]) == (100, "1 2 3")
    assert letter["reason"] == "row: must have 2 fields (user item), received '1 2 3'."


def test_unclear_layout_asks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"75% of the first lines have two fields.* Say which with layout"):
        detect_layout(written(tmp_path, "1 2\n1 2\n1 2\n1 2 3\n"))


def test_layout_can_be_said(tmp_path: Path) -> None:
    import_sequences(written(tmp_path, "1 2\n1 2\n1 2\n1 2 3\n"), tmp_path / "out", layout="lines")
    assert len(pairs(tmp_path / "out")) == 5


def test_user_without_items_is_bad(tmp_path: Path) -> None:
    report = import_sequences(written(tmp_path, "1 2 3\n2\n"), tmp_path / "out", max_bad_share=0.5)
    assert report["rejected"] == {"row: must have a user and at least one item": 1}


def test_items_table_is_mapped(tmp_path: Path) -> None:
    items = written(tmp_path, "item_id,asin,words\n9,B00,red mug\n", "items.csv")
    mapping = with_pairs(TableMap(), ["item.title=words"])
    import_sequences(written(tmp_path, "1 9\n"), tmp_path / "out", items=items, mapping=mapping)
    assert pq.read_table(tmp_path / "out" / "items.parquet").to_pylist() == [
        {"item_id": "9", "title": "red mug", "attributes": ["asin=B00"]}
    ]


def test_event_type_can_be_said(tmp_path: Path) -> None:
    import_sequences(written(tmp_path, "1 9\n"), tmp_path / "out", event_type="purchase")
    assert pq.read_table(tmp_path / "out" / "events.parquet").column("type").to_pylist() == ["purchase"]


def test_unknown_event_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="event_type must be one of impression, view"):
        import_sequences(written(tmp_path, "1 9\n"), tmp_path / "out", event_type="buy")


def test_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shop\.txt: the file is empty"):
        import_sequences(written(tmp_path, "\n \n"), tmp_path / "out")


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop.txt").write_bytes(b"1 \xff\n")
    with pytest.raises(DataError, match="not utf-8 text"):
        import_sequences(tmp_path / "shop.txt", tmp_path / "out")
