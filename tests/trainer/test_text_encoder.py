"""Words and the letters they are written with, as vectors of texts."""

import subprocess
import sys
from pathlib import Path

import farmhash
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.text_encoder import NGRAMS, TextEncoder, Texts, hashed_ngrams

BUCKETS = 50


def bucket(part: str) -> int:
    return 1 + farmhash.fingerprint64(part) % BUCKETS


def test_ngrams_are_the_hashed_threes_and_fours_of_the_marked_word() -> None:
    ngrams = hashed_ngrams(tf.constant(["rés", ""]), BUCKETS).numpy()
    parts = ["<ré", "rés", "és>", "<rés", "rés>"]
    assert ngrams[0, :5].tolist() == [bucket(part) for part in parts]
    assert not ngrams[0, 5:].any()
    assert not ngrams[1].any()


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=40))
def test_any_word_has_as_many_parts_as_letters_allow(word: str) -> None:
    ngrams = hashed_ngrams(tf.constant([word.encode("utf-8", "ignore")]), BUCKETS).numpy()[0]
    letters = len(word.encode("utf-8", "ignore").decode("utf-8")) + 2
    expected = 0 if letters == 2 else max(letters - 2, 0) + max(letters - 3, 0)
    assert np.count_nonzero(ngrams) == min(expected, NGRAMS)
    assert ((ngrams >= 0) & (ngrams <= BUCKETS)).all()


# Quickly, above: the numbers are those of another library.
@pytest.mark.slow
def test_another_process_hashes_alike() -> None:
    code = (
        "import tensorflow as tf; from trainer.text_encoder import hashed_ngrams; "
        f"print(hashed_ngrams(tf.constant(['größe', '漢字']), {BUCKETS}).numpy().tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.splitlines()[-1] == str(hashed_ngrams(tf.constant(["größe", "漢字"]), BUCKETS).numpy().tolist())


def make_encoder(buckets: int) -> TextEncoder:
    encoder = TextEncoder(4, 1, buckets, "title")
    encoder.words.assign([[100.0], [0.0], [10.0], [20.0]])
    if encoder.ngrams is not None:
        encoder.ngrams.assign(tf.range(1 + buckets, dtype=tf.float32)[:, tf.newaxis])
    return encoder


def texts(places: list[list[int]]) -> Texts:
    """Words 0 "", 1 unknown with n-grams 4 and 6, 2 with n-gram 3, 3 with none."""
    ngrams = np.zeros((4, NGRAMS), np.int32)
    ngrams[1, :2], ngrams[2, 0] = (4, 6), 3
    return Texts(tf.constant([0, 1, 2, 3]), tf.constant(ngrams), tf.constant(places))


def test_a_text_is_the_mean_of_its_words_and_a_word_itself_and_the_mean_of_its_ngrams() -> None:
    # Unknown word: 0 + (4 + 6) / 2 = 5. Word 2: 10 + 3. Word 3: 20. A text without words is zero.
    vectors = make_encoder(8)(texts([[1, 2, 0], [3, 0, 0], [0, 0, 0]])).numpy()
    np.testing.assert_allclose(vectors[:, 0], [(5 + 13) / 2, 20, 0])


def test_without_buckets_only_words_count() -> None:
    encoder = make_encoder(0)
    np.testing.assert_allclose(encoder(texts([[1, 2, 0], [3, 3, 2]])).numpy()[:, 0], [(0 + 10) / 2, (20 + 20 + 10) / 3])
    assert len(encoder.weights) == 1
