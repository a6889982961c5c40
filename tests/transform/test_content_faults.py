"""Content that cannot be read is left out or cut, and counted; the product goes on with the rest."""

import json
import logging
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.pictures import BLUE, file_of, plain
from tests.transform.small_tables import PNG, event, examples, table, transformed, write
from transform.catalogue_refresh import read_products, refresh_catalogue
from transform.clock import DAY
from transform.content_faults import PictureLimits, clean_content, fault_sentences, sorted_faults
from transform.feature_schema import read_schema, read_vocabulary

LIMITS = PictureLimits(bytes=100, side=50)
SETTINGS = {"max_image_bytes": 100, "max_image_side": 50}
EVENTS = [event("ann", "good", day * DAY) for day in range(11)]
GIANT = PNG[:16] + struct.pack(">II", 5_000, 3) + PNG[24:]
GOOD = {
    "item_id": "good",
    "title": "Red pot",
    "description": "A pot of red clay",
    "category": "Pots",
    "price": 2.0,
    "image": PNG,
}
LONG = "clay " * 2_000
# Each with the faults that it is to be counted for, and the features that it has nevertheless.
FAULTY: list[tuple[dict[str, Any], set[str]]] = [
    ({"item_id": "untitled", "title": None}, {"no_title"}),
    ({"item_id": "emoji", "title": "🙂\u200d🙃\ufeff"}, {"wordless_title"}),
    ({"item_id": "cyrillic", "title": "Красный горшок"}, set()),
    ({"item_id": "chinese", "title": "红色花盆"}, set()),
    ({"item_id": "arabic", "title": "وعاء أحمر"}, set()),
    ({"item_id": "combining", "title": "re\u0301d\u200bpo\u0308t"}, set()),
    ({"item_id": "pictureless", "image": None}, {"no_picture"}),
    ({"item_id": "noise", "image": b"<html>not found"}, {"unreadable_picture", "no_picture"}),
    ({"item_id": "giant", "image": GIANT}, {"giant_picture", "no_picture"}),
    ({"item_id": "free", "price": 0.0}, {"zero_price", "no_price"}),
    ({"item_id": "priceless", "price": None}, {"no_price"}),
    ({"item_id": "lengthy", "description": LONG}, {"long_description"}),
    ({"item_id": "lengthier", "title": LONG}, {"long_title"}),
    ({"item_id": "uncategorised", "category": ""}, {"no_category"}),
]
ROWS = [GOOD, *(GOOD | change for change, _ in FAULTY)]
COUNTS = {name: sum(name in names for _, names in FAULTY) for _, names in FAULTY for name in names}


@pytest.mark.parametrize(
    ("change", "faults"), FAULTY, ids=lambda value: str(value.get("item_id", "")) if isinstance(value, dict) else ""
)
def test_a_fault_is_counted_by_its_name(change: dict[str, Any], faults: set[str]) -> None:
    cleaned, counts = clean_content(table("items", [GOOD | change]), LIMITS)
    assert counts == dict.fromkeys(sorted_faults(dict.fromkeys(faults, 1)), 1)
    assert cleaned.schema == table("items", [GOOD]).schema
    assert cleaned["item_id"].to_pylist() == [change["item_id"]]


def test_a_product_without_fault_is_as_it_was() -> None:
    rows = table("items", [GOOD])
    assert clean_content(rows, LIMITS) == (rows, {})


def test_a_jpeg_is_as_good_a_picture_as_a_png() -> None:
    rows = table("items", [GOOD | {"image": file_of(plain(BLUE), "JPEG")}])
    assert clean_content(rows, PictureLimits()) == (rows, {})


def test_a_picture_of_too_many_bytes_is_left_out() -> None:
    cleaned, counts = clean_content(table("items", [GOOD | {"image": PNG + bytes(100)}]), LIMITS)
    assert cleaned["image"].to_pylist() == [None]
    assert counts == {"no_picture": 1, "giant_picture": 1}


def test_columns_that_the_shop_does_not_have_are_no_faults() -> None:
    assert clean_content(table("items", [{"item_id": "x"}]), LIMITS)[1] == {}


