"""Who is answered in a batch job, cut into shards, and what each shard asks the model."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from pipeline.batch_inference import Arrays
from pipeline.runner import StepError
from pipeline.shopper_histories import History, HistoryReader
from protos.predict_pb2 import DT_STRING
from serving.client_query import Context, Query
from serving.client_signature import Port, Signature
from trainer.data import load_sequences
from trainer.record_scan import ShopperPlaces, find_shoppers

USER_ID = "user_id"


@dataclass(frozen=True)
class Shard:
    """A part of those that are asked for."""

    number: int
    # File of sequences → numbers of its records, in increasing order.
    records: dict[str, np.ndarray] = field(default_factory=dict)
    # Those that need no data: new visitors, or products.
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """The shoppers of a batch job.

    Args:
        places: all shoppers of the data.
        numbers: those to answer, into `places`, in its order.
        unknown: ids asked for that the data do not have.
        repeated: ids asked for more than once.
    """

    places: ShopperPlaces
    numbers: np.ndarray
    unknown: tuple[str, ...] = ()
    repeated: int = 0


def choose_shoppers(transform_dir: Path, users: Sequence[str] | None) -> Chosen:
    """All shoppers of the data, or those of a list."""
    places = find_shoppers(transform_dir)
    if users is None:
        return Chosen(places, np.arange(len(places.user_ids)))
    wanted = {user.encode() for user in users}
    chosen = np.flatnonzero([user in wanted for user in places.user_ids])
    known = set(places.user_ids[chosen])
    unknown = tuple(user for user in dict.fromkeys(users) if user.encode() not in known)
    return Chosen(places, chosen, unknown, len(users) - len(wanted))


def shopper_shards(chosen: Chosen, new_visitors: Sequence[str], size: int) -> list[Shard]:
    """Shards of up to `size` shoppers, in the order of the data; new visitors come last."""
    places, shards = chosen.places, []
    total = len(chosen.numbers) + len(new_visitors)
    for number, start in enumerate(range(0, total, size)):
        numbers = chosen.numbers[start : start + size]
        first = max(0, start - len(chosen.numbers))
        ids = tuple(new_visitors[first : first + size - len(numbers)]) if len(numbers) < size else ()
        files = places.file_of[numbers]
        records = {places.files[one]: places.record_of[numbers[files == one]] for one in np.unique(files)}
        shards.append(Shard(number, records, ids))
    return shards


def product_shards(item_ids: Sequence[str], size: int) -> list[Shard]:
    """Shards of up to `size` products, in their order."""
    starts = range(0, len(item_ids), size)
    return [Shard(number, ids=tuple(item_ids[start : start + size])) for number, start in enumerate(starts)]


class Asker(Protocol):
    """What a shard asks: names of the rows, and the inputs of a signature, row for row."""

    def read(self, shard: Shard) -> tuple[list[str], Arrays]:
        """Reads what is needed of the data."""


class ShopperAsker:
    """Histories of shoppers, as the client would send them."""

    def __init__(self, transform_dir: Path, signature: Signature, context: Context, k: int) -> None:
        """Reads the vocabulary of product ids.

        Args:
            transform_dir: output of the run's transform.
            signature: what the model takes.
            context: the same for all.
            k: products wanted of each.
        """
        self._directory = transform_dir
        self._reader = HistoryReader(transform_dir)
        self._signature = signature
        self._context = context
        self._k = k

    def read(self, shard: Shard) -> tuple[list[str], Arrays]:
        """User ids, and histories [n, L]."""
        users: list[str] = []
        histories: list[History] = []
        if shard.records:
            sequences = load_sequences(self._directory, shard.records)
            users = sequences.user_ids.tolist()
            histories = [self._reader.read(sequences, number) for number in range(len(users))]
        users += shard.ids
        histories += [History(())] * len(shard.ids)
        query = Query([history.shopper(self._context) for history in histories], self._k)
        inputs = self._signature.inputs
        return users, {name: _array(inputs[name], rows) for name, rows in query.columns(self._signature).items()}


class ProductAsker:
    """Products whose pages ask, without a shopper."""

    def read(self, shard: Shard) -> tuple[list[str], Arrays]:
        """Product ids, and the same as an input [n]."""
        return list(shard.ids), {"item_ids": np.array(shard.ids, object)}


def _array(port: Port, rows: Sequence[Sequence[object]]) -> np.ndarray:
    dtype = object if port.dtype == DT_STRING else tf.dtypes.as_dtype(port.dtype).as_numpy_dtype
    return np.array(rows, dtype).reshape([len(rows), -1] if port.sizes else [len(rows)])


def read_users(path: Path) -> list[str]:
    """Ids of a list: one a line, or a column of a Parquet file (`user_id`, or the only one).

    Raises:
        StepError: the file is not there, cannot be read, or holds no id.
    """
    if not path.is_file():
        raise StepError(f"--users {path}: no such file. Give one with an id a line, or a Parquet file.")
    users = _parquet_users(path) if path.suffix == ".parquet" else _text_users(path)
    if not users:
        raise StepError(f"--users {path}: at least one shopper is needed, received none.")
    return users


def _text_users(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise StepError(f"--users {path}: must be UTF-8 text, one id a line: {error}.") from None
    return [line.strip() for line in lines if line.strip()]


def _parquet_users(path: Path) -> list[str]:
    try:
        columns = pq.read_schema(path).names
        name = USER_ID if USER_ID in columns else columns[0]
        if name != USER_ID and len(columns) > 1:
            raise StepError(
                f"--users {path}: must have a column {USER_ID}, or one column alone; received {', '.join(columns)}."
            )
        users = pq.read_table(path, columns=[name])[name].cast(pa.string())
    except pa.ArrowInvalid as error:
        raise StepError(f"--users {path}: not a Parquet file with a column of ids: {error}") from None
    return [user for user in users.to_pylist() if user]


def digest_of(texts: Sequence[str]) -> str:
    """Tells lists apart."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
