import calendar
import datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transform.import_columns import (
    TimeFormat,
    as_text,
    attributes,
    category_path,
    parse_booleans,
    parse_numbers,
    parse_times,
    without_decimals,
)


def seconds(texts: list, **time_format: str) -> list[int | None]:
    return parse_times("timestamp", pa.array(texts), TimeFormat(**time_format)).values.to_pylist()


@given(st.datetimes(datetime.datetime(1971, 1, 1), datetime.datetime(2200, 1, 1)))
def test_iso_times_are_seconds_in_utc(moment: datetime.datetime) -> None:
    expected = calendar.timegm(moment.timetuple())
    assert seconds([moment.isoformat(), moment.isoformat(" "), f"{moment.isoformat()}Z"]) == [expected] * 3


def test_offset_wins_over_the_time_zone() -> None:
    assert seconds(["1970-01-02T01:00:00+01:00", "1970-01-02"], timezone="Asia/Tokyo") == [86_400, 86_400 - 9 * 3600]


def test_summer_time_counts() -> None:
    # 12:00 in London is 11:00 UTC in July and 12:00 UTC in January.
    assert seconds(["2011-07-01 12:00", "2011-01-01 12:00"], timezone="Europe/London") == [1309518000, 1293883200]


def test_skipped_hour_is_an_hour_on_and_doubled_hour_the_later() -> None:
    # London, 2011: 01:30 on 27 March did not exist (02:30 BST = 01:30 UTC); 01:30 on 30 October came twice.
    received = seconds(["2011-03-27 01:30", "2011-10-30 01:30"], timezone="Europe/London")
    assert received == [1301189400, 1319938200]


def test_own_format_is_read() -> None:
    # 1 December 2010, 08:26 UTC
    assert seconds(["12/1/2010 8:26"], timestamp_format="%m/%d/%Y %H:%M") == [1291191960]


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_units_round_down_without_loss(unit: str, factor: int) -> None:
    assert seconds([str(1_600_000_000 * factor + factor - 1)], timestamp_unit=unit) == [1_600_000_000]


def test_fractions_of_seconds_round_down() -> None:
    assert seconds(["1600000000.9", None]) == [1_600_000_000, None]


def test_wrong_time_has_a_reason() -> None:
    parsed = parse_times("timestamp", pa.array(["2011-02-30", "soon", ""]), TimeFormat())
    assert parsed.values.to_pylist() == [None, None, None]
    assert sorted(parsed.reasons) == [0, 1]
    assert parsed.reasons[1].endswith("received 'soon'.")


def test_arrow_times_are_converted() -> None:
    days = pa.array([datetime.date(1970, 1, 2), None])
    assert parse_times("timestamp", days, TimeFormat()).values.to_pylist() == [86_400, None]
    aware = pa.array([1500], pa.timestamp("ms", "Europe/Paris"))
    assert parse_times("timestamp", aware, TimeFormat(timezone="Asia/Tokyo")).values.to_pylist() == [1]


def test_whole_numbers_must_be_whole_and_in_range() -> None:
    parsed = parse_numbers("quantity", pa.array(["1", "2.0", "-3", "2.5", "9999999999", "x", "inf", ""]), pa.int32())
    assert parsed.values.to_pylist() == [1, 2, -3, None, None, None, None, None]
    assert sorted(parsed.reasons) == [3, 4, 5, 6]
    assert parsed.reasons[3] == "quantity: must be a whole number up to 2147483647, received '2.5'."


def test_decimal_comma_is_refused_not_guessed() -> None:
    parsed = parse_numbers("price", pa.array(["1,5"]), pa.float32())
    assert parsed.reasons == {0: "price: must be a number as 1234.5, received '1,5'."}


def test_numbers_of_a_numeric_column_are_taken_as_they_are() -> None:
    parsed = parse_numbers("quantity", pa.array([2.0, float("nan"), None, 2.5]), pa.int32())
    assert parsed.values.to_pylist() == [2, None, None, None]
    assert parsed.reasons == {3: "quantity: must be a whole number up to 2147483647, received 2.5."}


def test_text_is_trimmed_and_missing_is_null() -> None:
    assert as_text(pa.array([" a ", "", "NULL", None]), ["NULL"]).to_pylist() == ["a", None, None, None]


def test_numbers_become_ids_without_a_decimal_point() -> None:
    assert as_text(pa.array([17850.0, 1.5, float("nan"), None])).to_pylist() == ["17850", "1.5", None, None]
    assert without_decimals(pa.array(["17850.0", "v1.0", "1.50"])).to_pylist() == ["17850", "v1.0", "1.50"]


def test_category_levels_are_trimmed() -> None:
    paths = category_path(pa.array(["A|B | C", "A||", None, "|"]), " | ")
    assert paths.to_pylist() == ["A > B > C", "A", None, None]


def test_booleans_are_read() -> None:
    parsed = parse_booleans("available", pa.array(["Yes", "0", None, "perhaps"]))
    assert parsed.values.to_pylist() == [True, False, None, None]
    assert list(parsed.reasons) == [3]


def test_attributes_keep_columns_order_and_skip_missing() -> None:
    named = {"colour": pa.array(["red", None]), "sizes": pa.array([["S", "M"], None]), "a=b": pa.array([None, 2])}
    ready = pa.array([None, ["old=1"]], pa.list_(pa.string()))
    assert attributes(named, ready).to_pylist() == [["colour=red", "sizes=S", "sizes=M"], ["old=1", "a_b=2"]]


def test_attributes_are_on_one_line() -> None:
    assert attributes({"note": pa.array(["two\r\nlines\tand  more"])}).to_pylist() == [["note=two lines and more"]]
