"""Sessions of simulated shoppers: when they come, what they choose there (truth.py has the formula), without events."""

from dataclasses import dataclass

import numpy as np

from transform.clock import DAY, HOUR
from transform.simulator.shoppers import Visible
from transform.simulator.truth import (
    CONTINUE,
    MAX_STEPS,
    Shop,
    Shoppers,
    State,
    budget_and_brand_match,
    leaf_probabilities,
    style_probabilities,
)

# Visits by hour of the day (UTC) and by day of the week from Friday on, relative.
HOURS = np.array([2, 1, 1, 1, 1, 2, 3, 5, 6, 6, 6, 6, 7, 7, 6, 6, 6, 7, 9, 11, 12, 11, 8, 4], float)
WEEK = np.array([1.0, 1.25, 1.3, 1.0, 0.95, 0.95, 1.0])
# Shoppers who find the shop during the span; the others knew it before.
SHARE_NEWCOMERS = 0.4
# Seconds before the first choice (lists are seen), between choices, and from the last choice to the order.
LEAD, MIN_GAP, MAX_GAP, TAIL = 40, 40, 600, 300
MEDIAN_EXTRA_GAP, GAP_SPREAD = 45.0, 1.0
# Two sessions of a shopper are farther apart than the half hour that ends a session.
PAUSE = 2_700
# Sessions, times the most cells of a category, whose choices are drawn at once: bounds memory.
BLOCK = 1_048_576


@dataclass(frozen=True, eq=False)
class Sessions:
    """S sessions in order of shopper and time, with their C choices one after the other."""

    shopper: np.ndarray  # int64 [S], row among the shoppers of the chunk
    start: np.ndarray  # int64 [S], seconds since the start of the span
    length: np.ndarray  # int64 [S], number of choices
    offset: np.ndarray  # int64 [C], seconds from the session's start to the choice

    @property
    def first(self) -> np.ndarray:
        """Number of each session's first choice: int64 [S]."""
        return np.cumsum(self.length) - self.length

    @property
    def of_choice(self) -> np.ndarray:
        """Session of each choice: int64 [C]."""
        return np.repeat(np.arange(len(self.length)), self.length)


@dataclass(frozen=True, eq=False)
class Choices:
    """What was chosen in `Sessions`, by session and step."""

    item: np.ndarray  # int64 [C], row in items.parquet
    leaf: np.ndarray  # int64 [C], category browsed
    # The choice is the first of its session, or its category is another than the choice before.
    entered: np.ndarray  # bool [C]
    style: np.ndarray  # int64 [S], the session's hidden style


def plan_sessions(visible: Visible, mean_sessions: float, days: int, rng: np.random.Generator) -> Sessions:
    """Draws how often each shopper comes, when, and how many choices he makes each time.

    Args:
        visible: the chunk's shoppers.
        mean_sessions: expected sessions of a shopper; every shopper plans at least one if it is 1 or more.
        days: length of the span.
        rng: source of chance.
    """
    if mean_sessions >= 1:
        count = 1 + rng.poisson((mean_sessions - 1) * visible.activity)
    else:
        count = (rng.random(len(visible.activity)) < mean_sessions).astype(np.int64)
    shopper = np.repeat(np.arange(len(count)), count)
    joined = np.where(rng.random(len(count)) < SHARE_NEWCOMERS, rng.random(len(count)) * days, 0.0)
    start = _visit_seconds(joined[shopper], days, rng)
    start = start[np.lexsort((start, shopper))]
    length = np.minimum(rng.geometric(1 - CONTINUE, len(shopper)), MAX_STEPS)
    gap = MIN_GAP + MEDIAN_EXTRA_GAP * np.exp(GAP_SPREAD * rng.standard_normal(length.sum()))
    gap = np.minimum(gap, MAX_GAP).astype(np.int64)
    first = np.cumsum(length) - length
    gap[first] = LEAD
    total = np.cumsum(gap)
    offset = total - np.repeat(total[first] - LEAD, length)
    duration = offset[first + length - 1] + TAIL
    start = _apart(shopper, start, duration + PAUSE)
    # Those that would end after the span don't happen: plans of its last hours, and of shoppers who come too often.
    happens = start + duration < days * DAY
    return Sessions(shopper[happens], start[happens], length[happens], offset[np.repeat(happens, length)])


def _visit_seconds(joined: np.ndarray, days: int, rng: np.random.Generator) -> np.ndarray:
    """Times of visits after `joined` (days, [N]) with the rhythm of day and week: int64 [N] seconds since the start."""
    weekday = WEEK[np.arange(days) % len(WEEK)]
    rhythm = np.concatenate([[0.0], np.cumsum((weekday[:, None] * HOURS).ravel())])
    hours = np.arange(len(rhythm), dtype=float)
    earliest = np.interp(joined * 24, hours, rhythm)
    drawn = earliest + rng.random(len(joined)) * (rhythm[-1] - earliest)
    return (np.interp(drawn, rhythm, hours) * HOUR).astype(np.int64)


