"""Examples encoded column by column, and the framing of TFRecord files, against TensorFlow's own readers."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from transform.tfrecords import Column, encode_examples, optional, single, varints, write_tfrecords

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(width=32, allow_nan=False)


def lists(values: list[list], dtype: type | None = None) -> Column:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in values])]).astype(np.int64)
    flat = [value for row in values for value in row]
    return Column(flat if dtype is None else np.array(flat, dtype), offsets)


@given(
    st.lists(
        st.tuples(
            st.lists(INT64, max_size=4), st.lists(FLOATS, max_size=4), st.lists(st.binary(max_size=200), max_size=3)
        ),
        max_size=5,
    )
)
def test_tensorflow_reads_the_values_that_were_encoded(rows: list[tuple[list, list, list]]) -> None:
    columns = {
        "whole": lists([row[0] for row in rows], np.int64),
        "real": lists([row[1] for row in rows], np.float32),
        "bytes": lists([row[2] for row in rows]),
    }
    records = list(encode_examples(columns))
    assert len(records) == len(rows)
    for record, (whole, real, strings) in zip(records, rows, strict=True):
        features = tf.train.Example.FromString(record).features.feature
        assert list(features["whole"].int64_list.value) == whole
        assert list(features["real"].float_list.value) == real
        assert list(features["bytes"].bytes_list.value) == strings


def test_a_feature_without_values_keeps_its_kind() -> None:
    (record,) = encode_examples({"a": lists([[]], np.int64), "b": lists([[]], np.float32), "c": optional([None])})
    features = tf.train.Example.FromString(record).features.feature
    kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
    assert kinds == {"a": "int64_list", "b": "float_list", "c": "bytes_list"}


def test_varints_are_those_of_the_protobuf_documentation() -> None:
    # 150 = 1001 0110 → 0010110 with the continuation bit, then 0000001; -1 takes ten bytes.
    content, offsets = varints(np.array([1, 150, -1]))
    assert content.to_pybytes() == b"\x01" + b"\x96\x01" + b"\xff" * 9 + b"\x01"
    assert offsets.tolist() == [0, 1, 3, 13]


def test_tensorflow_reads_the_file_and_its_checksums(tmp_path: Path) -> None:
    records = [b"", b"x" * 1_000, bytes(range(256))]
    assert write_tfrecords(str(tmp_path / "new folder" / "a.tfrecord"), records) == 3
    assert list(tf.data.TFRecordDataset(str(tmp_path / "new folder" / "a.tfrecord")).as_numpy_iterator()) == records


def test_a_write_that_fails_leaves_no_file_of_that_name(tmp_path: Path) -> None:
    def broken():  # noqa: ANN202
        yield b"one"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_tfrecords(str(tmp_path / "a.tfrecord"), broken())
    assert not (tmp_path / "a.tfrecord").exists()


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same number of Examples, received {'a': 1, 'b': 2}"):
        list(encode_examples({"a": single([b"x"]), "b": single([b"x", b"y"])}))


def test_values_of_another_type_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"feature 'a': values must be int64, float32 or a list of bytes, received int32"
    ):
        list(encode_examples({"a": single(np.zeros(1, np.int32))}))
