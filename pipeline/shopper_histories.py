"""The shoppers of a run's data and what they did."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.runner import RECORD, StepError, step_directory
from serving.client_query import NO_CONTEXT, Context, Shopper

if TYPE_CHECKING:
    from trainer.data import Sequences


@dataclass(frozen=True)
class History:
    """What a shopper did, oldest first; empty types and times = not known."""

    item_ids: tuple[str, ...]
    event_types: tuple[str, ...] = ()
    timestamps: tuple[int, ...] = ()

    def shopper(self, context: Context = NO_CONTEXT) -> Shopper:
        """As the client sends it."""
        return Shopper(self.item_ids, self.event_types or None, self.timestamps or None, context)


def shopper_history(run: Path, user: str) -> History:
    """All interactions of a shopper of the run's data.

    Raises:
        StepError: the run has no transformed data, or no such shopper.
    """
    from trainer.data import load_sequences

    directory = transformed(run)
    sequences = load_sequences(directory)
    found = (sequences.user_ids == user).nonzero()[0]
    if not len(found):
        raise StepError(
            f"shopper {user!r} is not among the {len(sequences.user_ids)} of {run}; ask with --history instead."
        )
    return HistoryReader(directory).read(sequences, int(found[0]))


def all_histories(run: Path, limit: int) -> list[History]:
    """The histories of the run's first shoppers, in the order of the files.

    Raises:
        StepError: the run has no transformed data.
    """
    from trainer.data import load_sequences

    directory = transformed(run)
    sequences, reader = load_sequences(directory), HistoryReader(directory)
    return [reader.read(sequences, number) for number in range(min(limit, len(sequences.user_ids)))]


def example_shopper(run: Path) -> str:
    """A shopper with a history to show: the one with the median number of interactions among those with ten or more.

    Raises:
        StepError: the run has no transformed data.
    """
    from trainer.data import load_sequences

    sequences = load_sequences(transformed(run))
    order = sequences.lengths.argsort(kind="stable")
    long = order[sequences.lengths[order] >= 10]
    chosen = long if len(long) else order
    return str(sequences.user_ids[chosen[len(chosen) // 2]])


def transformed(run: Path) -> Path:
    """Output of the run's transform.

    Raises:
        StepError: it has none.
    """
    directory = step_directory(run, "transform")
    if not (directory / RECORD).is_file():
        raise StepError(f"{run} holds no transformed data: run `tandem run` first, or name another run with --run.")
    return directory


class HistoryReader:
    """Turns rows of a transform's sequences back into what the client sends."""

    def __init__(self, directory: Path) -> None:
        """Reads the vocabulary of product ids of a transform's output."""
        from transform.feature_schema import ITEM_IDS_FILE, VOCABULARY_FOLDER, read_schema, read_vocabulary

        self._item_ids = read_vocabulary(directory / VOCABULARY_FOLDER / ITEM_IDS_FILE)
        self._has_timestamps = read_schema(directory).has_timestamps

    def read(self, sequences: "Sequences", number: int) -> History:
        """The history of shopper `number` of `sequences`."""
        from transform.tables import TYPE_NAMES

        span = slice(sequences.offsets[number], sequences.offsets[number + 1])
        return History(
            tuple(self._item_ids[row] for row in sequences.rows[span]),
            tuple(TYPE_NAMES[kind] for kind in sequences.types[span]),
            tuple(sequences.timestamps[span].tolist()) if self._has_timestamps else (),
        )
