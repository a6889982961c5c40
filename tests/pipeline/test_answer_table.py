"""The table that a client prints."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.answer_table import ProductFacts, ProductLookup, answer_table, write_product_lookup
from protos.feature_schema_pb2 import FeatureSchema
from trainer.data import Catalogue


def catalogue(titles: list[str], prices: list[float]) -> Catalogue:
    """Products "p0", "p1" … with these titles and prices, all in the category "Pots"."""
    size = len(titles) + 2
    return Catalogue(
        schema=FeatureSchema(catalogue_size=size),
        item_ids=np.array(["", "\x01", *(f"p{number}" for number in range(len(titles)))], dtype=object),
        id_rows=np.zeros(size, np.int32),
        features={},
        train_counts=np.zeros(size, np.int64),
        known_from=np.zeros(size, np.int64),
        available=np.ones(size, bool),
        titles=np.array(["", "", *titles], dtype=object),
        categories=np.array(["", "", *["Pots"] * len(titles)], dtype=object),
        prices=np.array([np.nan, np.nan, *prices], np.float32),
        images=[b""] * size,
    )


@pytest.fixture
def lookup(tmp_path: Path) -> ProductLookup:
    path = tmp_path / "run" / "products.parquet"
    write_product_lookup(catalogue(["Red pot", "Blue pot, large", ""], [1234.5, 9.0, np.nan]), path)
    return ProductLookup(path)


def test_lookup_finds_facts_by_id_and_leaves_out_the_unknown(lookup: ProductLookup) -> None:
    assert lookup.find(["p0", "p2", "nobody"]) == {
        "p0": ProductFacts("Red pot", "Pots", 1234.5),
        "p2": ProductFacts("", "Pots", None),
    }


def test_reserved_rows_are_no_products(lookup: ProductLookup) -> None:
    assert lookup.find(["", "\x01"]) == {}


def test_lookup_without_its_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no product table at .*gone\.parquet: `tandem publish`"):
        ProductLookup(tmp_path / "gone.parquet")


def test_writing_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_product_lookup(catalogue(["Pot"], [1.0]), tmp_path / "products.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["products.parquet"]


def test_table_lines_up(lookup: ProductLookup) -> None:
    assert answer_table(["p1", "p0"], [2.0, 0.5], lookup) == (
        "#  item  title               price  score\n"
        "─  ────  ───────────────  ────────  ─────\n"
        "1  p1    Blue pot, large      9.00  2.000\n"
        "2  p0    Red pot          1,234.50  0.500"
    )


def test_category_stands_in_for_a_missing_title(lookup: ProductLookup) -> None:
    assert "Pots" in answer_table(["p2"], [1.0], lookup)


def test_without_lookup_ids_and_scores_are_shown() -> None:
    assert answer_table(["a"], [1.0]).splitlines()[0].split() == ["#", "item", "score"]


def test_padding_is_left_out() -> None:
    assert len(answer_table(["a", "", "b"], [1.0, 0.0, 0.5]).splitlines()) == 4


def test_answer_of_padding_alone_is_said_in_words() -> None:
    assert answer_table(["", ""], [0.0, 0.0]) == "No recommendations: the answer is empty."


def test_long_titles_are_cut_to_the_width(tmp_path: Path) -> None:
    write_product_lookup(catalogue(["x" * 200, "short"], [1.0, 2.0]), tmp_path / "products.parquet")
    lines = answer_table(["p0", "p1"], [1.0, 1.0], ProductLookup(tmp_path / "products.parquet"), width=60).splitlines()
    assert max(map(len, lines)) == 60
    assert "x…" in lines[2]


def test_wide_characters_take_two_cells(tmp_path: Path) -> None:
    write_product_lookup(catalogue(["茶碗", "abcd"], [1.0, 1.0]), tmp_path / "products.parquet")
    lines = answer_table(["p0", "p1"], [1.0, 1.0], ProductLookup(tmp_path / "products.parquet")).splitlines()
    # Each of the two wide characters takes the place of two narrow ones.
    assert lines[2].index("1.00") == lines[3].index("1.00") - 2


def test_escape_sequences_in_titles_do_not_reach_the_terminal(tmp_path: Path) -> None:
    write_product_lookup(catalogue(["\x1b[31mred\nline"], [1.0]), tmp_path / "products.parquet")
    table = answer_table(["p0"], [1.0], ProductLookup(tmp_path / "products.parquet"))
    assert "\x1b" not in table
    assert len(table.splitlines()) == 3


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="received 2 ids and 1 scores"):
        answer_table(["a", "b"], [1.0])


def test_printing_a_table_does_not_load_tensorflow(lookup: ProductLookup, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.answer_table import *; "
        f"answer_table(['p0'], [1.0], ProductLookup(Path({str(tmp_path / 'run' / 'products.parquet')!r}))); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
