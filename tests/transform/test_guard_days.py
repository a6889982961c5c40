"""Which days the guards compare, and what each rule says, on counts made by hand."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.spatial.distance import jensenshannon

from transform.config import ValidateConfig
from transform.days_compared import day_split
from transform.findings import Anomaly
from transform.guard_days import check_days

# 28 days from Monday on of a shop with the same 24,000 events each day, 1,000 in each hour, of 12,000 shoppers.
FIRST = 19_716
DAYS = 28
Change = Callable[[pd.DataFrame], pd.DataFrame]


def day_rows(day: int) -> list[tuple]:
    types = {"view": 20_000, "purchase": 4_000}
    rows = [(day, "events", name, None, None, count) for name, count in types.items()]
    for region, part in (("north", 0.75), ("south", 0.25)):
        rows += [(day, "events", name, "region", region, int(count * part)) for name, count in types.items()]
    rows += [(day, "hours", None, None, f"{hour:02d}", 1_000) for hour in range(24)]
    rows += [(day, "load", None, None, "1", 24_000), (day, "busiest", None, None, None, 3)]
    rows += [(day, "shoppers", None, None, None, 12_000), (day, "returning", None, None, None, 9_000)]
    rows += [(day, "sessions", None, None, None, 13_000), (day, "content", None, None, None, day * 7_919)]
    return rows


def days(count: int, change: Change | None = None, first: int = FIRST) -> pa.Table:
    """`count` days, the last one changed."""
    columns = ["day", "measure", "type", "feature", "value", "count"]
    frame = pd.DataFrame([row for day in range(first, first + count) for row in day_rows(day)], columns=columns)
    if change:
        last = frame["day"] == first + count - 1
        frame = pd.concat([frame[~last], change(frame[last].copy())])
    return pa.Table.from_pandas(frame, preserve_index=False)


def findings(change: Change | None = None, count: int = DAYS + 1, **config: float) -> list[Anomaly]:
    split = day_split(days(count, change), days(DAYS), newest=7, max_change=0.4)
    return check_days(split, ValidateConfig(**config))


def scaled(part: float, **where: str) -> Change:
    """Multiplies the counts of the rows that `where` names."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        chosen = np.logical_and.reduce([frame[name] == value for name, value in where.items()] or [frame["count"] > 0])
        frame.loc[chosen & (frame["measure"] != "content"), "count"] = (frame["count"] * part).astype(int)
        return frame[frame["count"] != 0]

    return change


def rules(found: list[Anomaly]) -> list[tuple[str, str]]:
    return [(anomaly.feature, anomaly.rule) for anomaly in found]


def test_a_day_like_the_others_has_no_finding() -> None:
    assert findings() == []


def test_a_day_with_half_the_events_is_told_once_not_by_every_part_of_it() -> None:
    (found,) = findings(scaled(0.5))
    assert (found.dataset, found.feature, found.rule) == ("day 2024-01-22", "all events", "VOLUME_LOW")
    assert found.description == "12,000 events came; 24,000 are usual on such a day (limit ±40%)."


def test_twice_as_many_events_warn() -> None:
    (found,) = findings(scaled(2.0))
    assert (found.rule, found.severity) == ("VOLUME_HIGH", "warn")


def test_the_limit_of_volume_is_configuration() -> None:
    assert rules(findings(scaled(0.75))) == []
    assert rules(findings(scaled(0.75), max_volume_change=0.1)) == [("all events", "VOLUME_LOW")]


def test_a_type_that_is_gone_is_named() -> None:
    found = findings(scaled(0, type="purchase"))
    assert rules(found) == [("purchase", "VANISHED")]
    assert found[0].description == "0 events of type 'purchase' came; 4,000 are usual on such a day (limit ±40%)."


def test_a_region_of_one_type_is_named() -> None:
    found = findings(scaled(0, type="purchase", value="south"))
    (volume,) = (anomaly for anomaly in found if anomaly.rule == "VANISHED")
    assert "0 events of type 'purchase' with region 'south' came; 1,000 are usual" in volume.description


