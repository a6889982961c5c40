"""`tandem recommend`: asks a server over gRPC for one shopper and prints the answer as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.answer_table import PRODUCTS_FILE, ProductLookup, answer_table
from pipeline.runner import RECORD, StepError, step_directory
from serving.client import RecommenderClient


@dataclass(frozen=True)
class History:
    """What a shopper did, oldest first; empty types and times = not known."""

    item_ids: tuple[str, ...]
    event_types: tuple[str, ...] = ()
    timestamps: tuple[int, ...] = ()


def recommend(target: str, history: Sequence[str], user: str | None, k: int, run: Path, timeout: float) -> str:
    """The answer as text: what is known of the shopper, then `k` products.

    Args:
        history: product ids, oldest first; not read if `user` is given.
        user: a shopper of the run's data.
        run: where titles, prices and shoppers are looked up; without its product table the ids stand alone.
        timeout: seconds.

    Raises:
        StepError: an unknown shopper, or a run without data.
        RecommenderError: the server refuses or does not answer.
    """
    known = shopper_history(run, user) if user is not None else History(tuple(history))
    with RecommenderClient(target, timeout=timeout) as client:
        answer = client.recommend(
            known.item_ids, k, event_types=known.event_types or None, timestamps=known.timestamps or None
        )
    products = ProductLookup(run / PRODUCTS_FILE) if (run / PRODUCTS_FILE).is_file() else None
    head = f"{_shown(known, products)}\n{len(answer.item_ids)} recommendations from {target}, version {answer.version}:"
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
    newest = history.item_ids[-5:]
    facts = products.find(newest) if products else {}
    titles = [f"{item} ({facts[item].title})" if item in facts and facts[item].title else item for item in newest]
    return f"{len(history.item_ids)} interactions, the newest: {'; '.join(titles)}"
