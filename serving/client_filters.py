"""What restricts an answer: a filter of one list, and the lists of one page."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serving.client_signature import Signature
from serving.client_tensors import Value
from serving.client_values import HIGHEST, check_texts, padded


@dataclass(frozen=True)
class Filter:
    """What products must be to stand in an answer. All that is given must hold; what no product has lets none pass.

    Args:
        categories: paths to any level ("Shoes", "Shoes > Boots"); products of one of them.
        brands: products of one of them.
        price_min: lowest price that passes; above 0 it also keeps out products without a price.
        price_max: highest price that passes; it also keeps out products without a price.
        allow: product ids; nothing else passes. None = no such list.
        include_unavailable: whether products that the catalogue calls unavailable pass.

    Raises:
        ValueError: an empty name or id, an allow-list without any, or limits that are no prices or cross each other.
    """

    categories: Sequence[str] = ()
    brands: Sequence[str] = ()
    price_min: float | None = None
    price_max: float | None = None
    allow: Sequence[str] | None = None
    include_unavailable: bool = False

    def __post_init__(self) -> None:
        check_texts("categories", self.categories, "name")
        check_texts("brands", self.brands, "name")
        _check_prices(self.price_min, self.price_max)
        if self.allow is not None:
            check_texts("allow", self.allow)
            # In a request no ids are no allow-list: everything would pass.
            if not self.allow:
                raise ValueError("allow must hold at least one product id, or be None for no such list; received none.")

    def rows(self, signature: Signature) -> Iterator[tuple[str, Sequence[Value]]]:
        """Input names, each with one row; what isn't given is left out."""
        for name, argument, given, what in (
            ("filter_categories", "categories", self.categories, "name"),
            ("filter_brands", "brands", self.brands, "name"),
            ("allow_item_ids", "allow", self.allow, "product id"),
        ):
            if given:
                yield name, padded(argument, given, signature.width(name), what)
        for name, price in (("filter_price_min", self.price_min), ("filter_price_max", self.price_max)):
            if price is not None:
                yield name, [float(price)]
        if self.include_unavailable:
            yield "include_unavailable", [True]


@dataclass(frozen=True)
class ListRequest:
    """One list of a page, and what its products must be.

    Args:
        name: of the list in the answer.
        category: path to any level; None = any.
        brand: None = any.
        price_min: as in `Filter`.
        price_max: as in `Filter`.

    Raises:
        ValueError: an empty name, category or brand, or limits that are no prices or cross each other.
    """

    name: str
    category: str | None = None
    brand: str | None = None
    price_min: float | None = None
    price_max: float | None = None

    def __post_init__(self) -> None:
        for name in ("name", "category", "brand"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} of a list must not be empty, received {self!r}.")
        _check_prices(self.price_min, self.price_max)


@dataclass(frozen=True)
class Page:
    """Lists that are asked for together.

    Raises:
        ValueError: no list, or two of one name.
    """

    lists: Sequence[ListRequest]

    def __post_init__(self) -> None:
        if not self.lists:
            raise ValueError("lists must hold at least one ListRequest, received none.")
        for name, count in Counter(wanted.name for wanted in self.lists).items():
            if count > 1:
                raise ValueError(f"lists must have different names, received {count} of the name {name!r}.")

    def rows(self, signature: Signature) -> Iterator[tuple[str, Sequence[Value]]]:
        """Input names, each with one row: a place for each list."""
        width = signature.width("list_names")
        yield "list_names", padded("lists", [wanted.name for wanted in self.lists], width, "list")
        rest = (width or len(self.lists)) - len(self.lists)
        for name, texts in (
            ("list_categories", [wanted.category or "" for wanted in self.lists]),
            ("list_brands", [wanted.brand or "" for wanted in self.lists]),
        ):
            if any(texts):
                yield name, [*texts, *[""] * rest]
        for name, prices in (
            ("list_price_min", [wanted.price_min or 0.0 for wanted in self.lists]),
            ("list_price_max", [wanted.price_max or 0.0 for wanted in self.lists]),
        ):
            if any(prices):
                yield name, [*map(float, prices), *[0.0] * rest]


def _check_prices(price_min: float | None, price_max: float | None) -> None:
    for name, price in (("price_min", price_min), ("price_max", price_max)):
        if price is not None and not 0 <= price <= HIGHEST:
            raise ValueError(f"{name} must be a price from 0 to {HIGHEST:g}, received {price}.")
    # In a request it is no limit: everything would pass.
    if price_max == 0:
        raise ValueError("price_max must be above 0, or None for no limit; received 0.")
    if price_min is not None and price_max is not None and price_min > price_max:
        raise ValueError(f"price_min must not exceed price_max ({price_max}), received {price_min}.")
