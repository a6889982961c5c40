"""The readable table of an answer: rank, product, title, price and score; titles from RUN/products.parquet."""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from transform.tables import FIRST

if TYPE_CHECKING:
    # Loads TensorFlow, which a client that prints a table must not wait for.
    from trainer.data import Catalogue

PRODUCTS_FILE = "products.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string()),
        pa.field("title", pa.string()),
        pa.field("category", pa.string()),
        pa.field("price", pa.float32()),
    ]
)
# Products are sorted by id, so a row group's bounds say whether an id can be in it.
_ROWS_PER_GROUP = 65_536
_ELLIPSIS = "…"


@dataclass(frozen=True)
class ProductFacts:
    """What people want to read about a product; "" and None where the shop has not said."""

    title: str
    category: str
    price: float | None


def write_product_lookup(catalogue: "Catalogue", path: Path) -> None:
    """Writes id, title, category and price of every product to `path` (Parquet), whole or not at all."""
    prices = catalogue.prices[FIRST:]
    table = pa.table(
        [
            pa.array(catalogue.item_ids[FIRST:], pa.string()),
            pa.array([title or None for title in catalogue.titles[FIRST:]], pa.string()),
            pa.array([category or None for category in catalogue.categories[FIRST:]], pa.string()),
            # from_pandas reads NaN as null.
            pa.array(prices, pa.float32(), from_pandas=True),
        ],
        schema=_SCHEMA,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, temporary, row_group_size=_ROWS_PER_GROUP)
    temporary.replace(path)


class ProductLookup:
    """Facts about products by id, read from the file that `write_product_lookup` wrote; only what is asked for."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError where there is no such file."""
        if not path.is_file():
            raise FileNotFoundError(f"no product table at {path}: `tandem publish` writes it into the run's folder.")
        self._dataset = ds.dataset(path, format="parquet")

    def find(self, item_ids: Sequence[str]) -> dict[str, ProductFacts]:
        """Facts of those `item_ids` that the catalogue has."""
        wanted = ds.field("item_id").isin(pa.array(list(item_ids), pa.string()))
        return {
            row["item_id"]: ProductFacts(row["title"] or "", row["category"] or "", row["price"])
            for row in self._dataset.to_table(filter=wanted).to_pylist()
        }


def answer_table(
    item_ids: Sequence[str], scores: Sequence[float], products: ProductLookup | None = None, width: int = 100
) -> str:
    """The answer as lines of text, best first; without `products` ids and scores alone.

    Args:
        item_ids: products in order; empty ones are padding and are left out.
        scores: one per product.
        products: where titles and prices come from.
        width: characters a line may take; titles are cut to fit.

    Raises:
        ValueError: the lists differ in length.
    """
    if len(item_ids) != len(scores):
        raise ValueError(
            f"answer: as many scores as products are needed, received {len(item_ids)} ids and {len(scores)} scores."
        )
    answers = [(item_id, score) for item_id, score in zip(item_ids, scores, strict=True) if item_id]
    if not answers:
        return "No recommendations: the answer is empty."
    facts = products.find([item_id for item_id, _ in answers]) if products else {}
    columns = [
        _Column("#", [str(rank) for rank in range(1, len(answers) + 1)], right=True),
        _Column("item", [_printable(item_id) for item_id, _ in answers]),
    ]
    titles = [_title(facts.get(item_id)) for item_id, _ in answers]
    if any(titles):
        columns.append(_Column("title", titles))
    prices = [_price(facts.get(item_id)) for item_id, _ in answers]
    if any(prices):
        columns.append(_Column("price", prices, right=True))
    columns.append(_Column("score", [f"{score:.3f}" for _, score in answers], right=True))
    return _lines(columns, width)


@dataclass(frozen=True)
class _Column:
    name: str
    cells: list[str]
    right: bool = False

    @property
    def width(self) -> int:
        return max(_cells_wide(text) for text in (self.name, *self.cells))


def _lines(columns: list[_Column], width: int) -> str:
    gap = "  "
    widths = [column.width for column in columns]
    over = sum(widths) + len(gap) * (len(columns) - 1) - width
    for place, column in enumerate(columns):
        if column.name == "title" and over > 0:
            widths[place] = max(len(column.name), widths[place] - over)
    rows = [[column.name for column in columns], ["─" * size for size in widths]]
    rows += [list(cells) for cells in zip(*(column.cells for column in columns), strict=True)]
    return "\n".join(
        gap.join(
            _fit(text, size, column.right) for text, size, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in rows
    )


def _title(facts: ProductFacts | None) -> str:
    return _printable(facts.title or facts.category) if facts else ""


def _price(facts: ProductFacts | None) -> str:
    return f"{facts.price:,.2f}" if facts and facts.price is not None else ""


def _printable(text: str) -> str:
    """Titles come from outside: control characters could move the cursor or recolour the terminal."""
    return "".join(" " if unicodedata.category(character).startswith("C") else character for character in text)


def _cells_wide(text: str) -> int:
    """Cells of a terminal that `text` takes: two for wide East Asian characters, none for combining marks."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _fit(text: str, size: int, right: bool) -> str:
    if _cells_wide(text) > size:
        while _cells_wide(text) > size - 1:
            text = text[:-1]
        text += _ELLIPSIS
    padding = " " * (size - _cells_wide(text))
    return padding + text if right else text + padding
