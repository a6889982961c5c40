"""Where the validation and the test span of a time split begin."""

from datetime import UTC, datetime

import numpy as np

from transform.checks import DataError
from transform.clock import DAY, MINUTE
from transform.config import SplitConfig


def find_cuts(minutes: dict[str, int], split: SplitConfig) -> tuple[int, int]:
    """Starts of the validation and test span, seconds since 1970: dates of `split`, or else its days or its shares.

    Args:
        minutes: minute since 1970 → events that enter histories.
        split: what the configuration says.

    Days are whole ones in UTC, the newest with an event included; those of validation end where the test begins. A
    share begins at the first minute by which at least the rest of the events have passed: for a test share of 0.1
    at least 0.9 of the events lie before the test span.

    Raises:
        DataError: a date cannot be read, a span has both a date and days, the test span does not begin after the
            validation span, or there is nothing to split.
    """
    validation = _date(split.validation_start, "validation_start")
    test = _date(split.test_start, "test_start")
    for span, start, days in (("validation", validation, split.validation_days), ("test", test, split.test_days)):
        if start is not None and days is not None:
            raise DataError(
                f"transform.split: the {span} span must have one beginning, received {span}_start {shown(start)} and "
                f"{span}_days {days}. Leave one of them out."
            )
    if validation is None or test is None:
        if not minutes:
            raise DataError("the events table has no event that enters histories (transform.history_types).")
        if test is None:
            test = _newest_days(minutes, split.test_days) or _after_share(minutes, 1 - split.test_share)
        if validation is None and split.validation_days is not None:
            validation = test - split.validation_days * DAY
        elif validation is None:
            validation = _after_share(minutes, 1 - split.test_share - split.validation_share)
    if validation >= test:
        raise DataError(
            f"transform.split: the test span must begin after the validation span, received validation from "
            f"{shown(validation)}, test from {shown(test)}. Give other dates, or shares above 0 on data of more "
            "than a few minutes."
        )
    return validation, test


def shown(seconds: int) -> str:
    """A time for people, UTC, and the seconds it stands for."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} ({seconds})"


def _date(text: str | None, key: str) -> int | None:
    """Seconds since 1970 of an ISO date or time; UTC unless it says otherwise."""
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(
            f"transform.split.{key}: must be an ISO date or time such as 2011-10-01, received {text!r}."
        ) from error
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())


def _newest_days(minutes: dict[str, int], days: int | None) -> int | None:
    """Second at which the newest `days` days begin, None without a number of them."""
    if days is None:
        return None
    return (max(int(minute) for minute in minutes) * MINUTE // DAY - days + 1) * DAY


def _after_share(minutes: dict[str, int], part: float) -> int:
    """Second at which the minute begins before which at least `part` of the events lie."""
    keys, counts = np.array([(int(minute), count) for minute, count in minutes.items()]).T
    order = np.argsort(keys)
    keys, running = keys[order], np.cumsum(counts[order])
    # Tolerates the rounding of 1 - 0.1 - 0.1 on an exact count.
    place = int(np.searchsorted(running, part * running[-1] - 1e-6))
    return int(keys[place] + 1) * MINUTE