def test_missing_values_are_counted_against_the_usual() -> None:
    found = [
        anomaly
        for anomaly in findings(lambda frame: frame[frame["value"] != "south"])
        if anomaly.rule == "MISSING_HIGH"
    ]
    assert found[0].feature == "region"
    assert "missing in 25.0% of the events; 0.0% are usual (limit +10%)" in found[0].description


def test_a_column_that_is_gone_is_missing() -> None:
    found = findings(lambda frame: frame[frame["feature"].isna()])
    assert ("region", "MISSING_HIGH") in rules(found)


def test_new_values_name_their_twin() -> None:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame["value"] = frame["value"].replace("north", "NORTH")
        return frame

    found = [anomaly for anomaly in findings(change) if anomaly.rule == "NEW_VALUES"]
    assert found[0].description == "75.0% have values never seen before: 'NORTH'; 'NORTH' is 'north' but for case."


def test_hours_without_events_are_told() -> None:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[~frame["value"].isin([f"{hour:02d}" for hour in range(6, 12)])]

    found = [anomaly for anomaly in findings(change) if anomaly.rule == "HOURS_EMPTY"]
    assert (
        "No event in 6 hours from 06:00 to 11:59 UTC that usually have 25% of a day's events." in found[0].description
    )


def rhythm(frame: pd.DataFrame, shift: int) -> pd.DataFrame:
    """400 events from 12 to 17, 0 … by hour of the shop."""
    hours = frame["measure"] == "hours"
    local = (frame.loc[hours, "value"].astype(int) - shift) % 24
    frame.loc[hours, "count"] = np.where((local >= 12) & (local < 18), 3_000, 333)
    return frame


def test_a_moved_rhythm_names_the_hours() -> None:
    columns = days(DAYS).to_pandas().groupby("day", group_keys=False)
    before = pa.Table.from_pandas(columns.apply(lambda frame: rhythm(frame, 0)), preserve_index=False)
    after = pa.Table.from_pandas(
        pd.concat([before.to_pandas(), rhythm(days(1, first=FIRST + DAYS).to_pandas(), 5)]), preserve_index=False
    )
    found = check_days(day_split(after, before, 7, 0.4), ValidateConfig())
    assert rules(found) == [("hour", "HOURS_SHIFTED")]
    counts = np.where((np.arange(24) >= 12) & (np.arange(24) < 18), 3_000, 333)
    distance = jensenshannon(np.roll(counts, 5), counts, base=2) ** 2
    assert f"divergence {distance:.3f} of the events by hour" in found[0].description
    assert "Moved by -5 hours it would fit: 0.000." in found[0].description


def test_one_shopper_with_a_quarter_of_the_events() -> None:
    found = findings(lambda frame: frame.assign(count=np.where(frame["measure"] == "busiest", 6_000, frame["count"])))
    assert rules(found) == [("user_id", "ONE_SHOPPER_HIGH")]
    assert "One shopper has 25.0% of the events; at most 0.0% are usual." in found[0].description


def test_heavy_shoppers_are_those_that_are_never_seen() -> None:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[frame["measure"] == "load", "count"] = 19_200
        bots = pd.DataFrame([(FIRST + DAYS, "load", None, None, "7", 4_800)], columns=frame.columns)
        return pd.concat([frame, bots])

    found = findings(change)
    assert rules(found) == [("user_id", "HEAVY_SHOPPERS_HIGH")]
    assert "20.0% of the events are of shoppers with 4 events or more that day" in found[0].description


def test_shoppers_that_nobody_knows() -> None:
    assert rules(findings(scaled(0, measure="returning"))) == [("user_id", "RETURNING_LOW")]


@pytest.mark.parametrize(
    ("measure", "rule"), [("duplicates", "DUPLICATES_HIGH"), ("shared_sessions", "SHARED_SESSIONS_HIGH")]
)
def test_repeated_rows_and_shared_sessions(measure: str, rule: str) -> None:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        more = pd.DataFrame([(FIRST + DAYS, measure, None, None, None, 12_000)], columns=frame.columns)
        return pd.concat([frame, more])

    assert [anomaly.rule for anomaly in findings(change)] == [rule]


