"""The trace that simulated sessions leave in a shop's log: searches, lists seen, clicks, carts and orders."""

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from protos.events_pb2 import EventType
from transform.clock import DAY
from transform.simulator.catalogue import queries
from transform.simulator.sessions import Choices, Sessions, draw_by_popularity
from transform.simulator.shoppers import Visible
from transform.simulator.truth import Shop
from transform.simulator.words import DEVICES, LEAVES, REGIONS
from transform.tables import EVENT_TYPES, EVENTS, IMPRESSION, PURCHASE, SEARCH

VIEW, CLICK, ADD_TO_CART = EVENT_TYPES["view"], EVENT_TYPES["click"], EVENT_TYPES["add_to_cart"]
_TYPE_NAMES = [EventType.Name(number).lower() for number in range(max(EVENT_TYPES.values()) + 1)]
# How a shopper came to what he chose; without a surface he followed a link or typed the address.
SURFACES = ("search", "category", "home", "similar")
_SEARCH, _CATEGORY, _HOME, _SIMILAR = range(4)
_DIRECT = -1
# Shares of search, category, home, similar, direct: for a first choice, on entering a category, and within it.
FIRST_SURFACES = (0.3, 0.25, 0.2, 0.0, 0.25)
ENTRY_SURFACES = (0.35, 0.45, 0.0, 0.0, 0.2)
INNER_SURFACES = (0.0, 0.3, 0.0, 0.4, 0.3)
LIST_LENGTH = 8
# The shop logs what it showed in a sample of the lists.
SHARE_LOGGED = 0.15
# Of the logged lists, those that come after one in which nothing was clicked.
SHARE_UNCLICKED_BEFORE = 0.3
# A click falls on position p in proportion to this to the power p: the first places are looked at most.
POSITION_DECAY = 0.75
# A product goes to the cart likelier if it has the very style that the shopper came for.
CART_OTHER, CART_OWN_STYLE = 0.1, 0.25
SHARE_BOUGHT = 0.5
SHARE_USUAL_DEVICE = 0.85
# Seconds from a choice to what belongs to it; choices are farther apart than all of these together.
_SEARCH_BEFORE, _UNCLICKED_BEFORE, _LIST_BEFORE, _CART_AFTER = 27, 22, 10, 9


@dataclass(frozen=True, eq=False)
class Names:
    """Numbers that go on from chunk to chunk."""

    first_shopper: int
    first_session: int
    first_choice: int


@dataclass(frozen=True, eq=False)
class _Trail:
    """How each of the C choices came about; −1 is none."""

    session: np.ndarray  # int64 [C]
    time: np.ndarray  # int64 [C], seconds since 1970
    surface: np.ndarray  # int64 [C], number in SURFACES
    position: np.ndarray  # int64 [C], from 1
    # Number of the list it was clicked in, if that was logged. The number after it is free for a list seen before.
    list: np.ndarray  # int64 [C]


@dataclass(frozen=True, eq=False)
class _Rows:
    """R rows of one type; what they lack is −1 (0 for quantity)."""

    choice: np.ndarray  # int64 [R], the choice that they belong to
    timestamp: np.ndarray
    type: int
    item: np.ndarray | int = -1
    surface: np.ndarray | int = -1
    position: np.ndarray | int = -1
    list: np.ndarray | int = -1
    quantity: np.ndarray | int = 0
    query: np.ndarray | int = -1


def event_table(
    shop: Shop,
    prices: np.ndarray,
    visible: Visible,
    sessions: Sessions,
    choices: Choices,
    names: Names,
    rng: np.random.Generator,
) -> pa.Table:
    """All events of a chunk in order of time, as the canonical table.

    Args:
        shop: the choice model's shop.
        prices: float32 [items].
        visible: the chunk's shoppers.
        sessions: the chunk's sessions.
        choices: their choices.
        names: numbers of the chunk's first shopper, session and choice.
        rng: source of chance.
    """
    trail = _trail(shop, sessions, choices, names, rng)
    rows = [
        _searches(choices, trail),
        _impressions(shop, sessions, choices, trail, rng),
        *_clicks_and_views(choices, trail),
        *_carts_and_orders(shop, sessions, choices, trail, rng),
    ]
    return _to_arrow(rows, trail.session, sessions, prices, visible, names, rng)


