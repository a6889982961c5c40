"""The lists beside a product and for new visitors: how often they hold what follows, and what they look like."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report_shoppers import Card, Shelf
from pipeline.report_tables import Cell, Row, Table, count, metric, share, signed

_SPANS = {"validation": "Validation", "test": "Test"}
_FEATURES = {"device": "device", "region": "region", "hour": "hour of the day"}


@dataclass(frozen=True)
class ListedProduct:
    """One example product with its lists; `complementary` is None where none are served."""

    product: Card
    similar: list[Card]
    complementary: list[Card] | None


@dataclass(frozen=True)
class ItemLists:
    """What the section shows."""

    tables: list[Table]
    sentences: list[str]
    examples: list[ListedProduct]


def item_lists(content: Mapping[str, Any] | None, shelf: Shelf) -> ItemLists | None:
    """The section on lists; None where nothing was measured.

    Args:
        content: the export's lists.json.
        shelf: the products of its examples.
    """
    if content is None:
        return None
    visitors, similar = content["new_visitors"], content["similar_items"]
    complementary = content["complementary_items"]
    tables = [
        _found_table("Similar products: share of the next products looked at that are in the list of ten", similar)
    ]
    sentences = [_chosen(visitors)]
    if "reason" in complementary:
        sentences.append(f"No complementary products are served: {complementary['reason']}.")
    else:
        caption = "Complementary products: share of the purchases beside a product that are in the list of ten"
        tables.append(_found_table(caption, complementary))
        sentences.append(_covered("bought with products of other categories", complementary))
    sentences.append(_covered("met in one session with others", similar))
    return ItemLists(
        tables=[table for table in [_visitors_table(visitors), *tables] if table.rows],
        sentences=sentences,
        examples=[_example(example, shelf) for example in content["examples"]],
    )


def ids_of(content: Mapping[str, Any] | None) -> set[str]:
    """Products that the examples of lists.json name."""
    found: set[str] = set()
    for example in content["examples"] if content else []:
        found |= {example["item_id"], *example["similar"], *(example["complementary"] or ())}
    return found


def _chosen(visitors: Mapping[str, Any]) -> str:
    by, best = visitors["chosen"]["by"], visitors.get("best")
    if best is None:
        return f"New visitors all get the same popular products: nothing else could be tried ({visitors['reason']})."
    told = " and ".join(_FEATURES[name] for name in best["by"])
    gain = f"{signed(best['gain'])} ± {best['standard_error']:.4f} (standard error)"
    if by:
        return f"New visitors get what is popular for their {told}: NDCG@10 on validation {gain} over one list for all."
    return (
        f"New visitors all get the same popular products: of all divisions by device, region and hour the best on "
        f"validation, by {told}, changes NDCG@10 by {gain}, less than two standard errors."
    )


def _visitors_table(visitors: Mapping[str, Any]) -> Table:
    rows = [
        Row(
            name,
            [
                Cell(count(visitors[span]["visitors"])),
                Cell(metric(visitors[span]["overall"])),
                Cell(metric(visitors[span]["by_segment"])),
            ],
        )
        for span, name in _SPANS.items()
        if span in visitors
    ]
    heads = ["", "Visitors", "One list for all", "Best division"]
    return Table("New visitors: NDCG@10 of the first product they took", heads, rows)


def _found_table(caption: str, found: Mapping[str, Any]) -> Table:
    """A line for each weight of behaviour, a column for each span; the served weight is marked."""
    spans = {name: found[span] for span, name in _SPANS.items() if span in found}
    weights = [entry["behaviour_share"] for entry in next(iter(spans.values()))["found"]] if spans else []
    rows = [
        Row(
            _weight(weight) + (", served" if weight == found["behaviour_share"] else ""),
            [Cell(share(span["found"][place]["found"])) for span in spans.values()],
            "main" if weight == found["behaviour_share"] else "plain",
        )
        for place, weight in enumerate(weights)
    ]
    return Table(
        caption,
        ["Weight of behaviour", *(f"{name} ({count(span['pairs'])} pairs)" for name, span in spans.items())],
        rows,
    )


def _weight(weight: float) -> str:
    """In words where there is no blend."""
    return {0.0: "vectors alone", 1.0: "behaviour, filled up by vectors"}.get(weight, f"{weight:g}")


def _covered(what: str, found: Mapping[str, Any]) -> str:
    return (
        f"{count(found['products_with_neighbours'])} products were {what} in training: their {found['neighbours']} "
        "strongest neighbours count beside the vectors. All other products have the vectors alone."
    )


def _example(example: Mapping[str, Any], shelf: Shelf) -> ListedProduct:
    complementary = example["complementary"]
    return ListedProduct(
        Card(shelf.take(example["item_id"])),
        [Card(shelf.take(item)) for item in example["similar"]],
        None if complementary is None else [Card(shelf.take(item)) for item in complementary],
    )
