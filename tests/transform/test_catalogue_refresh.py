"""A catalogue with products added, changed and withdrawn: rows keep their numbers, nothing is fitted anew."""

import json
from pathlib import Path
from typing import Any

import farmhash
import pyarrow.parquet as pq
import pytest

from tests.transform.small_tables import PNG, START, event, examples, files_of, transformed, write
from transform import beam_transform, catalogue, catalogue_refresh
from transform.catalogue_refresh import Refreshed, read_products, refresh_catalogue
from transform.checks import DataError
from transform.clock import DAY
from transform.content_faults import sorted_faults
from transform.feature_schema import read_schema, read_vocabulary

NOW = START + 1_000_000
ITEMS: list[dict[str, Any]] = [
    {"item_id": "a", "title": "Red pot", "category": "Kitchen > Pots", "price": 1.0, "attributes": ["colour=red"]},
    {"item_id": "b", "title": "Blue pot", "category": "Kitchen > Pots", "price": 3.0, "attributes": ["colour=blue"]},
    {"item_id": "c", "title": "Red lamp", "category": "Light", "price": 3.0, "image": PNG},
    {"item_id": "d", "title": "Lamp", "category": "Light", "brand": "Acme", "price": 1.0, "created_at": START - 5},
]
# "ghost" is sold without being in the items table. The catalogue is a, b, c, d, ghost: rows 2 to 6.
EVENTS = [event("ann", item, day * DAY) for day, item in enumerate("abcdabcdabc")] + [event("bob", "ghost", 1)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return transformed(tmp_path_factory.mktemp("base"), ITEMS, EVENTS)


def refreshed(base: Path, folder: Path, *rows: dict[str, Any], now: int = NOW) -> Refreshed:
    """Refreshes `base` with a table of `rows` into `folder`/output."""
    products, _ = read_products(write(folder / "new", "items", list(rows)), folder / "dead_letter", 0.01)
    (folder / "output").mkdir()
    return refresh_catalogue(base, products, folder / "output", now)


def records(folder: Path) -> dict[str, dict[str, list[Any]]]:
    """Features of each product."""
    return {example["item_id"][0].decode(): example for example in examples(folder, "items-*.tfrecord")}


def test_new_products_get_rows_at_the_end_and_share_the_unknown_id(base: Path, tmp_path: Path) -> None:
    outcome = refreshed(base, tmp_path, {"item_id": "z"}, {"item_id": "aa"})
    found, before = records(tmp_path / "output"), records(base)
    assert {item_id: example["row"] for item_id, example in found.items()} == {
        **{item_id: [row] for row, item_id in enumerate(("a", "b", "c", "d", "ghost"), 2)},
        "aa": [7],
        "z": [8],
    }
    assert (found["z"]["id_row"], found["z"]["train_count"], found["z"]["available"]) == ([1], [0], [1])
    assert {item_id: found[item_id] for item_id in before} == before
    assert (outcome.new, outcome.changed, outcome.unchanged, outcome.withdrawn) == (2, 0, 0, 0)
    vocabulary = read_vocabulary(tmp_path / "output" / "vocabularies" / "item_ids.txt")
    assert vocabulary[2:] == ["a", "b", "c", "d", "ghost", "aa", "z"]
    assert read_schema(tmp_path / "output").catalogue_size == 9


def test_content_is_read_by_the_vocabularies_and_moments_of_the_training(base: Path, tmp_path: Path) -> None:
    new = {"item_id": "new", "title": "RED unheard pot", "category": "Kitchen > Pans", "price": 7.0}
    outcome = refreshed(base, tmp_path, new)
    found, schema = records(tmp_path / "output")["new"], read_schema(tmp_path / "output")
    words, levels = (read_vocabulary(base / "vocabularies" / file) for file in ("title.txt", "category.txt"))
    assert found["title_ids"] == [words.index("red"), 1, words.index("pot")]
    assert found["category_ids"] == [levels.index("Kitchen"), 1]
    # log(1 + 1) and log(1 + 3), twice each, have the mean 1.5 · log 2 and the deviation 0.5 · log 2;
    # log(1 + 7) = 3 · log 2 is three deviations above.
    assert found["price"] == pytest.approx([3.0], abs=1e-5)
    assert found["price_raw"] == [7.0]
    before = read_schema(base)
    assert (list(schema.item), list(schema.context)) == (list(before.item), list(before.context))
    assert outcome.faults["unknown_category"] == 1


def test_unknown_values_share_the_buckets_of_the_training(tmp_path: Path) -> None:
    base = transformed(tmp_path, ITEMS, EVENTS, oov_buckets={"brand": 3, "category": 2, "title": 4})
    outcome = refreshed(base, tmp_path, {"item_id": "new", "title": "Sofa", "category": "Sofas", "brand": "Bolt"})
    found, schema = records(tmp_path / "output")["new"], read_schema(base)
    for name, value in (("brand", "Bolt"), ("category", "Sofas"), ("title", "sofa")):
        feature = next(feature for feature in schema.item if feature.name == name)
        bucket = farmhash.fingerprint64(value) % feature.oov_buckets
        assert found[f"{name}_ids"] == [feature.vocabulary_size + bucket]
    assert (outcome.faults["unknown_category"], outcome.faults["unknown_words"]) == (1, 1)


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base` with two buckets of prices, that of 1 and that of 3, and crosses of what the products have."""
    pairs = [["category", "price_bucket"], ["brand", "category"]]
    return transformed(tmp_path_factory.mktemp("crossed"), ITEMS, EVENTS, price_buckets=2, crosses=pairs)


def test_a_new_price_alone_moves_what_it_is_crossed_with(crossed: Path, tmp_path: Path) -> None:
    refreshed(crossed, tmp_path, {"item_id": "d", "price": 9.0})
    after, before = records(tmp_path / "output")["d"], records(crossed)["d"]
    words = read_vocabulary(crossed / "vocabularies" / "category_x_price_bucket.txt")
    assert before["category_x_price_bucket_ids"] == [words.index("Light\x1f0")]
    assert after["category_x_price_bucket_ids"] == [words.index("Light\x1f1")]
    moved = {"price", "price_raw", "price_bucket_ids", "category_x_price_bucket_ids"}
    assert {name for name in before if after[name] != before[name]} == moved


def test_a_lost_category_alone_takes_its_crosses_away(crossed: Path, tmp_path: Path) -> None:
    refreshed(crossed, tmp_path, {"item_id": "d", "category": None})
    after, before = records(tmp_path / "output")["d"], records(crossed)["d"]
    moved = {"category", "category_ids", "brand_x_category_ids", "category_x_price_bucket_ids"}
    assert {name for name in before if after[name] != before[name]} == moved
    assert all(after[name] == [] for name in moved)


def test_crossed_products_that_say_nothing_new_stay_as_they_were(crossed: Path, tmp_path: Path) -> None:
    assert refreshed(crossed, tmp_path / "1", {"item_id": "d"}, {"item_id": "ghost"}).nothing_to_do
    assert refreshed(crossed, tmp_path / "2", *ITEMS).nothing_to_do


def test_the_same_products_change_nothing(base: Path, tmp_path: Path) -> None:
    outcome = refreshed(base, tmp_path, *ITEMS)
    assert outcome.nothing_to_do
    assert outcome.unchanged == 4
    before, after = files_of(base), files_of(tmp_path / "output")
    assert {name: after[name] for name in after} == {name: before[name] for name in after}
    assert set(before) - set(after) == {name for name in before if name.startswith("samples/")}


def test_a_changed_product_keeps_its_rows_and_gets_new_content(base: Path, tmp_path: Path) -> None:
    outcome = refreshed(base, tmp_path, ITEMS[0] | {"title": "Blue lamp", "price": 3.0})
    after, before = records(tmp_path / "output"), records(base)
    for name in ("row", "id_row", "train_count", "known_from", "category_ids", "available"):
        assert after["a"][name] == before["a"][name]
    assert after["a"]["title"] == [b"Blue lamp"]
    assert after["a"]["price"] == before["b"]["price"]
    assert after["b"] == before["b"]
    assert (outcome.new, outcome.changed, outcome.unchanged) == (0, 1, 0)


def test_columns_that_the_table_lacks_stay_as_they_were(base: Path, tmp_path: Path) -> None:
    refreshed(base, tmp_path, {"item_id": "c", "price": 1.0})
    after, before = records(tmp_path / "output")["c"], records(base)["c"]
    assert {name for name in before if after[name] != before[name]} == {"price", "price_raw"}


def test_a_null_takes_a_value_away(base: Path, tmp_path: Path) -> None:
    refreshed(
        base, tmp_path, {"item_id": "a", "title": None, "price": None}, {"item_id": "b", "title": "", "price": 3.0}
    )
    after = records(tmp_path / "output")
    assert (after["a"]["title_ids"], after["a"]["price"], after["b"]["title_ids"]) == ([], [], [])
    assert after["a"]["category"] == [b"Kitchen > Pots"]


def test_a_withdrawn_product_stays_known_and_comes_back(base: Path, tmp_path: Path) -> None:
    outcome = refreshed(base, tmp_path, {"item_id": "a", "available": False})
    after, before = records(tmp_path / "output"), records(base)
    assert (outcome.withdrawn, outcome.changed) == (1, 0)
    assert after["a"] == before["a"] | {"available": [0]}
    again = tmp_path / "again"
    back = refreshed(tmp_path / "output", again, {"item_id": "a", "available": None})
    assert (back.withdrawn, back.changed) == (0, 1)
    assert records(again / "output")["a"] == before["a"]


def test_a_second_refresh_builds_on_the_first(base: Path, tmp_path: Path) -> None:
    refreshed(base, tmp_path, {"item_id": "z", "title": "Pot"})
    outcome = refreshed(tmp_path / "output", tmp_path / "2", {"item_id": "b2"}, {"item_id": "z", "title": "Pot"})
    assert (outcome.new, outcome.unchanged) == (1, 1)
    rows = {item_id: example["row"] for item_id, example in records(tmp_path / "2" / "output").items()}
    assert (rows["z"], rows["b2"]) == ([7], [8])


def test_known_from_is_the_time_given_else_that_of_the_refresh(base: Path, tmp_path: Path) -> None:
    outcome = refreshed(
        base, tmp_path, {"item_id": "new", "created_at": START + 7}, {"item_id": "other"}, {"item_id": "d"}
    )
    after = records(tmp_path / "output")
    assert [after[item_id]["known_from"] for item_id in ("new", "other", "d")] == [[START + 7], [NOW], [START - 5]]
    assert outcome.created_at == [START + 7]


def test_sequences_and_vocabularies_are_the_same_files(base: Path, tmp_path: Path) -> None:
    refreshed(base, tmp_path, {"item_id": "z"})
    shared = [path for path in base.rglob("*") if path.name.startswith("sequences-") or path.name == "title.txt"]
    assert len(shared) > 1
    for path in shared:
        assert path.samefile(tmp_path / "output" / path.relative_to(base))


def test_files_of_untouched_products_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (beam_transform, catalogue, catalogue_refresh):
        monkeypatch.setattr(module, "ITEMS_PER_SHARD", 2)
    base = transformed(tmp_path, ITEMS, EVENTS)
    # Files of a and b, c and d, ghost alone: one more fits beside it, the next opens a file.
    refreshed(base, tmp_path, {"item_id": "c", "title": "Pot"}, {"item_id": "y"}, {"item_id": "z"})
    output = tmp_path / "output"
    assert (output / "items-00000-of-00004.tfrecord").samefile(base / "items-00000-of-00003.tfrecord")
    held = [[e["item_id"][0] for e in examples(output, f"items-{n:05d}-of-00004.tfrecord")] for n in range(4)]
    assert held == [[b"a", b"b"], [b"c", b"d"], [b"ghost", b"y"], [b"z"]]


def test_what_products_lack_is_counted(base: Path, tmp_path: Path) -> None:
    outcome = refreshed(
        base,
        tmp_path,
        {"item_id": "x", "title": "", "category": "Light", "price": 1.0},
        {"item_id": "y", "title": "Pot", "category": "Garden", "price": None},
        {"item_id": "c", "title": "Pot", "category": None, "price": 2.0},
    )
    # The picture of c stays: the table has no such column.
    assert sorted_faults(outcome.faults) == {
        "no_title": 1,
        "no_category": 1,
        "unknown_category": 1,
        "no_price": 1,
        "no_picture": 2,
    }


def test_text_in_any_script_and_of_any_length_is_bounded(base: Path, tmp_path: Path) -> None:
    long = "горшок " * 1_500
    refreshed(
        base,
        tmp_path,
        {"item_id": "ж-1", "title": "赤い鍋 pot", "description": "x" * 10_000},
        {"item_id": "long", "title": long, "description": long},
    )
    after = records(tmp_path / "output")
    words = read_vocabulary(base / "vocabularies" / "title.txt")
    assert after["ж-1"]["title_ids"] == [1, words.index("pot")]
    assert after["long"]["title_ids"] == [1] * 16


def test_bad_rows_are_put_aside_and_counted(tmp_path: Path) -> None:
    rows = [{"item_id": "x", "price": -1.0}, {"item_id": "y", "price": 2.0}, {"item_id": "z", "price": 2.0}]
    products, report = read_products(write(tmp_path / "new", "items", rows), tmp_path / "dead", 0.01)
    assert products["item_id"].to_pylist() == ["y", "z"]
    assert report.rejected == {"price: must be a finite number of at least 0": 1}
    (letter,) = [json.loads(line) for file in (tmp_path / "dead").iterdir() for line in file.read_text().splitlines()]
    assert (letter["item_id"], letter["row"]) == ("x", 0)
    assert "received -1.0" in letter["reason"]


def test_a_product_named_twice_counts_once_over_the_whole_table(tmp_path: Path) -> None:
    rows = [{"item_id": "x", "price": float(n)} for n in (1, 2)]
    data = write(tmp_path / "new", "items", rows, row_group_size=1)
    products, report = read_products(data / "items.parquet", tmp_path / "dead", 0.01)
    assert products["price"].to_pylist() == [1.0]
    assert report.rejected == {"item_id: must occur once in the table": 1}
    (letter,) = (json.loads(file.read_text()) for file in (tmp_path / "dead").iterdir())
    assert letter["row"] == 1


def test_too_many_bad_rows_are_refused(tmp_path: Path) -> None:
    rows = [{"item_id": "x", "price": -1.0}, {"item_id": "", "price": 2.0}, {"item_id": "z", "price": 2.0}]
    data = write(tmp_path / "new", "items", rows)
    with pytest.raises(
        DataError, match=r"2 of 3 rows .* are bad .*--max-bad-share allows 1.00%.*raise --max-bad-share"
    ):
        read_products(data, tmp_path / "dead", 0.01)
    assert read_products(data, tmp_path / "dead", 0.7)[1].spilled == 1


def test_a_table_without_rows_or_ids_is_named(tmp_path: Path) -> None:
    write(tmp_path / "empty", "items", [{"item_id": "x"}])
    table = tmp_path / "empty" / "items.parquet"
    pq.write_table(pq.read_table(table).slice(0, 0), table)
    with pytest.raises(DataError, match=r"the table 'items' has no rows"):
        read_products(tmp_path / "empty", tmp_path / "dead", 0.01)
    pq.write_table(pq.read_table(table).rename_columns(["sku"]), table)
    with pytest.raises(DataError, match=r"items.parquet: column 'item_id' of the table 'items' is missing.*'sku'"):
        read_products(table, tmp_path / "dead", 0.01)
    with pytest.raises(FileNotFoundError, match=r"table 'items' not found: expected the file .*nowhere"):
        read_products(tmp_path / "nowhere", tmp_path / "dead", 0.01)


def test_a_damaged_catalogue_is_named(base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for name, content in files_of(base).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    file = next(copy.glob("items-*.tfrecord"))
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"items-00000-of-00001.tfrecord is damaged at record 4"):
        refreshed(copy, tmp_path, {"item_id": "z"})


def test_order_of_the_table_makes_no_difference(base: Path, tmp_path: Path) -> None:
    rows = [{"item_id": "z", "title": "Pot"}, {"item_id": "a", "title": "Lamp"}, {"item_id": "y", "title": "Red"}]
    first = refreshed(base, tmp_path / "1", *rows)
    second = refreshed(base, tmp_path / "2", *(rows[place] for place in (2, 0, 1)))
    assert first.digest == second.digest
    assert files_of(tmp_path / "1" / "output") == files_of(tmp_path / "2" / "output")
