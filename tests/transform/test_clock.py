"""Hours and weekdays, against Python's calendar."""

from datetime import UTC, datetime

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transform.clock import hour_of_day, weekday

SECONDS = st.lists(st.integers(-(10**9), 10**11), min_size=1)


@given(SECONDS)
def test_hours_are_those_of_the_calendar(seconds: list[int]) -> None:
    expected = [datetime.fromtimestamp(second, UTC).hour for second in seconds]
    assert hour_of_day(np.array(seconds, np.int64)).tolist() == expected


@given(SECONDS)
def test_weekdays_are_those_of_the_calendar(seconds: list[int]) -> None:
    expected = [datetime.fromtimestamp(second, UTC).weekday() for second in seconds]
    assert weekday(np.array(seconds, np.int64)).tolist() == expected