def _trail(shop: Shop, sessions: Sessions, choices: Choices, names: Names, rng: np.random.Generator) -> _Trail:
    session = sessions.of_choice
    surface = _surfaces(choices, sessions.first, rng)
    listed = surface != _DIRECT
    number = 2 * (names.first_choice + np.arange(len(surface)))
    return _Trail(
        session=session,
        time=shop.start + sessions.start[session] + sessions.offset,
        surface=surface,
        position=np.where(listed, _positions(len(surface), rng), -1),
        list=np.where(listed & (rng.random(len(surface)) < SHARE_LOGGED), number, -1),
    )


def _surfaces(choices: Choices, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Surface of each choice, _DIRECT = −1 for none: int64 [C]."""
    shares = np.where(choices.entered[:, None], np.array(ENTRY_SURFACES), np.array(INNER_SURFACES))
    shares[first] = FIRST_SURFACES
    drawn = (np.cumsum(shares, axis=1) <= rng.random(len(shares))[:, None]).sum(axis=1)
    return np.where(drawn >= len(SURFACES), _DIRECT, drawn)


def _positions(count: int, rng: np.random.Generator) -> np.ndarray:
    """Positions clicked, from 1: int64 [count]."""
    share = POSITION_DECAY ** np.arange(LIST_LENGTH)
    return 1 + rng.choice(LIST_LENGTH, count, p=share / share.sum())


def _searches(choices: Choices, trail: _Trail) -> _Rows:
    """A query for the session's style and the category, before each choice that was found by searching."""
    found = np.flatnonzero(trail.surface == _SEARCH)
    query = choices.style[trail.session[found]] * len(LEAVES) + choices.leaf[found]
    return _Rows(found, trail.time[found] - _SEARCH_BEFORE, SEARCH, query=query)


def _clicks_and_views(choices: Choices, trail: _Trail) -> list[_Rows]:
    """A click in a list, or a view of a product reached otherwise, for each choice."""
    clicked, viewed = np.flatnonzero(trail.surface != _DIRECT), np.flatnonzero(trail.surface == _DIRECT)
    place = trail.surface[clicked], trail.position[clicked], trail.list[clicked]
    return [
        _Rows(clicked, trail.time[clicked], CLICK, choices.item[clicked], *place),
        _Rows(viewed, trail.time[viewed], VIEW, choices.item[viewed]),
    ]


def _impressions(shop: Shop, sessions: Sessions, choices: Choices, trail: _Trail, rng: np.random.Generator) -> _Rows:
    """The lists that were logged; the shop fills them by popularity, whatever is clicked.

    In a list with a click the chosen product is at its position. Some lists come after one without a click.
    """
    logged = np.flatnonzero(trail.list >= 0)
    before = logged[rng.random(len(logged)) < SHARE_UNCLICKED_BEFORE]
    lists = np.concatenate([before, logged])
    clicked = np.arange(len(lists)) >= len(before)
    day = sessions.start[trail.session[lists]] // DAY
    flat = draw_by_popularity(shop, np.repeat(choices.leaf[lists], LIST_LENGTH), np.repeat(day, LIST_LENGTH), rng)
    place = np.arange(1, LIST_LENGTH + 1)
    is_choice = (place == trail.position[lists, None]) & clicked[:, None]
    shown = np.where(is_choice, choices.item[lists, None], flat.reshape(-1, LIST_LENGTH))
    row, column = np.nonzero(is_choice | ~_shown_already(shown, is_choice))
    when = trail.time[lists] - np.where(clicked, _LIST_BEFORE, _UNCLICKED_BEFORE)
    number = trail.list[lists] + ~clicked
    choice = lists[row]
    return _Rows(choice, when[row], IMPRESSION, shown[row, column], trail.surface[choice], place[column], number[row])


def _shown_already(shown: np.ndarray, is_choice: np.ndarray) -> np.ndarray:
    """Places of lists [N, P] whose product is the chosen one, or stands in an earlier place: bool [N, P]."""
    same = shown[:, :, None] == shown[:, None, :]
    earlier = np.tril(np.ones((shown.shape[1], shown.shape[1]), bool), -1)
    return (same & (earlier | is_choice[:, None, :])).any(axis=2)


def _carts_and_orders(
    shop: Shop, sessions: Sessions, choices: Choices, trail: _Trail, rng: np.random.Generator
) -> list[_Rows]:
    """Carts, and for some sessions one order at their end: a line for each product of the cart, with its quantity."""
    session, time = trail.session, trail.time
    own_style = shop.cell_style[shop.item_cell[choices.item]] == choices.style[session]
    carted = np.flatnonzero(rng.random(len(session)) < np.where(own_style, CART_OWN_STYLE, CART_OTHER))
    amount = rng.choice([1, 2, 3], len(carted), p=[0.88, 0.09, 0.03])
    buys = rng.random(len(sessions.length)) < SHARE_BOUGHT
    delay = rng.integers(60, 240, len(sessions.length))
    bought = np.flatnonzero(buys[session[carted]])
    line = session[carted[bought]] * len(shop.item_cell) + choices.item[carted[bought]]
    _, first, which = np.unique(line, return_index=True, return_inverse=True)
    quantity = np.bincount(which, weights=amount[bought], minlength=len(first)).astype(np.int64)
    lines = carted[bought[first]]
    end = time[(sessions.first + sessions.length - 1)[session[lines]]] + delay[session[lines]]
    return [
        _Rows(carted, time[carted] + _CART_AFTER, ADD_TO_CART, choices.item[carted], quantity=amount),
        _Rows(lines, end, PURCHASE, choices.item[lines], quantity=quantity),
    ]


def _to_arrow(
    rows: list[_Rows],
    session_of_choice: np.ndarray,
    sessions: Sessions,
    prices: np.ndarray,
    visible: Visible,
    names: Names,
    rng: np.random.Generator,
) -> pa.Table:
    """Sorts the rows by time and names the numbers."""

    def column(name: str) -> np.ndarray:
        return np.concatenate([np.broadcast_to(getattr(part, name), len(part.choice)) for part in rows])

    order = np.argsort(column("timestamp"), kind="stable")
    column_of = {field.name: column(field.name)[order] for field in fields(_Rows)}
    session = session_of_choice[column_of["choice"]]
    shopper, item, token = sessions.shopper[session], column_of["item"], column_of["list"]
    kind, quantity, surface = column_of["type"], column_of["quantity"], column_of["surface"]
    other = rng.random(len(sessions.length)) >= SHARE_USUAL_DEVICE
    device = np.where(other, rng.integers(0, len(DEVICES), len(other)), visible.device[sessions.shopper])
    session_number = names.first_session + session + 1
    columns = {
        "user_id": _named("shopper-", names.first_shopper + shopper + 1),
        "item_id": _named("sku-", item + 1, item < 0),
        "type": _of(_TYPE_NAMES, kind),
        "timestamp": pa.array(column_of["timestamp"]),
        "session": _named("session-", session_number),
        "order": _named("order-", session_number, kind != PURCHASE),
        "quantity": pa.array(quantity.astype(np.int32), mask=quantity == 0),
        "price": pa.array(prices[item], mask=quantity == 0),
        "device": _of(DEVICES, device[session]),
        "region": _of(REGIONS, visible.region[shopper]),
        "surface": _of(SURFACES, surface),
        "position": pa.array(column_of["position"].astype(np.int32), mask=surface < 0),
        "attribution_token": _named("list-", token, token < 0),
        "attributes": _query_attributes(column_of["query"]),
    }
    return pa.table([columns[field.name] for field in EVENTS], schema=EVENTS)


def _named(prefix: str, numbers: np.ndarray, absent: np.ndarray | None = None) -> pa.Array:
    """prefix + number, null where absent: string [N]."""
    return pc.binary_join_element_wise(prefix, pc.cast(pa.array(numbers, mask=absent), pa.string()), "")


def _of(names: tuple[str, ...] | list[str], numbers: np.ndarray) -> pa.Array:
    """The name of each number, null where it is negative: string [N]."""
    return pa.array(names, pa.string()).take(pa.array(numbers.astype(np.int64), mask=numbers < 0))


def _query_attributes(query: np.ndarray) -> pa.Array:
    """["query=…"] for searches, null for the rest: list<string> [N]."""
    texts = [[f"query={text}"] for text in queries()]
    return pa.array(texts, EVENTS.field("attributes").type).take(pa.array(query, mask=query < 0))
