"""Where the held-out future begins."""

import pytest

from transform.checks import DataError
from transform.config import SplitConfig
from transform.split import find_cuts

# One event a minute for a hundred minutes.
EVEN = {str(minute): 1 for minute in range(1_000, 1_100)}


def test_shares_are_cut_at_whole_minutes() -> None:
    assert find_cuts(EVEN, SplitConfig()) == (1_080 * 60, 1_090 * 60)


def test_a_busy_minute_is_not_divided() -> None:
    busy = EVEN | {"1079": 6}
    # 105 events: 84 of them must lie before validation; 79 do before minute 1079, 85 with it.
    assert find_cuts(busy, SplitConfig())[0] == 1_080 * 60


def test_the_order_of_the_counts_does_not_matter() -> None:
    assert find_cuts(dict(reversed(EVEN.items())), SplitConfig()) == find_cuts(EVEN, SplitConfig())


def test_dates_are_utc_and_times_may_name_their_zone() -> None:
    split = SplitConfig(validation_start="2011-10-01", test_start="2011-11-01T01:00:00+01:00")
    assert find_cuts(EVEN, split) == (1_317_427_200, 1_320_105_600)


def test_one_date_goes_with_the_other_share() -> None:
    split = SplitConfig(test_start="1970-01-01T18:20:00")  # minute 1100
    assert find_cuts(EVEN, split) == (1_080 * 60, 1_100 * 60)


def test_days_are_the_newest_whole_ones() -> None:
    # Hours 0 to 99: the newest events are of day 4, which begins at hour 96.
    hourly = {str(60 * hour): 1 for hour in range(100)}
    assert find_cuts(hourly, SplitConfig(validation_days=2, test_days=1)) == (2 * 86_400, 4 * 86_400)
    assert find_cuts(hourly, SplitConfig(validation_days=1, test_start="1970-01-03")) == (86_400, 2 * 86_400)
    # The validation share of all events lies before the last fifth: at least 70 of 100.
    mixed = SplitConfig(validation_share=0.2, test_days=1)
    assert find_cuts(hourly, mixed) == (69 * 3_600 + 60, 4 * 86_400)


def test_a_span_with_two_beginnings_is_refused() -> None:
    with pytest.raises(DataError, match=r"received test_start 1970-01-03 00:00:00 \(172800\) and test_days 2"):
        find_cuts(EVEN, SplitConfig(test_start="1970-01-03", test_days=2))


def test_a_date_that_cannot_be_read_names_the_key() -> None:
    with pytest.raises(DataError, match=r"transform.split.test_start: must be an ISO date .* received '1.11.2011'"):
        find_cuts(EVEN, SplitConfig(test_start="1.11.2011"))


def test_validation_must_begin_before_the_test() -> None:
    split = SplitConfig(validation_start="2011-11-01", test_start="2011-10-01")
    with pytest.raises(
        DataError, match=r"received validation from 2011-11-01 00:00:00 \(1320105600\), test from 2011-10"
    ):
        find_cuts(EVEN, split)


def test_all_events_in_one_minute_cannot_be_split() -> None:
    with pytest.raises(DataError, match="the test span must begin after the validation span"):
        find_cuts({"1000": 50}, SplitConfig())


def test_no_event_cannot_be_split() -> None:
    with pytest.raises(DataError, match="no event that enters histories"):
        find_cuts({}, SplitConfig())
