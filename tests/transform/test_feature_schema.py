"""Schema file, vocabulary files and tokens."""

from pathlib import Path

import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from protos.feature_schema_pb2 import Feature, FeatureSchema
from transform.checks import DataError
from transform.feature_schema import (
    TOKEN_PATTERN,
    TOKEN_REWRITES,
    read_schema,
    read_vocabulary,
    tokenize,
    write_schema,
    write_vocabulary,
)


def tokens_in_graph(texts: list[str]) -> list[list[str]]:
    """What the exported graph does with the same constants."""
    folded = tf.constant(texts)
    for old, new in TOKEN_REWRITES:
        folded = tf.strings.regex_replace(folded, old, new)
    spaced = tf.strings.regex_replace(tf.strings.lower(folded, encoding="utf-8"), TOKEN_PATTERN, " ")
    return [[token.decode() for token in row] for row in tf.strings.split(spaced).to_list()]


def test_schema_written_is_schema_read(tmp_path: Path) -> None:
    schema = FeatureSchema(
        item=[Feature(name="price", kind=Feature.NUMERIC, mean=1.25, stddev=0.5, length=1)], catalogue_size=7
    )
    write_schema(tmp_path, schema)
    assert read_schema(tmp_path) == schema


def test_missing_schema_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no feature_schema.pbtxt in .*: run `tandem transform` first"):
        read_schema(tmp_path)


def test_damaged_schema_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "feature_schema.pbtxt").write_text("item {{")
    with pytest.raises(DataError, match=r"feature_schema.pbtxt: not a feature schema"):
        read_schema(tmp_path)


def test_vocabulary_ids_start_after_the_reserved_lines(tmp_path: Path) -> None:
    file = tmp_path / "vocabularies" / "brand.txt"
    write_vocabulary(file, ["Zoë", "a b"])
    assert file.read_bytes() == b"\n\x01\nZo\xc3\xab\na b\n"
    assert read_vocabulary(file) == ["", "\x01", "Zoë", "a b"]


def test_vocabulary_without_reserved_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "brand.txt").write_text("Acme\nBolt\n")
    with pytest.raises(DataError, match=r"brand.txt: a vocabulary must begin with the reserved lines"):
        read_vocabulary(tmp_path / "brand.txt")


def test_tokens_ignore_case_punctuation_and_missing_texts() -> None:
    texts = pa.array(["  Red, RED-ish T-shirt (XL)!", None, "", "…", "ÜBER Ørsted 42"])
    assert tokenize(texts).to_pylist() == [
        ["red", "red", "ish", "t", "shirt", "xl"],
        [],
        [],
        [],
        ["über", "ørsted", "42"],
    ]


def test_tokens_of_a_slice_are_those_of_its_rows() -> None:
    assert tokenize(pa.array(["a b", "c d", "e"]).slice(1)).to_pylist() == [["c", "d"], ["e"]]


@given(
    st.lists(
        st.text(alphabet=st.characters(max_codepoint=0x24FF, exclude_categories=("Cs", "Cn", "Cc")), max_size=12),
        min_size=1,
        max_size=5,
    )
)
def test_arrow_and_tensorflow_make_the_same_tokens(texts: list[str]) -> None:
    assert tokenize(pa.array(texts, pa.string())).to_pylist() == tokens_in_graph(texts)


@pytest.mark.parametrize("text", ["İstanbul", "ΟΔΥΣΣΕΥΣ ΣΑΣ", "Straße", "ǅungla", "Ⅷ № ﬁn"])
def test_awkward_capitals_make_the_same_tokens(text: str) -> None:
    assert tokenize(pa.array([text])).to_pylist() == tokens_in_graph([text])
