"""The example shoppers of the report: what they did, what was recommended, what they chose; with pictures."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.pictures import PictureError, data_uri, thumbnail
from trainer.data import load_catalogue
from transform.tables import CATEGORY_SEPARATOR

log = logging.getLogger(__name__)

_PICTURE_SIDE = 88  # pixels
_SHOWN_HISTORY = 10
_SHOWN_RECOMMENDED = 10
_SHOWN_TRUTH = 10


@dataclass(frozen=True)
class Product:
    """What the page shows of a product; "" where the shop has not said."""

    name: str
    facts: tuple[str, ...] = ()
    picture: str = ""


@dataclass(frozen=True)
class Shelf:
    """The products that example shoppers met, by id."""

    products: dict[str, Product] = field(default_factory=dict)
    unreadable_pictures: int = 0

    def take(self, item_id: str) -> Product:
        """A product; one that the catalogue lacks is known by its id alone."""
        return self.products.get(item_id, Product(item_id))


@dataclass(frozen=True)
class Card:
    """A product in a shopper's row; `hit`: recommended and chosen."""

    product: Product
    hit: bool = False


@dataclass(frozen=True)
class Shopper:
    """One example, ready to be shown."""

    summary: str
    history: list[Card]
    history_note: str
    recommended: list[Card]
    truth: list[Card]
    truth_note: str


def shoppers(examples: Sequence[dict[str, Any]], shelf: Shelf) -> list[Shopper]:
    """What the page shows of `examples`: dicts with lists of product ids `history`, `recommended` and `truth`."""
    return [_shopper(example, shelf) for example in examples]


def shelf_of_run(transform_dir: Path, examples: Sequence[dict[str, Any]], more: Iterable[str] = ()) -> Shelf:
    """Titles, prices and pictures of the products in `examples` and of `more` ids, from the transform's catalogue."""
    wanted = {
        item_id for example in examples for part in ("history", "recommended", "truth") for item_id in example[part]
    }.union(more)
    if not wanted:
        return Shelf()
    catalogue = load_catalogue(transform_dir)
    products, unreadable = {}, 0
    for row, item_id in enumerate(catalogue.item_ids):
        if item_id not in wanted:
            continue
        picture = ""
        if catalogue.images[row]:
            try:
                picture = data_uri(thumbnail(catalogue.images[row], _PICTURE_SIDE))
            except PictureError as error:
                unreadable += 1
                log.warning("report: product %r: %s", item_id, error)
        name = catalogue.titles[row] or item_id
        products[item_id] = Product(name, _facts(catalogue.categories[row], float(catalogue.prices[row])), picture)
    return Shelf(products, unreadable)


def _facts(category: str, price: float) -> tuple[str, ...]:
    """Last level of the category and the price, as far as they are known."""
    leaf = category.split(CATEGORY_SEPARATOR)[-1]
    return tuple(part for part in (leaf, "" if math.isnan(price) else f"{price:,.2f}") if part)


def _shopper(example: dict[str, Any], shelf: Shelf) -> Shopper:
    history, recommended, truth = example["history"], example["recommended"][:_SHOWN_RECOMMENDED], example["truth"]
    hits = set(recommended) & set(truth)
    before = f"{len(history):,} interaction{'s' * (len(history) != 1)} before the cut-off"
    # Found ones first, so that none of them is cut off.
    shown = sorted(truth, key=lambda item_id: item_id not in hits)[:_SHOWN_TRUTH]
    return Shopper(
        summary=f"{before}. Of {len(truth):,} chosen afterwards, {len(hits)} stood among these {len(recommended)}.",
        history=_cards(history[-_SHOWN_HISTORY:], set(), shelf),
        history_note=f"the last {_SHOWN_HISTORY} of {len(history):,}" if len(history) > _SHOWN_HISTORY else "",
        recommended=_cards(recommended, hits, shelf),
        truth=_cards(shown, hits, shelf),
        truth_note=f"{len(shown)} of {len(truth):,} shown" if len(truth) > len(shown) else "",
    )


def _cards(item_ids: Iterable[str], hits: set[str], shelf: Shelf) -> list[Card]:
    return [Card(shelf.take(item_id), item_id in hits) for item_id in item_ids]
