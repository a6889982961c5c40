"""`tandem recommend`: asks a server for one shopper and prints the answer as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.answer_table import PRODUCTS_FILE, ProductLookup, answer_table
from pipeline.runner import StepError
from pipeline.shopper_histories import History, shopper_history
from serving.client import Filter, RecommenderClient

_WITH = {"similar": "like", "complementary": "that go with"}


@dataclass(frozen=True)
class Beside:
    """A product whose page asks, and what for."""

    item_id: str
    kind: Literal["similar", "complementary"]


def recommend(
    client: RecommenderClient,
    history: Sequence[str],
    user: str | None,
    k: int,
    run: Path,
    beside: Beside | None = None,
    filter: Filter | None = None,
) -> str:
    """The answer as text: what is known of the shopper, then `k` products.

    Args:
        client: whom to ask.
        history: product ids, oldest first; not read if `user` is given.
        user: a shopper of the run's data.
        beside: asks for products like this one, or that go with it, instead of recommendations; the shopper's history
            is blended in.
        filter: what recommended products must be; None = anything. Not together with `beside`.
        run: where titles, prices and shoppers are looked up; without its product table the ids stand alone.

    Raises:
        StepError: an unknown shopper, a run without data, or a filter together with `beside`.
        RecommenderError: the server refuses or does not answer.
    """
    if beside is not None and filter is not None:
        raise StepError(
            f"a filter restricts recommendations, not products {_WITH[beside.kind]} {beside.item_id}; leave one out."
        )
    known = shopper_history(run, user) if user is not None else History(tuple(history))
    if beside is None:
        answer = client.recommend(
            known.item_ids,
            k,
            event_types=known.event_types or None,
            timestamps=known.timestamps or None,
            filter=filter,
        )
    else:
        ask = client.similar_items if beside.kind == "similar" else client.complementary_items
        answer = ask(beside.item_id, k, history=known.item_ids)
    products = ProductLookup(run / PRODUCTS_FILE) if (run / PRODUCTS_FILE).is_file() else None
    what = (
        "recommendations"
        if beside is None
        else f"products {_WITH[beside.kind]} {_titled([beside.item_id], products)[0]}"
    )
    head = f"{_shown(known, products)}\n{len(answer.item_ids)} {what} from {client.target}, version {answer.version}:"
    note = "" if products else f"\n(no titles: {run / PRODUCTS_FILE} is not there; name the run with --run)"
    return f"{head}\n{answer_table(answer.item_ids, answer.scores, products)}{note}"


def _shown(history: History, products: ProductLookup | None) -> str:
    if not history.item_ids:
        return "A new visitor: no history."
    titles = _titled(history.item_ids[-5:], products)
    return f"{len(history.item_ids)} interactions, the newest: {'; '.join(titles)}"


def _titled(item_ids: Sequence[str], products: ProductLookup | None) -> list[str]:
    """Each product's id, with its title if there is one."""
    facts = products.find(item_ids) if products else {}
    return [f"{item} ({facts[item].title})" if item in facts and facts[item].title else item for item in item_ids]