def test_a_day_that_is_another_one_names_it() -> None:
    earlier = (FIRST + 3) * 7_919
    found = findings(lambda frame: frame.assign(count=np.where(frame["measure"] == "content", earlier, frame["count"])))
    assert rules(found) == [("(all columns)", "REPEATED_DAY")]
    assert "as on 2023-12-28." in found[0].description


def test_a_day_that_did_not_come_is_missed() -> None:
    rows = days(DAYS + 2).to_pandas()
    split = day_split(pa.Table.from_pandas(rows[rows["day"] != FIRST + DAYS], preserve_index=False), days(DAYS), 7, 0.4)
    found = check_days(split, ValidateConfig())
    assert [(anomaly.dataset, anomaly.rule) for anomaly in found] == [("day 2024-01-22", "DAY_MISSING")]


def test_a_weekday_on_which_the_shop_is_closed_is_not_missed() -> None:
    rows = days(DAYS + 2).to_pandas()
    open_days = rows[(rows["day"] - FIRST - DAYS) % 7 != 0]
    before = pa.Table.from_pandas(open_days[open_days["day"] < FIRST + DAYS], preserve_index=False)
    split = day_split(pa.Table.from_pandas(open_days, preserve_index=False), before, 7, 0.4)
    assert split.new_days == (FIRST + DAYS + 1,)
    assert check_days(split, ValidateConfig()) == []


@pytest.mark.parametrize(("moved", "date"), [(-400, "2022-12-18"), (300, "2024-11-17")])
def test_a_day_far_from_all_others_is_out_of_place(moved: int, date: str) -> None:
    rows = days(DAYS + 1).to_pandas()
    rows.loc[rows["day"] == FIRST + DAYS, "day"] += moved
    found = check_days(
        day_split(pa.Table.from_pandas(rows, preserve_index=False), days(DAYS), 7, 0.4), ValidateConfig()
    )
    assert ("timestamp", "DAY_OUT_OF_PLACE") in rules(found)
    assert found[0].dataset == f"day {date}"
    assert "the days known go from 2023-12-25 to 2024-01-21." in found[0].description


def test_a_part_of_a_day_that_was_made_whole_is_new() -> None:
    half = days(DAYS, scaled(0.5))
    split = day_split(days(DAYS), half, newest=7, max_change=0.4)
    assert split.new_days == (FIRST + DAYS - 1,)
    assert FIRST + DAYS - 1 not in split.reference_days


def test_late_events_do_not_make_a_day_new() -> None:
    assert day_split(days(DAYS), days(DAYS, scaled(0.9)), newest=7, max_change=0.4).new_days == ()


def test_without_a_blessed_run_the_newest_days_are_compared_with_those_before() -> None:
    split = day_split(days(DAYS), None, newest=2, max_change=0.4)
    assert split.new_days == (FIRST + DAYS - 2, FIRST + DAYS - 1)
    assert split.reference_days == tuple(range(FIRST, FIRST + DAYS - 2))


def test_a_day_is_compared_with_the_same_weekdays() -> None:
    split = day_split(days(DAYS + 1), days(DAYS), newest=7, max_change=0.4)
    assert split.comparable(FIRST + DAYS) == [FIRST, FIRST + 7, FIRST + 14, FIRST + 21]


def test_a_young_shop_is_compared_with_the_last_week() -> None:
    split = day_split(days(11), days(10), newest=7, max_change=0.4)
    assert split.comparable(FIRST + 10) == list(range(FIRST + 3, FIRST + 10))


def test_without_a_clock_nothing_is_compared() -> None:
    split = day_split(days(0), None, newest=7, max_change=0.4)
    assert check_days(split, ValidateConfig()) == []
    assert split.events_of_one_shopper() == 1.0
