"""Reading the transform's TFRecords: what was written comes back by row; damage is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from protos.feature_schema_pb2 import Feature, FeatureSchema
from trainer.data import DamagedRecordError, load_catalogue, load_sequences
from transform.feature_schema import write_schema


def integers(*values: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def texts(*values: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def floats(*values: float) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def write(path: Path, examples: list[dict[str, tf.train.Feature]]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for features in examples:
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def product(row: int, item_id: str, category: tuple[int, ...], price: float | None) -> dict[str, tf.train.Feature]:
    return {
        "item_id": texts(item_id.encode()),
        "row": integers(row),
        "id_row": integers(row),
        "train_count": integers(row * 10),
        "known_from": integers(100),
        "available": integers(row % 2),
        "title": texts(f"title of {item_id}".encode()),
        "category": texts(b"A > B"),
        "category_ids": integers(*category),
        "price": floats() if price is None else floats(-0.5),
        "price_raw": floats() if price is None else floats(price),
        "image": texts(),
    }


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    schema = FeatureSchema(
        item=[
            Feature(name="category", kind=Feature.CATEGORICAL, length=3, vocabulary_size=9),
            Feature(name="price", kind=Feature.NUMERIC),
        ],
        catalogue_size=4,
        id_embedding_size=4,
        has_timestamps=True,
    )
    write_schema(tmp_path, schema)
    write(tmp_path / "items-00000-of-00002.tfrecord", [product(2, "a", (5, 6), 9.5)])
    write(tmp_path / "items-00001-of-00002.tfrecord", [product(3, "b", (7,), None)])
    names = ("types", "labels", "timestamps", "sessions", "baskets")
    for shard, (user, rows) in enumerate([("ann", (2, 3, 2)), ("bob", (3,))]):
        same_length = {name: integers(*range(1, len(rows) + 1)) for name in names}
        ends = {"train_end": integers(1), "validation_end": integers(1)}
        example = {"user_id": texts(user.encode()), "rows": integers(*rows), **same_length, **ends}
        write(tmp_path / f"sequences-0000{shard}-of-00002.tfrecord", [example])
    return tmp_path


def test_catalogue_is_aligned_by_row_and_its_reserved_rows_are_empty(directory: Path) -> None:
    catalogue = load_catalogue(directory)
    assert list(catalogue.item_ids[2:]) == ["a", "b"]
    assert catalogue.features["category"].tolist() == [[0, 0, 0], [0, 0, 0], [5, 6, 0], [7, 0, 0]]
    assert catalogue.features["price"][2] == np.float32(-0.5)
    assert np.isnan(catalogue.features["price"][[0, 1, 3]]).all()
    assert catalogue.prices[2] == np.float32(9.5)
    assert np.isnan(catalogue.prices[3])
    assert catalogue.train_counts.tolist() == [0, 0, 20, 30]
    assert catalogue.available.tolist() == [False, False, False, True]
    assert catalogue.titles[3] == "title of b"


def test_sequences_lie_end_to_end(directory: Path) -> None:
    sequences = load_sequences(directory)
    assert sequences.user_ids.tolist() == ["ann", "bob"]
    assert sequences.offsets.tolist() == [0, 3, 4]
    assert sequences.rows.tolist() == [2, 3, 2, 3]
    assert sequences.timestamps.tolist() == [1, 2, 3, 1]
    assert sequences.lengths.tolist() == [3, 1]


def test_a_context_the_data_lack_reads_as_absent(directory: Path) -> None:
    assert load_sequences(directory).devices.tolist() == [0, 0, 0, 0]


def test_a_way_in_that_nothing_tells_reads_as_unknown(directory: Path) -> None:
    sequences = load_sequences(directory)
    assert sequences.positions.tolist() == sequences.surfaces.tolist() == [0, 0, 0, 0]
    assert np.isnan(sequences.propensities).all()


def test_positions_surfaces_and_logged_propensities_are_read_where_a_shopper_has_them(directory: Path) -> None:
    ends = {"train_end": integers(1), "validation_end": integers(1)}
    way_in = {"positions": integers(4, 0), "surfaces": integers(2, 0), "propensities": floats(0.25, np.nan)}
    names = ("types", "labels", "timestamps", "sessions", "baskets")
    same_length = {name: integers(1, 2) for name in names}
    example = {"user_id": texts(b"bob"), "rows": integers(3, 2), **same_length, **ends, **way_in}
    write(directory / "sequences-00001-of-00002.tfrecord", [example])
    sequences = load_sequences(directory)
    assert sequences.positions.tolist() == [0, 0, 0, 4, 0]
    assert sequences.surfaces.tolist() == [0, 0, 0, 2, 0]
    np.testing.assert_array_equal(sequences.propensities, np.float32([np.nan, np.nan, np.nan, 0.25, np.nan]))


def test_positions_of_another_length_are_refused(directory: Path) -> None:
    with pytest.raises(ValueError, match="positions: must have a value for each of 4 interactions, received 2"):
        replace(load_sequences(directory), positions=np.array([1, 2], np.int32))


def test_a_truncated_file_is_named(directory: Path) -> None:
    file = directory / "sequences-00001-of-00002.tfrecord"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DamagedRecordError, match=r"sequences-00001-of-00002.tfrecord is damaged after about record 0"):
        load_sequences(directory)


def test_a_flipped_byte_is_found(directory: Path) -> None:
    file = directory / "items-00000-of-00002.tfrecord"
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(DamagedRecordError, match=r"items-00000-of-00002.tfrecord is damaged"):
        load_catalogue(directory)


def test_a_missing_shard_is_found(directory: Path) -> None:
    (directory / "items-00001-of-00002.tfrecord").unlink()
    with pytest.raises(DamagedRecordError, match="hold 1 products, the feature schema says 2"):
        load_catalogue(directory)


def test_no_files_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run `tandem transform` first"):
        load_sequences(tmp_path)
