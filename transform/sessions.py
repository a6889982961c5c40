"""Sessions of shoppers: where they begin, how long they are, how long each event lasted; and who is no shopper.

Arrays are columns of one bucket. Events stand by user and time; codes of absent values are -1.
"""

import numpy as np

from transform.clock import DAY
from transform.runs import changes, places_in_runs, run_numbers, run_starts
from transform.tables import IMPRESSION

_ABSENT = -1


def robot_events(user: np.ndarray, timestamp: np.ndarray, limit: int) -> np.ndarray:
    """Bool [events]: those of users who have more than `limit` events within 24 hours; a limit of 0 finds nobody."""
    robots = np.zeros(len(user), bool)
    if not 0 < limit < len(user):
        return robots
    soon = (user[limit:] == user[:-limit]) & (timestamp[limit:] - timestamp[:-limit] < DAY)
    return np.isin(user, np.unique(user[limit:][soon]))


def session_numbers(
    user: np.ndarray, session: np.ndarray, timestamp: np.ndarray, resets: np.ndarray, gap_seconds: int | None
) -> np.ndarray:
    """Session of each event, int64 [events], numbered for each shopper in order of their first events.

    Args:
        user, timestamp: of the events.
        session: codes of the shop's own sessions.
        resets: bool [events], what begins a session that the shop does not name.
        gap_seconds: the longest pause within such a session; None = no clock, no gaps.
    """
    # A shop's session may be interleaved with another one; equal ids are one session.
    sorting = np.lexsort((session, user))
    users, sessions, times = user[sorting], session[sorting], timestamp[sorting]
    starts = changes(users, sessions)
    starts |= (sessions == _ABSENT) & resets[sorting]
    if gap_seconds is not None and len(starts):
        starts[1:] |= (sessions[1:] == _ABSENT) & (np.diff(times) > gap_seconds)
    return _numbers_by_first(user, sorting, starts)


def numbered_by_first(user: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Groups of each shopper as 0, 1, 2 … in order of their first rows, int64 [rows]; a shopper's rows together."""
    sorting = np.lexsort((groups, user))
    return _numbers_by_first(user, sorting, changes(user[sorting], groups[sorting]))


def _numbers_by_first(user: np.ndarray, sorting: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Numbers of groups, int64 [rows], for each shopper in order of the groups' first rows.

    Args:
        user: of the rows, a shopper's together.
        sorting: rows by group, those of a group in order.
        starts: bool [rows], which of the sorted rows begin a group.
    """
    firsts = sorting[starts]
    rank = np.empty(len(firsts), np.int64)
    rank[np.argsort(firsts)] = np.arange(len(firsts))
    numbers = np.empty(len(user), np.int64)
    numbers[sorting] = rank[np.cumsum(starts) - 1]
    return numbers - numbers[run_starts(user)][run_numbers(user)]


def dwell_seconds(user: np.ndarray, session: np.ndarray, timestamp: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Seconds until the shopper's next event of the session that is no impression, float64 [events]; NaN = none.

    Args:
        user, session, timestamp: of the events.
        kind: event types.
    """
    dwell = np.full(len(user), np.nan)
    acts = np.flatnonzero(kind != IMPRESSION)
    # Stable: within a session events stay in the order of time.
    acts = acts[np.lexsort((session[acts], user[acts]))]
    here, following = acts[:-1], acts[1:]
    same = (user[here] == user[following]) & (session[here] == session[following])
    dwell[here[same]] = (timestamp[following] - timestamp[here])[same]
    return dwell


def divided_sessions(user: np.ndarray, session: np.ndarray, basket: np.ndarray, longest: int) -> np.ndarray:
    """New numbers of sessions, int64 [interactions], for each shopper in the order in which they begin.

    Args:
        user, session, basket: of the interactions, by user and time.
        longest: interactions of a session, but for a basket, which is all in the part where it begins.
    """
    sorting = np.lexsort((session, user))
    part = np.empty(len(user), np.int64)
    part[sorting] = places_in_runs(run_numbers(user[sorting], session[sorting])) // longest
    first_in_basket = np.lexsort((np.arange(len(user)), basket, user))
    of_basket = run_numbers(user[first_in_basket], basket[first_in_basket])
    begins = first_in_basket[run_starts(of_basket)]
    # A basket may hold interactions of several of the shop's sessions.
    alike = session[first_in_basket] == session[begins][of_basket]
    part[first_in_basket] = np.where(alike, part[begins][of_basket], part[first_in_basket])
    sorting = np.lexsort((part, session, user))
    return _numbers_by_first(user, sorting, changes(user[sorting], session[sorting], part[sorting]))


def session_lengths(user: np.ndarray, session: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Interactions that each one's session has within its span, int64 [interactions]."""
    sorting = np.lexsort((span, session, user))
    numbers = run_numbers(user[sorting], session[sorting], span[sorting])
    lengths = np.empty(len(user), np.int64)
    lengths[sorting] = np.bincount(numbers)[numbers] if len(user) else numbers
    return lengths
