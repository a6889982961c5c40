"""Tiny worlds whose answers anyone can see."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf

from protos.events_pb2 import EventType
from protos.feature_schema_pb2 import Feature, FeatureSchema
from trainer.data import Catalogue, Sequences, Words
from transform.feature_schema import VOCABULARY_FOLDER, Vocabulary, write_schema, write_vocabulary
from transform.tables import FIRST, POSITION_COUNTS_FILE, RESERVED_LINES, SURFACES_FILE, UNKNOWN

DAY = 86_400
START = 1_700_000_000
ITEMS_PER_GROUP = 12
USERS_PER_GROUP = 16
COLOURS = ("black", "white")
# By id, from FIRST: white products have even rows.
TITLE_WORDS = ("white", "black", "grey", "green")


def checkerboard_schema(items: int, id_embedding_size: int, has_timestamps: bool) -> FeatureSchema:
    """Category, brand, attributes, price and title of products; device and region of requests."""
    schema = FeatureSchema(
        catalogue_size=FIRST + items, id_embedding_size=id_embedding_size, has_timestamps=has_timestamps
    )
    for name, length in (("category", 2), ("brand", 1), ("attributes", 2)):
        schema.item.add(
            name=name, kind=Feature.CATEGORICAL, vocabulary=f"{name}.txt", vocabulary_size=FIRST + 4, length=length
        )
    schema.item.add(name="price", kind=Feature.NUMERIC, mean=2.0, stddev=1.0)
    schema.item.add(name="title", kind=Feature.TEXT, vocabulary="title.txt", vocabulary_size=FIRST + 4, length=4)
    for name in ("device", "region"):
        schema.context.add(
            name=name, kind=Feature.CATEGORICAL, vocabulary=f"{name}.txt", vocabulary_size=FIRST + 2, length=1
        )
    return schema


def checkerboard_catalogue(has_timestamps: bool = True, new_items: int = 2, content: bool = True) -> Catalogue:
    """Products of two colours, odd rows black and even rows white, as all their content says.

    The last `new_items` were never met in training: they share the out-of-vocabulary id row, and only content tells
    their colour.
    """
    items = 2 * ITEMS_PER_GROUP
    size = FIRST + items
    rows = np.arange(FIRST, size)
    colour = rows % 2
    old = items - new_items
    schema = checkerboard_schema(items, FIRST + old, has_timestamps)
    id_rows = np.arange(size, dtype=np.int32)
    id_rows[FIRST + old :] = 1

    def column(*ids: np.ndarray) -> np.ndarray:
        values = np.zeros((size, len(ids)), np.int32)
        values[FIRST:] = np.stack(ids, axis=1)
        return values

    prices = np.full(size, np.nan, np.float32)
    prices[FIRST:] = np.where(colour == 1, 5.0, 50.0)
    prices[FIRST] = np.nan
    none = np.zeros(items, np.int32)
    features = {
        "category": column(FIRST + colour, FIRST + 2 + colour),
        "brand": column(FIRST + colour),
        "attributes": column(FIRST + colour, none),
        "price": ((np.log1p(prices) - 2.0) / 1.0)[:, np.newaxis].astype(np.float32),
        # The number is a word that the vocabulary lacks.
        "title": column(FIRST + colour, np.full(items, UNKNOWN), none, none),
    }
    if not content:
        del schema.item[:]
        features = {}
    train_counts = np.zeros(size, np.int64)
    train_counts[FIRST : FIRST + old] = USERS_PER_GROUP
    names = [f"{COLOURS[1 - group]}-{row}" for row, group in zip(rows, colour, strict=True)]
    titles = np.array(["", "", *names], dtype=object)
    return Catalogue(
        schema=schema,
        item_ids=np.array([*RESERVED_LINES, *names], dtype=object),
        id_rows=id_rows,
        features=features,
        train_counts=train_counts,
        known_from=np.concatenate([[0, 0], np.full(items, START - DAY)]).astype(np.int64),
        available=np.concatenate([[False, False], np.full(items, True)]),
        titles=titles,
        words={"title": Words.of(titles, Vocabulary(TITLE_WORDS), 4)} if content else {},
        categories=np.array(["", "", *(COLOURS[1 - group] for group in colour)], dtype=object),
        prices=prices,
        images=[b""] * size,
        brands=np.array(["", "", *(f"brand-{number % 3}" for number in range(items))], dtype=object),
    )


def checkerboard_sequences(
    new_items: int = 2, basket_size: int = 1, seed: int = 7, users_per_group: int = USERS_PER_GROUP
) -> Sequences:
    """Shoppers of two colours, who meet all products of their own colour once, in an order of their own.

    The last two interactions are held out: the one before last is validation, the last is test (new products never
    occur). Interactions are a day apart; `basket_size` of them share a basket and its timestamp.
    """
    rng = np.random.default_rng(seed)
    old = np.arange(FIRST, FIRST + 2 * ITEMS_PER_GROUP - new_items)
    histories = [rng.permutation(old[old % 2 == user % 2]).astype(np.int32) for user in range(2 * users_per_group)]
    lengths = np.array([len(history) for history in histories])
    order = np.concatenate([np.arange(length) for length in lengths])
    total = int(lengths.sum())
    colour = np.repeat(np.arange(2 * users_per_group) % 2, lengths)
    view, purchase = EventType.Value("VIEW"), EventType.Value("PURCHASE")
    types = np.where(order % 3 == 0, purchase, view).astype(np.int8)
    return Sequences(
        user_ids=np.array([f"{COLOURS[1 - user % 2]}-shopper-{user:03}" for user in range(len(lengths))], dtype=object),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        train_end=lengths - 2,
        validation_end=lengths - 1,
        rows=np.concatenate(histories),
        types=types,
        labels=np.left_shift(1, types.astype(np.int32)).astype(np.int32),
        timestamps=START + DAY * (order // basket_size).astype(np.int64),
        sessions=(order // basket_size).astype(np.int32),
        baskets=(order // basket_size).astype(np.int32),
        devices=np.full(total, FIRST, np.int32),
        regions=(FIRST + colour).astype(np.int32),
        positions=(1 + order % 8).astype(np.int32),
        surfaces=np.full(total, FIRST, np.int32),
    )


def write_position_counts(folder: Path, rows: list[dict[str, object]], surfaces: list[str]) -> None:
    """What `tandem transform` would leave of impressions and clicks by position."""
    kinds = {"surface": pa.string(), "position": pa.int32(), "row": pa.int32()}
    schema = pa.schema(kinds | {"impressions": pa.int64(), "clicks": pa.int64()})
    with pa.ipc.new_file(str(folder / POSITION_COUNTS_FILE), schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    write_vocabulary(folder / VOCABULARY_FOLDER / SURFACES_FILE, surfaces)


def write_transform(directory: Path, catalogue: Catalogue, sequences: Sequences) -> None:
    """What `tandem transform` would leave of a world: schema, vocabularies, TFRecords, the split (leave-one-out)."""
    directory.mkdir(parents=True, exist_ok=True)
    write_schema(directory, catalogue.schema)
    vocabularies = directory / "vocabularies"
    write_vocabulary(vocabularies / "item_ids.txt", list(catalogue.item_ids[FIRST:]))
    for feature in (*catalogue.schema.item, *catalogue.schema.context):
        if feature.vocabulary:
            words = [f"{feature.name}-{number}" for number in range(FIRST, feature.vocabulary_size)]
            words = list(TITLE_WORDS) if feature.name == "title" else words
            write_vocabulary(vocabularies / feature.vocabulary, words)
    write_position_counts(directory, [], [])
    split = {"method": "leave_one_out", "validation_start": None, "test_start": None}
    (directory / "statistics.json").write_text(json.dumps({"split": split}))
    _write_examples(
        directory / "items-00000-of-00001.tfrecord",
        (_product(catalogue, row) for row in range(FIRST, catalogue.size)),
    )
    _write_examples(
        directory / "sequences-00000-of-00001.tfrecord",
        (_shopper(sequences, user) for user in range(len(sequences.user_ids))),
    )


def _product(catalogue: Catalogue, row: int) -> dict[str, list]:
    values: dict[str, list] = {
        "item_id": [catalogue.item_ids[row].encode()],
        "row": [row],
        "id_row": [catalogue.id_rows[row]],
        "title": [catalogue.titles[row].encode()],
        "category": [catalogue.categories[row].encode()],
        "brand": [catalogue.brands[row].encode()] if catalogue.brands[row] else [],
        "price_raw": [] if np.isnan(catalogue.prices[row]) else [float(catalogue.prices[row])],
        "image": [],
        "known_from": [catalogue.known_from[row]],
        "available": [catalogue.available[row]],
        "train_count": [catalogue.train_counts[row]],
    }
    for name, ids in catalogue.features.items():
        if ids.dtype == np.float32:
            values[name] = [] if np.isnan(ids[row, 0]) else [float(ids[row, 0])]
        else:
            values[f"{name}_ids"] = list(ids[row][ids[row] > 0])
    return values


def _shopper(sequences: Sequences, user: int) -> dict[str, list]:
    own = slice(sequences.offsets[user], sequences.offsets[user + 1])
    names = ("rows", "types", "labels", "timestamps", "sessions", "baskets", "devices", "regions")
    names += ("positions", "surfaces")
    return {
        "user_id": [sequences.user_ids[user].encode()],
        "train_end": [sequences.train_end[user]],
        "validation_end": [sequences.validation_end[user]],
        **{name: list(getattr(sequences, name)[own]) for name in names},
        "prices": [],
        "quantities": [],
    }


def _write_examples(path: Path, examples: Iterable[dict[str, list]]) -> None:
    def feature(values: list) -> tf.train.Feature:
        if values and isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if values and isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value) for value in values]))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            features = tf.train.Features(feature={name: feature(values) for name, values in example.items()})
            writer.write(tf.train.Example(features=features).SerializeToString())
