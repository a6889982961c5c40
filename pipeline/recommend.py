"""`tandem recommend`: asks a server for one shopper and prints the answer as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.answer_table import PRODUCTS_FILE, ProductLookup, answer_table
from pipeline.runner import RECORD, StepError, step_directory
from serving.client import RecommenderClient

_WITH = {"similar": "like", "complementary": "that go with"}


@dataclass(frozen=True)
class History:
    """What a shopper did, oldest first; empty types and times = not known."""

    item_ids: tuple[str, ...]
    event_types: tuple[str, ...] = ()
    timestamps: tuple[int, ...] = ()


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
) -> str:
    """The answer as text: what is known of the shopper, then `k` products.

    Args:
        client: whom to ask.
        history: product ids, oldest first; not read if `user` is given.
        user: a shopper of the run's data.
        beside: asks for products like this one, or that go with it, instead of recommendations; the shopper's history
            is blended in.
        run: where titles, prices and shoppers are looked up; without its product table the ids stand alone.

    Raises:
        StepError: an unknown shopper, or a run without data.
        RecommenderError: the server refuses or does not answer.
    """
    known = shopper_history(run, user) if user is not None else History(tuple(history))
    if beside is None:
        answer = client.recommend(
            known.item_ids, k, event_types=known.event_types or None, timestamps=known.timestamps or None
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


def shopper_history(run: Path, user: str) -> History:
    """All interactions of a shopper of the run's data.

    Raises:
        StepError: the run has no transformed data, or no such shopper.
    """
    from trainer.data import load_sequences
    from transform.feature_schema import ITEM_IDS_FILE, VOCABULARY_FOLDER, read_schema, read_vocabulary
    from transform.tables import TYPE_NAMES

    directory = _transformed(run)
    sequences = load_sequences(directory)
    found = (sequences.user_ids == user).nonzero()[0]
    if not len(found):
        raise StepError(
            f"shopper {user!r} is not among the {len(sequences.user_ids)} of {run}; ask with --history instead."
        )
    span = slice(sequences.offsets[found[0]], sequences.offsets[found[0] + 1])
    item_ids = read_vocabulary(directory / VOCABULARY_FOLDER / ITEM_IDS_FILE)
    times = sequences.timestamps[span].tolist() if read_schema(directory).has_timestamps else []
    return History(
        tuple(item_ids[row] for row in sequences.rows[span]),
        tuple(TYPE_NAMES[number] for number in sequences.types[span]),
        tuple(times),
    )


def example_shopper(run: Path) -> str:
    """A shopper with a history to show: the one with the median number of interactions among those with ten or more.

    Raises:
        StepError: the run has no transformed data.
    """
    from trainer.data import load_sequences

    sequences = load_sequences(_transformed(run))
    order = sequences.lengths.argsort(kind="stable")
    long = order[sequences.lengths[order] >= 10]
    chosen = long if len(long) else order
    return str(sequences.user_ids[chosen[len(chosen) // 2]])


def _transformed(run: Path) -> Path:
    directory = step_directory(run, "transform")
    if not (directory / RECORD).is_file():
        raise StepError(f"{run} holds no transformed data: run `tandem run` first, or name another run with --run.")
    return directory


def _shown(history: History, products: ProductLookup | None) -> str:
    if not history.item_ids:
        return "A new visitor: no history."
    titles = _titled(history.item_ids[-5:], products)
    return f"{len(history.item_ids)} interactions, the newest: {'; '.join(titles)}"


def _titled(item_ids: Sequence[str], products: ProductLookup | None) -> list[str]:
    """Each product's id, with its title if there is one."""
    facts = products.find(item_ids) if products else {}
    return [f"{item} ({facts[item].title})" if item in facts and facts[item].title else item for item in item_ids]
