"""Tables in a graph number strings as the transform does."""

import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.feature_schema_pb2 import Feature
from trainer.string_tables import IdTable, write_asset
from transform.feature_schema import Vocabulary, write_vocabulary

WORDS = ["Müller & Söhne", "acme", "a", "0", "鍋"]
# No value that the transform lets in has a zero byte.
CHARACTERS = st.characters(codec="utf-8", exclude_characters="\x00")
STRINGS = st.one_of(st.sampled_from(WORDS), st.text(CHARACTERS, max_size=40))


@pytest.fixture(scope="module", params=[0, 1, 7])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Vocabulary, IdTable]:
    folder = tmp_path_factory.mktemp("vocabularies")
    write_vocabulary(folder / "vocabularies" / "brand.txt", WORDS)
    feature = Feature(name="brand", vocabulary="brand.txt", vocabulary_size=7, oov_buckets=request.param)
    asset = write_asset(folder / "vocabularies" / "brand.txt", folder / "assets")
    return Vocabulary.of(folder, feature), IdTable.of(feature, {"brand.txt": asset})


@settings(max_examples=100)
@given(st.lists(STRINGS, min_size=1, max_size=20))
def test_graph_gives_the_ids_of_the_transform(both: tuple[Vocabulary, IdTable], values: list[str]) -> None:
    vocabulary, table = both
    made = table(tf.constant([value.encode() for value in values])).numpy()
    assert made.tolist() == vocabulary.ids(pa.array(values)).tolist()


def test_values_outside_of_the_vocabulary_are_spread_over_the_buckets() -> None:
    vocabulary = Vocabulary(WORDS, 4)
    values = pa.array([f"brand {number}" for number in range(400)] + ["acme", None, ""])
    ids = vocabulary.ids(values)
    assert ids[-3:].tolist() == [3, 0, 0]
    # 100 of each are expected, with a standard deviation of 8.7.
    assert all(60 < (ids == bucket).sum() < 140 for bucket in range(7, 11))
    assert ids[:400].min() == 7
    # By Google's FarmHash: Fingerprint64("abc") = 2640714258260161385.
    assert vocabulary.ids(pa.array(["abc"])).tolist() == [7 + 2640714258260161385 % 4]


def test_nothing_that_an_id_stands_for_is_told_twice() -> None:
    assert Vocabulary(["a"], 2).lines == ["", "\x01", "a", "\x010/2", "\x011/2"]
