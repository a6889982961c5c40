import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transform.checks import (
    DataError,
    check_events,
    check_items,
    check_users,
    conform,
    count_reasons,
    logged_propensities,
)
from transform.tables import EVENTS, ITEMS

NOW = 1_600_000_000


def events(**columns: list) -> pa.Table:
    """One good event, or as many as the given columns have, with these columns replaced."""
    rows = max((len(values) for values in columns.values()), default=1)
    good = {"user_id": ["u"] * rows, "item_id": ["i"] * rows, "type": ["view"] * rows, "timestamp": [NOW] * rows}
    return conform(pa.table({**good, **columns}), "events", "events.parquet")


def reasons(table: pa.Table) -> list[str]:
    return check_events(table, NOW, 3600)[1].column("reason").to_pylist()


def test_good_rows_pass_unchanged() -> None:
    table = events(price=[1.5, None], quantity=[0, None], attributes=[["a=b", "a=c"], None])
    good, bad = check_events(table, NOW, 3600)
    assert good.equals(table)
    assert bad.num_rows == 0


def test_bad_rows_leave_the_good_ones_in_order() -> None:
    good, bad = check_events(events(user_id=["a", "", "b", None, "c"]), NOW, 3600)
    assert good.column("user_id").to_pylist() == ["a", "b", "c"]
    assert bad.column("user_id").to_pylist() == ["", None]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"user_id": [None]}, "user_id: must not be empty, received None."),
        ({"item_id": [""]}, "item_id: must not be empty, received ''."),
        ({"user_id": ["a\nb"]}, "user_id: must not contain control characters or line ends, received 'a\\nb'."),
        ({"item_id": ["a\u2028b"]}, "item_id: must not contain control characters or line ends"),
        ({"item_id": ["é" * 257]}, "item_id: must have at most 512 bytes"),
        ({"type": ["buy"]}, "type: must be one of impression, view, click, search, add_to_cart, purchase"),
        ({"timestamp": [None]}, "timestamp: must not be missing where the table has the column, received None."),
        ({"timestamp": [0]}, "timestamp: must be after 1970-01-01, received 0."),
        ({"timestamp": [NOW + 3601]}, "timestamp: must not be in the future, received 1600003601."),
        ({"timestamp": [NOW * 1000]}, "It looks like milliseconds: import it with `timestamp_unit: ms`"),
        ({"timestamp": [NOW * 10**6]}, "It looks like microseconds: import it with `timestamp_unit: us`"),
        ({"timestamp": [NOW * 10**9]}, "It looks like nanoseconds: import it with `timestamp_unit: ns`"),
        ({"price": [float("nan")]}, "price: must be a finite number of at least 0, received nan."),
        ({"price": [float("inf")]}, "price: must be a finite number of at least 0, received inf."),
        ({"quantity": [-1]}, "quantity: must be a finite number of at least 0, received -1."),
        ({"device": ["pho\tne"]}, "device: must not contain control characters or line ends"),
        ({"attributes": [["colour"]]}, "attributes: each must be 'name=value', received ['colour']."),
        ({"attributes": [["a=b", None]]}, "attributes: each must be 'name=value'"),
    ],
)
def test_broken_rule_is_named_with_the_value(columns: dict[str, list], sentence: str) -> None:
    (received,) = reasons(events(**columns))
    assert sentence in received


def test_a_little_ahead_of_the_clock_is_no_future() -> None:
    assert reasons(events(timestamp=[NOW + 3600])) == []


@pytest.mark.parametrize("value", ["0", "1.01", "-0.5", "nan", "inf", "much", "1e-60"])
def test_a_logged_propensity_is_a_number_above_0_and_at_most_1(value: str) -> None:
    (received,) = reasons(events(attributes=[[], [f"propensity={value}"], None, ["propensity=0.5"]]))
    assert received.startswith("attributes: propensity must be a number above 0 and at most 1, received [")


def test_logged_propensities_are_read_from_the_attributes() -> None:
    lists = [["colour=red", "propensity=0.25"], None, [], ["propensity=1"], ["propensityish=3"], ["propensity=5e-2"]]
    rows, values = logged_propensities(pa.array(lists, pa.list_(pa.string())))
    assert (rows.tolist(), values.tolist()) == ([0, 3, 5], [0.25, 1.0, np.float32(0.05)])


def test_search_needs_no_item() -> None:
    assert reasons(events(type=["search", "view"], item_id=[None, None])) == [
        "item_id: must not be empty, received None."
    ]


def test_long_value_is_cut_in_the_reason() -> None:
    (received,) = reasons(events(user_id=["x" * 600]))
    assert "(602 characters)" in received
    assert len(received) < 250