def _apart(shopper: np.ndarray, start: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Moves sessions later until each begins `needed` seconds after the same shopper's one before began: int64 [S].

    start'_k = max over i ≤ k of (start_i + needed_i + … + needed_{k−1}): a running maximum of start − earlier needs.
    """
    earlier = np.cumsum(needed) - needed
    slack = start - earlier
    # Lifts each shopper above all before him, so that the maximum does not run from one to the next.
    lift = shopper * (np.ptp(slack) + 1) if len(slack) else slack
    return np.maximum.accumulate(slack + lift) - lift + earlier


def draw_choices(shop: Shop, shoppers: Shoppers, sessions: Sessions, rng: np.random.Generator) -> Choices:
    """Draws every choice of every session from the choice model."""
    first, choices = sessions.first, int(sessions.length.sum())
    item, leaf = np.empty(choices, np.int64), np.empty(choices, np.int64)
    entered, style = np.zeros(choices, bool), np.empty(len(first), np.int64)
    block = max(1, BLOCK // shop.leaf_cells.shape[1])
    for begin in range(0, len(first), block):
        rows = np.arange(begin, min(begin + block, len(first)))
        state = shoppers.at(sessions.shopper[rows], sessions.start[rows])
        day = sessions.start[rows] // DAY
        style[rows] = draw(style_probabilities(shop, state), rng)
        current = draw(leaf_probabilities(shop, state), rng)
        alive, before = np.arange(len(rows)), np.full(len(rows), -1)
        for step in range(MAX_STEPS):
            place = first[rows[alive]] + step
            item[place] = _draw_items(shop, _part(state, alive), style[rows[alive]], current, day[alive], rng)
            leaf[place] = current
            entered[place] = current != before
            goes_on = sessions.length[rows[alive]] > step + 1
            alive, before = alive[goes_on], current[goes_on]
            if not len(alive):
                break
            current = draw(shop.transitions[before], rng)
    return Choices(item, leaf, entered, style)


def _part(state: State, rows: np.ndarray) -> State:
    return State(state.style[rows], state.budget[rows], state.interest[rows], state.brands[rows])


def _draw_items(
    shop: Shop, state: State, style: np.ndarray, leaf: np.ndarray, day: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draws from P(j | u, t, s, c) for N sessions with styles, categories and days int [N]: rows int64 [N]."""
    cells = shop.leaf_cells[leaf]
    weights = budget_and_brand_match(shop, state, cells) * shop.style_match[style[:, None], cells]
    chosen = draw(weights * _available_weight(shop, day, leaf, cells), rng)
    return draw_in_cells(shop, cells[np.arange(len(cells)), chosen], day, rng)


def _available_weight(shop: Shop, day: np.ndarray, leaf: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Popularity of `cells` [N, C] on `day` [N], 0 in the places that only fill the row: float64 [N, C]."""
    real = np.arange(cells.shape[1]) < np.diff(shop.leaf_first)[leaf][:, None]
    return shop.cell_weight[day[:, None], cells] * real


def draw_by_popularity(shop: Shop, leaf: np.ndarray, day: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Products of categories `leaf` [N] on `day` [N] in proportion to popularity^a alone: rows int64 [N]."""
    cells = shop.leaf_cells[leaf]
    chosen = draw(_available_weight(shop, day, leaf, cells), rng)
    return draw_in_cells(shop, cells[np.arange(len(cells)), chosen], day, rng)


def draw_in_cells(shop: Shop, cell: np.ndarray, day: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Available products of `cell` [N] on `day` [N] in proportion to popularity^a: rows int64 [N]."""
    begin, end = shop.cell_first[cell], shop.available_end[day, cell]
    low, high = shop.cumulative[begin], shop.cumulative[end]
    place = np.searchsorted(shop.cumulative, low + rng.random(len(cell)) * (high - low), side="right") - 1
    # Rounding may step over either end.
    return shop.order[np.clip(place, begin, end - 1)]


def draw(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One column of each row in proportion to `weights` [N, C], which needn't sum to 1: int64 [N]."""
    total = np.cumsum(weights, axis=1, dtype=np.float64)
    target = rng.random(len(weights)) * total[:, -1]
    # Below the total even after rounding, or no column would pass.
    target = np.minimum(target, np.nextafter(total[:, -1], 0))
    return (total > target[:, None]).argmax(axis=1)
