from pathlib import Path

import pytest

import pipeline
from transform.checks import DataError
from transform.table_map import DerivedField, DropRule, TableMap, load_table_map, table_map_from, with_pairs

MAPS = Path(pipeline.__file__).parent / "configs" / "maps"


def test_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "map.yaml"
    file.write_text(
        "columns: {user_id: [A, B], item_id: C}\nconstants: {type: purchase}\n"
        "drop: {old: {column: timestamp, before: 1970-01-02}}\n"
        "items: {from_events: {title: {column: D, pick: most_frequent}}}\n"
    )
    mapping = load_table_map(file)
    assert mapping.columns == {"user_id": ("A", "B"), "item_id": ("C",)}
    assert mapping.constants == {"type": "purchase"}
    assert mapping.drop == (DropRule("old", "timestamp", "before", 86_400),)
    assert mapping.items.from_events == {"title": DerivedField("D", "most_frequent")}


def test_empty_file_is_an_empty_map(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("")
    assert load_table_map(tmp_path / "map.yaml") == TableMap()


@pytest.mark.parametrize("name", ["online_retail.yaml", "amazon_s3rec.yaml"])
def test_maps_in_the_repository_are_valid(name: str) -> None:
    assert load_table_map(MAPS / name).name


@pytest.mark.parametrize(
    ("loaded", "sentence"),
    [
        ({"colums": {}}, "unknown key 'colums'; known are name, columns"),
        ({"colums": {}}, "Did you mean 'columns'?"),
        ({"columns": {"userid": "A"}}, "Did you mean 'user_id'?"),
        ({"columns": {"user_id": 3}}, "m: columns: user_id: must be a list of texts, received 3."),
        ({"columns": []}, "m: columns: must be a mapping"),
        ({"constants": {"type": True}}, "type must be a text or a number, received True."),
        ({"timestamp_unit": "min"}, "timestamp_unit must be one of s, ms, us, ns, received 'min'."),
        ({"timezone": "Mars/Base"}, "timezone must be a name as 'Europe/London', received 'Mars/Base'."),
        ({"timestamp_format": "%Q"}, "timestamp_format can't be '%Q'"),
        ({"timestamp_format": "%Y", "timestamp_unit": "ms"}, "exclude each other"),
        ({"columns": {"type": "T"}, "constants": {"type": "view"}}, "both in `columns` and in `constants`"),
        ({"uppercase": ["item"]}, "Did you mean 'item_id'?"),
        ({"drop": {"r": {"column": "price"}}}, "m: drop: r: must have `column` and one of matches"),
        ({"drop": {"r": {"column": "price", "below": "x"}}}, "below can't be 'x'"),
        ({"drop": {"r": {"column": "order", "matches": "("}}}, "matches is not a regular expression (RE2)"),
        ({"drop": {"r": {"column": "day", "before": "2011-01-01"}}}, "before is for the column 'timestamp'"),
        ({"drop": {"r": {"column": "timestamp", "before": "May"}}}, "must be an ISO date as 2010-12-01"),
        ({"items": {"from_events": {"title": {"column": "T", "pick": "any"}}}}, "`pick` (most_frequent, first, last)"),
        ({"items": {"from_events": {"colour": {}}}}, "unknown key 'colour'"),
    ],
)
def test_wrong_map_is_refused(loaded: dict, sentence: str) -> None:
    with pytest.raises(DataError) as refused:
        table_map_from(loaded, "m")
    assert sentence in str(refused.value)


def test_missing_map_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.yaml: cannot be read: No such file"):
        load_table_map(tmp_path / "none.yaml")


def test_text_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("a: [")
    with pytest.raises(DataError, match="not YAML"):
        load_table_map(tmp_path / "map.yaml")


def test_pairs_win_over_the_file() -> None:
    mapping = table_map_from({"columns": {"user_id": "A"}, "constants": {"type": "view"}}, "m")
    merged = with_pairs(mapping, ["user_id=B", "type=Kind", "item.title=Name", "timestamp_unit=ms"])
    assert merged.columns == {"user_id": ("B",), "type": ("Kind",)}
    assert merged.constants == {}
    assert merged.items.columns == {"title": ("Name",)}
    assert merged.timestamp_unit == "ms"


def test_two_equals_signs_set_a_constant() -> None:
    assert with_pairs(TableMap(), ["type==purchase"]).constants == {"type": "purchase"}


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        ("user_id", "must be canonical=source, for example user_id=CustomerID, received 'user_id'."),
        ("userid=A", "Did you mean 'user_id'?"),
        ("item.titel=A", "Did you mean 'title'?"),
        ("timestamp_unit=minutes", "timestamp_unit must be one of"),
    ],
)
def test_wrong_pair_is_refused(pair: str, sentence: str) -> None:
    with pytest.raises(DataError) as refused:
        with_pairs(TableMap(), [pair])
    assert sentence in str(refused.value)
