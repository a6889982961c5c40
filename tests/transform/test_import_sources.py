import bz2
import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transform import import_sources
from transform.checks import DataError
from transform.import_sources import Malformed, ReadOptions, line_batches, read_batches, source_columns, source_files

Rows = list[tuple[int, dict]]
PLAIN = ReadOptions()


def read(file: Path, options: ReadOptions = PLAIN) -> tuple[Rows, list[Malformed]]:
    """(line, row) of every good row, and the malformed ones."""
    rows: Rows = []
    malformed: list[Malformed] = []
    for batch in read_batches(file, options):
        rows += zip(batch.lines.tolist(), batch.columns.to_pylist(), strict=True)
        malformed += batch.malformed
    return rows, malformed


def written(tmp_path: Path, name: str, data: bytes) -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def test_malformed_csv_rows_are_reported_with_their_line(tmp_path: Path) -> None:
    # Line 2 holds a line end in quotes, line 4 is blank, lines 5 and 7 have another number of fields.
    file = written(tmp_path, "a.csv", b'a,b\n1,"x\ny"\n\n3\n4,5\n6,7,8\n9,10\n')
    rows, malformed = read(file)
    assert rows == [(2, {"a": "1", "b": "x\ny"}), (6, {"a": "4", "b": "5"}), (8, {"a": "9", "b": "10"})]
    assert malformed == [
        Malformed(5, "row: must have 2 fields (a, b), received 1.", "3"),
        Malformed(7, "row: must have 2 fields (a, b), received 3.", "6,7,8"),
    ]


cells = st.text(st.sampled_from('ab ,"\né'), max_size=5)


@given(st.lists(st.lists(cells, min_size=1, max_size=4), max_size=30))
def test_csv_lines_agree_with_the_standard_library(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["a", "b"])
    expected, expected_malformed = [], []
    for row in rows:
        line = buffer.getvalue().count("\n") + 1
        writer.writerow(row)
        if len(row) == 2:
            expected += [(line, dict(zip("ab", row, strict=True)))] if any(row) else []
        elif row != [""]:
            expected_malformed.append(line)
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    file.write_text(buffer.getvalue(), encoding="utf-8")
    # csv writes a row of one empty cell as '""', which is a field of its own, not a blank line.
    received, malformed = read(file)
    assert received == expected
    blank = [bad.line for bad in malformed if bad.text == '""']
    assert [bad.line for bad in malformed if bad.line not in blank] == expected_malformed


def test_lines_are_right_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_sources, "_BLOCK_BYTES", 64)
    text = "a,b\n" + "".join("x\n" if line % 7 == 0 else f"{line},{line}\n" for line in range(2, 200))
    rows, malformed = read(written(tmp_path, "a.csv", text.encode()))
    assert all(str(line) == row["a"] for line, row in rows)
    assert [bad.line for bad in malformed] == [line for line in range(2, 200) if line % 7 == 0]


def test_wrong_byte_fails_its_row_alone(tmp_path: Path) -> None:
    rows, malformed = read(written(tmp_path, "a.csv", b"a,b\n1,\xff\n2,x\n"))
    assert rows == [(3, {"a": "2", "b": "x"})]
    assert malformed[0].line == 2
    assert "b: must be utf-8 text, received b'\\xff'" in malformed[0].reason


def test_other_encoding_is_read(tmp_path: Path) -> None:
    file = written(tmp_path, "a.csv", "größe\nä\n".encode("latin-1"))
    assert read(file, ReadOptions(encoding="latin-1"))[0] == [(2, {"größe": "ä"})]
    with pytest.raises(DataError, match=r"not utf-8 text .* Say the `encoding`"):
        source_columns(file, ReadOptions())


def test_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.csv", b"\xef\xbb\xbfa\r\n1\r\n"))[0] == [(2, {"a": "1"})]
    assert read(written(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": "1"}\n'))[0] == [(1, {"a": "1"})]


def test_header_can_be_given(tmp_path: Path) -> None:
    file = written(tmp_path, "a.txt", b"1|2\n")
    options = ReadOptions(file_format="csv", delimiter="|", header=("p", "q"))
    assert read(file, options)[0] == [(1, {"p": "1", "q": "2"})]


@pytest.mark.parametrize(("ending", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".zst", None)])
def test_compressed_files_are_read(tmp_path: Path, ending: str, compress: object) -> None:
    data = b"a\tb\n1\t2\n"
    packed = compress(data) if callable(compress) else pa.compress(data, codec="zstd", asbytes=True)
    assert read(written(tmp_path, f"a.tsv{ending}", packed))[0] == [(2, {"a": "1", "b": "2"})]


def test_cut_off_archive_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(np.random.default_rng(0).bytes(9000).hex().encode())
    with pytest.raises(DataError, match=r"a\.csv\.gz: "):
        read(written(tmp_path, "a.csv.gz", packed[: len(packed) // 2]))


def test_json_lines_keep_texts_and_lists(tmp_path: Path) -> None:
    file = written(tmp_path, "a.jsonl", b'{"a": 1, "b": ["x", 2]}\n\n{"a": "q", "c": {"d": true}}\n[1]\n{"a"\n')
    rows, malformed = read(file)
    assert rows == [(1, {"a": "1", "b": ["x", "2"], "c": None}), (3, {"a": "q", "b": None, "c": '{"d": true}'})]
    assert [bad.line for bad in malformed] == [4, 5]
    assert malformed[0].reason.startswith("row: must be a JSON object on one line")
    assert malformed[1].reason.startswith("row: must be JSON (")


def test_parquet_rows_are_numbered_from_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_sources, "_BATCH_ROWS", 2)
    pq.write_table(pa.table({"a": [5, 6, 7]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0] == [(1, {"a": 5}), (2, {"a": 6}), (3, {"a": 7})]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: the file is empty\."):
        source_columns(written(tmp_path, name, b""), ReadOptions())


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.parquet: not a whole Parquet file"):
        read(written(tmp_path, "a.parquet", b"PAR1 and no more"))


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the columns \['a'\] occur more than once"):
        source_columns(written(tmp_path, "a.csv", b"a,b,a\n"), ReadOptions())


def test_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the format can't be told from the name; known endings are \.csv"):
        source_columns(written(tmp_path, "a.xlsx", b"x"), ReadOptions())


def test_folder_gives_its_files_by_name(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv.gz", "README.md"):
        written(tmp_path, name, b"x")
    assert [file.name for file in source_files(tmp_path)] == ["a.csv.gz", "b.csv"]


def test_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        source_files(tmp_path / "nowhere")


def test_line_numbers_count_blank_lines(tmp_path: Path) -> None:
    ((numbers, lines),) = line_batches(written(tmp_path, "a.txt", b"\n1 2\r\n \n3 4"), "utf-8")
    assert numbers.tolist() == [2, 4]
    assert lines.to_pylist() == ["1 2", "3 4"]
