"""The shoppers of a run's data and what they did."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.runner import RECORD, StepError, step_directory

if TYPE_CHECKING:
    from trainer.data import Sequences


@dataclass(frozen=True)
class History:
    """What a shopper did, oldest first; empty types and times = not known."""

    item_ids: tuple[str, ...]
    event_types: tuple[str, ...] = ()
    timestamps: tuple[int, ...] = ()


def shopper_history(run: Path, user: str) -> History:
    """All interactions of a shopper of the run's data.

    Raises:
        StepError: the run has no transformed data, or no such shopper.
    """
    from trainer.data import load_sequences

    directory = _transformed(run)
    sequences = load_sequences(directory)
    found = (sequences.user_ids == user).nonzero()[0]
    if not len(found):
        raise StepError(
            f"shopper {user!r} is not among the {len(sequences.user_ids)} of {run}; ask with --history instead."
        )
    return _reader(directory, sequences)(int(found[0]))


def all_histories(run: Path, limit: int) -> list[History]:
    """The histories of the run's first shoppers, in the order of the files.

    Raises:
        StepError: the run has no transformed data.
    """
    from trainer.data import load_sequences

    directory = _transformed(run)
    sequences = load_sequences(directory)
    return [*map(_reader(directory, sequences), range(min(limit, len(sequences.user_ids))))]


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


def _reader(directory: Path, sequences: "Sequences") -> Callable[[int], History]:
    """Gives a shopper's history by the shopper's number."""
    from transform.feature_schema import ITEM_IDS_FILE, VOCABULARY_FOLDER, read_schema, read_vocabulary
    from transform.tables import TYPE_NAMES

    item_ids = read_vocabulary(directory / VOCABULARY_FOLDER / ITEM_IDS_FILE)
    has_timestamps = read_schema(directory).has_timestamps

    def read(number: int) -> History:
        span = slice(sequences.offsets[number], sequences.offsets[number + 1])
        return History(
            tuple(item_ids[row] for row in sequences.rows[span]),
            tuple(TYPE_NAMES[kind] for kind in sequences.types[span]),
            tuple(sequences.timestamps[span].tolist()) if has_timestamps else (),
        )

    return read