def test_a_fault_is_told_in_a_sentence() -> None:
    assert fault_sentences({"zero_price": 1_200, "no_title": 1}) == [
        "1 product without a title.",
        "1,200 products with a price of 0, which is read as no price.",
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return transformed(tmp_path_factory.mktemp("base"), ROWS, EVENTS, **SETTINGS)


def records(folder: Path) -> dict[str, dict[str, list[Any]]]:
    return {example["item_id"][0].decode(): example for example in examples(folder, "items-*.tfrecord")}


def test_the_transform_counts_faults_and_keeps_every_product(base: Path) -> None:
    statistics = json.loads((base / "statistics.json").read_text())
    assert statistics["items_faults"] == COUNTS
    assert statistics["items_rejected"] == {}
    assert set(records(base)) == {row["item_id"] for row in ROWS}


def test_bad_pictures_and_prices_are_not_in_the_records(base: Path) -> None:
    found = records(base)
    assert [found[name]["image"] for name in ("good", "noise", "giant", "pictureless")] == [[PNG], [], [], []]
    assert (found["free"]["price"], found["free"]["price_raw"], len(found["good"]["price"])) == ([], [], 1)


def test_descriptions_are_a_feature_of_bounded_texts(base: Path) -> None:
    found, words = records(base), read_vocabulary(base / "vocabularies" / "description.txt")
    assert set(words[2:]) == {"a", "pot", "of", "red", "clay"}
    assert found["good"]["description_ids"] == [words.index(word) for word in ("a", "pot", "of", "red", "clay")]
    assert found["lengthy"]["description_ids"] == [words.index("clay")] * 32
    assert len(found["lengthy"]["description"][0]) == len(found["lengthier"]["title"][0]) == 2_000


def test_a_catalogue_without_descriptions_has_no_such_feature(tmp_path: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "description"} for row in (GOOD, ROWS[4])]
    rows[1]["description"] = None
    assert "description" not in [
        feature.name for feature in read_schema(transformed(tmp_path, rows, EVENTS, **SETTINGS)).item
    ]


@pytest.mark.parametrize("names", [(), ("price", "description")])
def test_content_features_decide_what_the_models_read(tmp_path: Path, names: tuple[str, ...]) -> None:
    output = transformed(tmp_path, ROWS, EVENTS, **SETTINGS, content_features=names)
    assert tuple(feature.name for feature in read_schema(output).item) == names
    assert records(output)["good"]["title"] == [b"Red pot"]


def test_a_refresh_meets_the_same_faults(base: Path, tmp_path: Path) -> None:
    from transform.reading import ItemRows

    new = [row | {"item_id": f"new-{row['item_id']}"} for row in ROWS]
    new.append(GOOD | {"item_id": "new-kind", "category": "Pots > Bowls"})
    items = write(tmp_path / "new", "items", new)
    products, read = read_products(items, tmp_path / "dead", 0.0, ItemRows(LIMITS))
    (tmp_path / "output").mkdir()
    outcome = refresh_catalogue(base, products, tmp_path / "output", 0)
    assert outcome.new == len(new)
    assert sorted_faults(read.faults | outcome.faults) == sorted_faults(COUNTS | {"unknown_category": 1})
    found = records(tmp_path / "output")
    kept = ("title", "description", "image", "title_ids", "description_ids", "category_ids", "price", "price_raw")
    for row in ROWS:
        before, after = found[row["item_id"]], found[f"new-{row['item_id']}"]
        assert {name: before[name] for name in kept} == {name: after[name] for name in kept}


def test_a_title_in_words_that_training_never_met_is_counted_at_a_refresh(base: Path, tmp_path: Path) -> None:
    rows = [GOOD | {"item_id": "x", "title": "ψυγείο"}, GOOD | {"item_id": "y", "title": "ψυγείο pot"}]
    products, _ = read_products(write(tmp_path / "new", "items", rows), tmp_path / "dead", 0.0)
    (tmp_path / "output").mkdir()
    assert refresh_catalogue(base, products, tmp_path / "output", 0).faults["unknown_words"] == 1


def test_faults_are_logged_in_a_sentence_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="transform"):
        transformed(tmp_path, [GOOD, GOOD | {"item_id": "free", "price": 0.0}], EVENTS, **SETTINGS)
    said = [record.getMessage() for record in caplog.records]
    assert "items: 1 product with a price of 0, which is read as no price." in said
