"""A shop small enough to work out by hand, as the transform's output looks once it is read."""

from itertools import chain

import numpy as np

from protos.feature_schema_pb2 import FeatureSchema
from trainer.data import Catalogue, Sequences
from trainer.queries import Split
from transform.tables import EVENT_TYPES

VIEW, PURCHASE = EVENT_TYPES["view"], EVENT_TYPES["purchase"]
TIME = Split("time", 100, 200)
LEAVE_ONE_OUT = Split("leave_one_out", None, None)

# (catalogue row, time, type); several of one shopper at one time are a basket.
Interaction = tuple[int, int, int]


def make_catalogue(size: int = 10, known_from: dict[int, int] | None = None, clock: bool = True) -> Catalogue:
    """Products in rows 2 … size − 1, without content, known since time 0 unless said otherwise."""
    known = np.zeros(size, np.int64)
    for row, moment in (known_from or {}).items():
        known[row] = moment
    empty = np.full(size, "", dtype=object)
    return Catalogue(
        schema=FeatureSchema(catalogue_size=size, id_embedding_size=size, has_timestamps=clock),
        item_ids=np.array([f"p{row}" for row in range(size)], dtype=object),
        id_rows=np.arange(size, dtype=np.int32),
        features={},
        train_counts=np.zeros(size, np.int64),
        known_from=known,
        available=np.ones(size, bool),
        titles=empty,
        categories=empty,
        prices=np.full(size, np.nan, np.float32),
        images=[b""] * size,
    )


def make_sequences(shoppers: dict[str, list[Interaction]], split: Split = TIME) -> Sequences:
    """Shoppers' interactions, split as the transform does."""
    lengths = np.array([len(interactions) for interactions in shoppers.values()])
    rows, times, types = (np.array(column) for column in zip(*chain.from_iterable(shoppers.values()), strict=True))
    owners = np.repeat(np.arange(len(lengths)), lengths)
    if split.method == "time":
        train_end = np.bincount(owners[times < split.validation_start], minlength=len(lengths))
        validation_end = np.bincount(owners[times < split.test_start], minlength=len(lengths))
    else:
        train_end = np.where(lengths < 3, lengths, lengths - 2)
        validation_end = np.where(lengths < 3, lengths, lengths - 1)
    opens = np.concatenate([[True], (owners[1:] != owners[:-1]) | (times[1:] != times[:-1])])
    return Sequences(
        user_ids=np.array(list(shoppers), dtype=object),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        train_end=train_end,
        validation_end=validation_end,
        rows=rows.astype(np.int32),
        types=types.astype(np.int8),
        labels=(1 << types).astype(np.int32),
        timestamps=times.astype(np.int64),
        sessions=(np.cumsum(opens) - 1).astype(np.int32),
        baskets=(np.cumsum(opens) - 1).astype(np.int32),
        devices=(10 + np.arange(len(rows))).astype(np.int32),
        regions=np.zeros(len(rows), np.int32),
    )
