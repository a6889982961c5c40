"""Lengths of time in seconds; hours and weekdays of times, in UTC."""

import numpy as np

MINUTE = 60
HOUR = 3_600
DAY = 86_400
# 1970-01-01 was a Thursday.
_EPOCH_WEEKDAY = 3


def hour_of_day(seconds: np.ndarray) -> np.ndarray:
    """0 to 23, of times in seconds since 1970, int64 [times]."""
    return seconds // HOUR % 24


def weekday(seconds: np.ndarray) -> np.ndarray:
    """Monday = 0 to Sunday = 6, of times in seconds since 1970, int64 [times]."""
    return (seconds // DAY + _EPOCH_WEEKDAY) % 7