def test_reasons_are_counted_by_field_and_rule() -> None:
    counted = count_reasons(reasons(events(user_id=["", "u", "u", None], price=[1.0, -1.0, 2.0, 1.0])))
    assert counted == {"user_id: must not be empty": 2, "price: must be a finite number of at least 0": 1}


def test_empty_table_has_no_bad_rows() -> None:
    assert check_events(EVENTS.empty_table(), NOW, 0)[1].num_rows == 0
    assert check_items(ITEMS.empty_table())[1].num_rows == 0


@given(st.lists(st.tuples(st.text(max_size=4) | st.none(), st.integers(-5, NOW * 2)), max_size=20))
def test_every_row_is_good_or_bad(rows: list[tuple[str | None, int]]) -> None:
    table = events(user_id=[user for user, _ in rows], timestamp=[time for _, time in rows])
    good, bad = check_events(table, NOW, 3600)
    received = good.to_pylist() + bad.drop(["reason"]).to_pylist()
    assert sorted(map(repr, received)) == sorted(map(repr, table.to_pylist()))


def test_repeated_item_keeps_its_first_row() -> None:
    table = conform(pa.table({"item_id": ["a", "b", "a"], "title": ["first", "x", "second"]}), "items", "items.parquet")
    good, bad = check_items(table)
    assert good.column("title").to_pylist() == ["first", "x"]
    assert bad.column("reason").to_pylist() == ["item_id: must occur once in the table, received 'a'."]


def test_line_end_in_a_brand_is_bad() -> None:
    table = conform(pa.table({"item_id": ["a"], "brand": ["A\nB"]}), "items", "items.parquet")
    assert check_items(table)[1].num_rows == 1


def test_repeated_user_is_bad() -> None:
    table = conform(pa.table({"user_id": ["a", "a"], "attributes": [["age=4"], []]}), "users", "users.parquet")
    assert check_users(table)[1].num_rows == 1


def test_conform_orders_widens_and_unfolds() -> None:
    table = pa.table(
        {
            "type": pa.array(["view"]).dictionary_encode(),
            "quantity": pa.array([3], pa.int8()),
            "item_id": ["i"],
            "user_id": pa.array(["u"], pa.large_string()),
            "device": pa.nulls(1),
        }
    )
    conformed = conform(table, "events", "events.parquet")
    assert conformed.column_names == ["user_id", "item_id", "type", "quantity", "device"]
    assert conformed.schema.types == [pa.string(), pa.string(), pa.string(), pa.int32(), pa.string()]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"user_id": ["u"], "item": ["i"], "type": ["view"]}, "column 'item_id' of the table 'events' is missing"),
        ({"user_id": ["u"], "item": ["i"], "type": ["view"]}, "Did you mean 'item'?"),
        ({"user_id": [1], "item_id": ["i"], "type": ["view"]}, "'user_id' must be of type string, received int64"),
        (
            {"user_id": ["u"], "item_id": ["i"], "type": ["view"], "timestamp": pa.array([5], pa.timestamp("ms"))},
            "'timestamp' must be of type int64, received timestamp[ms]",
        ),
        (
            {"user_id": ["u"], "item_id": ["i"], "type": ["view"], "quantity": [2**40]},
            "'quantity' does not fit the type int32",
        ),
        ({"user_id": ["u"], "item_id": ["i"], "type": ["view"], "prise": [1.0]}, "Did you mean 'price'?"),
    ],
)
def test_table_that_does_not_fit_is_refused(columns: dict, sentence: str) -> None:
    with pytest.raises(DataError) as refused:
        conform(pa.table(columns), "events", "shop/events.parquet")
    assert str(refused.value).startswith("shop/events.parquet: ")
    assert sentence in str(refused.value)


def test_strings_may_stay_dictionaries_and_are_judged_alike() -> None:
    columns = {
        "user_id": ["a", "", "b", "a"],
        "item_id": ["x", "y", None, "\n"],
        "type": ["view", "view", "search", "buy"],
    }
    plain = conform(pa.table(columns), "events", "events.parquet")
    encoded = conform(pa.table(columns), "events", "events.parquet", encoded=True)
    assert all(pa.types.is_dictionary(field.type) for field in encoded.schema)
    for expected, found in zip(check_events(plain, NOW, 3600), check_events(encoded, NOW, 3600), strict=True):
        assert found.to_pylist() == expected.to_pylist()


def test_a_dictionary_larger_than_its_column_is_made_anew() -> None:
    entries = pa.array([f"user-{number}" for number in range(1_000)])
    users = pa.DictionaryArray.from_arrays(pa.array([7, None, 7], pa.int32()), entries)
    table = pa.table({"user_id": users, "item_id": ["a", "b", "c"], "type": ["view"] * 3})
    found = conform(table, "events", "events.parquet", encoded=True).column("user_id")
    assert found.to_pylist() == ["user-7", None, "user-7"]
    assert found.chunk(0).dictionary.to_pylist() == ["user-7"]
