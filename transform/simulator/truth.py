"""The choice model of the simulated shop: what the simulator samples from, and the oracle that knows it.

A session of shopper u starts at time t with two hidden intents that nobody is told:

    style     P(s | u, t) ∝ exp(θ_u(t) · v_s)                      s: a named style, kept for the whole session
    category  P(c₁ | u)   ∝ m_c · exp(ι_u · y_c)                   c: a leaf of the category tree

In every step k the shopper chooses one product of the category he browses, with replacement:

  P(j | u, t, s, c) ∝ popularity_j^a · exp(κ · v_s · v_style(j) − γ · |log price_j − budget_u(t)| + δ · [brand_j ∈ B_u])
    for products j of category c that are available at t, 0 for all others

and the session goes on with probability ρ (at most MAX_STEPS choices), in the category

    P(c_{k+1} | c_k) = σ · [c_{k+1} = c_k] + (1 − σ) · X[c_k, c_{k+1}]

where X crosses to complementary categories. The style crosses with him: s does not change.

θ_u, budget_u: the shopper's taste vector and his log price level. Both drift: an autoregressive walk over knots 30 days
    apart, linear in between.
v_s: unit vectors of the styles; ι_u, y_c: vectors of interest of shopper and category; m_c: the category's market.
log price_j: log of the factor of the product's price tier over the category's middle price.
popularity_j: 1 / rank of the product within its category (Zipf). B_u: the shopper's favourite brands.
available at t: created_at ≤ the start of t's day, and not withdrawn. t is the start of the session throughout.

The next choice of a fresh session marginalises both intents:

    P(j | u, t) = P(c₁ = c(j) | u) · Σ_s P(s | u, t) · P(j | u, t, s, c(j))

Within a session, after a choice i in category c(i) (nothing else being known of the session):

    P(j | u, t, i) = P(c(j) | c(i)) · Σ_s P(s | u, t, i) · P(j | u, t, s, c(j))
    P(s | u, t, i) ∝ P(s | u, t) · P(i | u, t, s, c(i))

Popularity aside, the weight depends on the product through its category, style, price tier and brand alone. Products
that share these four are one *cell*, so a choice is drawn as a cell and then a product within it: exact, at a cost that
does not grow with the catalogue.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from transform.clock import DAY

TRUTH_FILE = "truth.npz"
KNOT_DAYS = 30
# `item_day` of a product that cannot be chosen: it was withdrawn before the first day.
NEVER = np.iinfo(np.int32).max

POPULARITY_EXPONENT = 1.0  # a
STYLE_STRENGTH = 5.0  # κ
PRICE_STRENGTH = 3.0  # γ
BRAND_STRENGTH = 1.5  # δ
CONTINUE = 0.72  # ρ
STAY = 0.6  # σ
MAX_STEPS = 20

# Shoppers whose probabilities are computed at once.
BLOCK = 512


@dataclass(frozen=True, eq=False)
class Shop:
    """Everything that all shoppers face. A day is counted from the first day of the events."""

    # Seconds since 1970, and days after it for which availability is known.
    start: int
    days: int
    # Per product, in row order of items.parquet: its cell, popularity^a, first day on which it can be chosen.
    item_cell: np.ndarray  # int32 [items]
    item_weight: np.ndarray  # float64 [items]
    item_day: np.ndarray  # int32 [items]
    # Per cell, sorted by category.
    cell_leaf: np.ndarray  # int32 [cells]
    cell_style: np.ndarray  # int32 [cells]
    cell_brand: np.ndarray  # int32 [cells]
    cell_price: np.ndarray  # float32 [cells], log of the tier's factor
    style_vectors: np.ndarray  # float32 [styles, dim], unit
    leaf_vectors: np.ndarray  # float32 [leaves, dim]
    leaf_market: np.ndarray  # float64 [leaves], m_c
    transitions: np.ndarray  # float64 [leaves, leaves], P(c_{k+1} | c_k)

    @cached_property
    def order(self) -> np.ndarray:
        """Products that can ever be chosen, by cell and within it by first day: int64 [choosable]."""
        order = np.lexsort((self.item_day, self.item_cell))
        return order[self.item_day[order] <= self.days]

    @cached_property
    def cumulative(self) -> np.ndarray:
        """Weights summed along `order`, starting at 0: float64 [choosable + 1]."""
        return np.concatenate([[0.0], np.cumsum(self.item_weight[self.order])])

    @cached_property
    def cell_first(self) -> np.ndarray:
        """Place in `order` of each cell's first product: int64 [cells + 1]."""
        return np.searchsorted(self.item_cell[self.order], np.arange(len(self.cell_leaf) + 1))

    @cached_property
    def available_end(self) -> np.ndarray:
        """Place in `order` after each cell's last product that is available on a day: int32 [days + 1, cells]."""
        arrivals = np.zeros((self.days + 1, len(self.cell_leaf)), np.int32)
        np.add.at(arrivals, (self.item_day[self.order], self.item_cell[self.order]), 1)
        return (self.cell_first[:-1] + np.cumsum(arrivals, axis=0)).astype(np.int32)

    @cached_property
    def cell_weight(self) -> np.ndarray:
        """Summed weight of the available products of each cell on each day: float64 [days + 1, cells]."""
        return self.cumulative[self.available_end] - self.cumulative[self.cell_first[:-1]]

    @cached_property
    def leaf_first(self) -> np.ndarray:
        """First cell of each category, and the number of cells: int64 [leaves + 1]."""
        return np.searchsorted(self.cell_leaf, np.arange(len(self.leaf_market) + 1))

    @cached_property
    def leaf_cells(self) -> np.ndarray:
        """Cells of each category, the last one repeated to fill the row: int64 [leaves, most cells of a category]."""
        width = int(np.diff(self.leaf_first).max())
        return np.minimum(self.leaf_first[:-1, None] + np.arange(width), self.leaf_first[1:, None] - 1)

    @cached_property
    def style_match(self) -> np.ndarray:
        """exp(κ · v_s · v_style(cell)): float32 [styles, cells]."""
        return np.exp(STYLE_STRENGTH * (self.style_vectors @ self.style_vectors.T))[:, self.cell_style]

    @cached_property
    def session_mix(self) -> np.ndarray:
        """[c, c'] = share of a session's choices expected in c' if it starts in c: float64 [leaves, leaves]."""
        step = np.eye(len(self.leaf_market))
        total = np.zeros_like(step)
        for _ in range(MAX_STEPS):
            total += step
            step = CONTINUE * step @ self.transitions
        return total / total.sum(axis=1, keepdims=True)

    def day(self, seconds: np.ndarray) -> np.ndarray:
        """Days since the start, the last known one for later times: [N] seconds since 1970 → int64 [N].

        Raises:
            ValueError: a time before the start.
        """
        if len(seconds) and seconds.min() < self.start:
            raise ValueError(
                f"timestamp must be at or after the shop's start, {self.start}, received {seconds.min()}: "
                "give seconds since 1970 within the simulated span"
            )
        return np.minimum((seconds - self.start) // DAY, self.days)


@dataclass(frozen=True, eq=False)
class State:
    """Hidden states of N shoppers at one time each."""

    style: np.ndarray  # float32 [N, dim], θ_u(t)
    budget: np.ndarray  # float32 [N]
    interest: np.ndarray  # float32 [N, dim], ι_u
    brands: np.ndarray  # int16 [N, favourites], B_u


@dataclass(frozen=True, eq=False)
class Shoppers:
    """Hidden states of shoppers over the whole span."""

    style: np.ndarray  # float32 [shoppers, knots, dim]
    budget: np.ndarray  # float32 [shoppers, knots]
    interest: np.ndarray  # float32 [shoppers, dim]
    brands: np.ndarray  # int16 [shoppers, favourites]

    def at(self, rows: np.ndarray, seconds: np.ndarray) -> State:
        """States of shoppers `rows` int [N] at `seconds` after the start [N]; after the last knot it stands still."""
        place = np.clip(seconds / (KNOT_DAYS * DAY), 0, self.budget.shape[1] - 1)
        left = np.minimum(place.astype(np.int64), self.budget.shape[1] - 2)
        share = (place - left).astype(np.float32)
        style = (1 - share)[:, None] * self.style[rows, left] + share[:, None] * self.style[rows, left + 1]
        budget = (1 - share) * self.budget[rows, left] + share * self.budget[rows, left + 1]
        return State(style, budget, self.interest[rows], self.brands[rows])


def style_probabilities(shop: Shop, state: State) -> np.ndarray:
    """P(s | u, t): float64 [N, styles]."""
    return _softmax(np.einsum("nd,sd->ns", state.style, shop.style_vectors))


def leaf_probabilities(shop: Shop, state: State) -> np.ndarray:
    """P(c₁ | u): float64 [N, leaves]."""
    return _softmax(np.log(shop.leaf_market) + np.einsum("nd,ld->nl", state.interest, shop.leaf_vectors))


def budget_and_brand_match(shop: Shop, state: State, cells: np.ndarray) -> np.ndarray:
    """exp(−γ · |log price − budget_u(t)| + δ · [brand ∈ B_u]) of cells int [C] or [N, C]: float32 [N, C]."""
    fit = -PRICE_STRENGTH * np.abs(shop.cell_price[cells] - state.budget[:, None])
    brands = shop.cell_brand[cells]
    favourite = np.zeros(fit.shape, bool)
    for column in state.brands.T:
        favourite |= brands == column[:, None]
    return np.exp(fit + np.float32(BRAND_STRENGTH) * favourite)


def cell_shares(shop: Shop, state: State, days: np.ndarray) -> Iterator[np.ndarray]:
    """For each style s: P(cell | u, t, s, category of the cell), float64 [N, cells], at `days` int [N]."""
    match = budget_and_brand_match(shop, state, np.arange(len(shop.cell_leaf))) * shop.cell_weight[days]
    for style in shop.style_match:
        weights = match * style
        weights /= np.add.reduceat(weights, shop.leaf_first[:-1], axis=1)[:, shop.cell_leaf]
        yield weights


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis: float64."""
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


class Oracle:
    """Knows every shopper's hidden state and the choice model: its ranking is the best attainable one."""

    def __init__(self, item_ids: Sequence[str], user_ids: Sequence[str], shop: Shop, shoppers: Shoppers) -> None:
        """`item_ids` in row order of items.parquet, `user_ids` in that of users.parquet."""
        self.item_ids = list(item_ids)
        self.shop = shop
        self.shoppers = shoppers
        self._user_rows = {user: row for row, user in enumerate(user_ids)}
        self._item_rows = {item: row for row, item in enumerate(item_ids)}

    @classmethod
    def load(cls, data: Path) -> "Oracle":
        """Reads what `simulate` wrote to the folder `data`.

        Raises:
            FileNotFoundError: the folder has no truth.
        """
        path = data / TRUTH_FILE
        if not path.is_file():
            raise FileNotFoundError(f"no truth at {path}: only a shop made by `tandem simulate` has one")
        with np.load(path, allow_pickle=False) as arrays:
            shop_fields = {field.name: arrays[f"shop.{field.name}"] for field in fields(Shop)}
            shop = Shop(**shop_fields | {name: int(shop_fields[name]) for name in ("start", "days")})
            shoppers = Shoppers(**{field.name: arrays[f"shoppers.{field.name}"] for field in fields(Shoppers)})
            return cls(arrays["item_ids"].astype(str).tolist(), arrays["user_ids"].astype(str).tolist(), shop, shoppers)

    def save(self, data: Path) -> None:
        """Writes the truth into the folder `data`, numpy arrays only."""
        arrays = {f"shop.{field.name}": np.asarray(getattr(self.shop, field.name)) for field in fields(Shop)}
        arrays |= {f"shoppers.{field.name}": getattr(self.shoppers, field.name) for field in fields(Shoppers)}
        ids = {"item_ids": np.array(self.item_ids, "S"), "user_ids": np.array(list(self._user_rows), "S")}
        np.savez(data / TRUTH_FILE, **ids, **arrays)

    def choice_probabilities(
        self,
        user_ids: Sequence[str],
        timestamp: np.ndarray,
        last_item_ids: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Expected probability of each product to be the shopper's next choice.

        Args:
            user_ids: [B].
            timestamp: int64 [B], seconds since 1970: when the session starts.
            last_item_ids: [B], the choice before in the same session, of which no more is known.
                None: a session starts.

        Returns:
            float32 [B, items] in row order of items.parquet; rows sum to 1.

        Raises:
            ValueError: an unknown shopper or product, a product not available then, a time before the shop's start.
        """
        rows, seconds = self._users(user_ids, timestamp)
        last = None if last_item_ids is None else self._chosen(last_item_ids, seconds)
        result = np.empty((len(rows), len(self.item_ids)), np.float32)
        for block in _blocks(len(rows)):
            state, days = self.shoppers.at(rows[block], seconds[block] - self.shop.start), self.shop.day(seconds[block])
            styles, leaves = style_probabilities(self.shop, state), leaf_probabilities(self.shop, state)
            if last is not None:
                cells = self.shop.item_cell[last[block]]
                styles = styles_after(self.shop, state, days, styles, cells)
                leaves = self.shop.transitions[self.shop.cell_leaf[cells]]
            result[block] = item_probabilities(self.shop, state, days, styles, leaves)
        return result

    def session_probabilities(self, user_ids: Sequence[str], timestamp: np.ndarray) -> np.ndarray:
        """As choice_probabilities, for one choice drawn from all those of the sessions that start at `timestamp`.

        This is what ranks best against everything a shopper does in a span, not only against his next choice.
        """
        rows, seconds = self._users(user_ids, timestamp)
        result = np.empty((len(rows), len(self.item_ids)), np.float32)
        for block in _blocks(len(rows)):
            state, days = self.shoppers.at(rows[block], seconds[block] - self.shop.start), self.shop.day(seconds[block])
            leaves = leaf_probabilities(self.shop, state) @ self.shop.session_mix
            result[block] = item_probabilities(self.shop, state, days, style_probabilities(self.shop, state), leaves)
        return result

    def _users(self, user_ids: Sequence[str], timestamp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the shoppers and their times, checked: int64 [B] each."""
        seconds = np.asarray(timestamp, np.int64)
        if seconds.shape != (len(user_ids),):
            raise ValueError(
                f"timestamp must have shape ({len(user_ids)},) as user_ids, received shape {seconds.shape}"
            )
        unknown = [user for user in user_ids if user not in self._user_rows]
        if unknown:
            raise ValueError(f"shopper {unknown[0]!r} is not in the truth, which knows {len(self._user_rows)} shoppers")
        return np.array([self._user_rows[user] for user in user_ids], np.int64), seconds

    def _chosen(self, item_ids: Sequence[str], seconds: np.ndarray) -> np.ndarray:
        """Rows of products that can have been chosen at `seconds` [B]: int64 [B]."""
        if len(item_ids) != len(seconds):
            raise ValueError(
                f"last_item_ids must have the length of user_ids, {len(seconds)}, received {len(item_ids)}"
            )
        unknown = [item for item in item_ids if item not in self._item_rows]
        if unknown:
            raise ValueError(f"product {unknown[0]!r} is not in the truth, which knows {len(self.item_ids)} products")
        rows = np.array([self._item_rows[item] for item in item_ids], np.int64)
        early = np.flatnonzero(self.shop.item_day[rows] > self.shop.day(seconds))
        if len(early):
            raise ValueError(
                f"product {item_ids[early[0]]!r} was not available at {seconds[early[0]]}: it cannot have been chosen"
            )
        return rows


def styles_after(shop: Shop, state: State, days: np.ndarray, styles: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """P(s | u, t, i) from P(s | u, t) [N, styles] for choices i in `cells` [N]: float64 [N, styles].

    The product within its cell says nothing of the style: P(i | cell) is the same for all styles.
    """
    each = np.arange(len(cells))
    posterior = styles * np.stack([share[each, cells] for share in cell_shares(shop, state, days)], axis=1)
    return posterior / posterior.sum(axis=1, keepdims=True)


def item_probabilities(
    shop: Shop, state: State, days: np.ndarray, styles: np.ndarray, leaves: np.ndarray
) -> np.ndarray:
    """P(c(j)) · Σ_s P(s) · P(j | u, t, s, c(j)) for P(s) [N, styles] and P(c) [N, leaves]: float64 [N, items]."""
    cells = np.zeros((len(days), len(shop.cell_leaf)))
    for probability, share in zip(styles.T, cell_shares(shop, state, days), strict=True):
        cells += probability[:, None] * share
    cells *= leaves[:, shop.cell_leaf]
    weight = shop.cell_weight[days]
    # Per unit of product weight; a cell with nothing available has probability 0 already.
    np.divide(cells, weight, out=cells, where=weight > 0)
    return cells[:, shop.item_cell] * shop.item_weight * (shop.item_day <= days[:, None])


def _blocks(rows: int) -> list[slice]:
    """Consecutive parts of so many rows: bounds the memory between the state and the result."""
    return [slice(begin, min(begin + BLOCK, rows)) for begin in range(0, rows, BLOCK)]
