"""Texts → vectors: the mean of their words, each a word of the vocabulary and the parts it is written with."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from transform.tables import PADDING

# Parts of a word that count: enough for words of ten letters, and bounded for what is no word at all.
NGRAMS = 20
_WIDTHS = [3, 4]
_WORDS_AT_ONCE = 65_536


class Texts(NamedTuple):
    """Texts that share their words, so that what is costly is done once for each word."""

    word_ids: tf.Tensor  # int32 [W] in the vocabulary; 0 = no word, 1 = unknown
    word_ngrams: tf.Tensor  # int32 [W, NGRAMS], see `hashed_ngrams`
    places: tf.Tensor  # int32 [N, length]: which word stands where


def hashed_ngrams(words: tf.Tensor, buckets: int) -> tf.Tensor:
    """Letters in threes and fours, with marks for the ends of the word: "red" → <re red ed> <red red>.

    The same in a graph and outside, and in every process: TensorFlow's fingerprint of UTF-8.

    Args:
        words: string [W].
        buckets: numbers that the parts share; 0 = parts are not read.

    Returns:
        int32 [W, NGRAMS] in [1, buckets], the threes first; 0 where a word has fewer, and everywhere for "".
    """
    if not buckets:
        return tf.fill([tf.size(words), NGRAMS], PADDING)
    letters = tf.strings.unicode_split(tf.strings.join(["<", words, ">"]), "UTF-8")
    parts = tf.strings.ngrams(letters, _WIDTHS, separator="").to_tensor("", shape=[None, NGRAMS])
    there = (parts != "") & (words != "")[:, tf.newaxis]
    return tf.where(there, 1 + tf.cast(tf.strings.to_hash_bucket_fast(parts, buckets), tf.int32), PADDING)


def vocabulary_ngrams(words: np.ndarray, buckets: int) -> tf.Tensor:
    """`hashed_ngrams` of many words, object [W], a block at a time: their letters take much more memory."""
    starts = range(0, max(1, len(words)), _WORDS_AT_ONCE)
    blocks = [words[start : start + _WORDS_AT_ONCE].tolist() for start in starts]
    return tf.concat([hashed_ngrams(tf.constant(block, tf.string), buckets) for block in blocks], axis=0)


def has_words(texts: Texts) -> tf.Tensor:
    """Whether texts have any word: bool [N]."""
    return tf.reduce_any(tf.gather(texts.word_ids, texts.places) != PADDING, axis=1)


class TextEncoder(tf_keras.layers.Layer):
    """vector(text) = mean over its words of (word embedding + mean embedding of the word's n-grams).

    fastText's words (Bojanowski et al. 2017, "Enriching word vectors with subword information"), with words and n-grams
    in tables of their own: a word that training has not met still has the n-grams it shares with those it has. Texts
    without a word are zero.
    """

    def __init__(self, vocabulary_size: int, dim: int, ngram_buckets: int, name: str) -> None:
        """Args:
        vocabulary_size: ids of words, the reserved ones included.
        dim: length of a vector.
        ngram_buckets: numbers that n-grams share; 0 = words only.
        name: of the feature.
        """
        super().__init__(name=name)
        self.ngram_buckets = ngram_buckets
        self.dim = dim
        self.words = self._table(f"{name}_embedding", vocabulary_size)
        self.ngrams = self._table(f"{name}_ngrams", 1 + ngram_buckets) if ngram_buckets else None

    def _table(self, name: str, size: int) -> tf.Variable:
        return self.add_weight(name, (size, self.dim), initializer=tf_keras.initializers.RandomNormal(stddev=0.02))

    def call(self, texts: Texts) -> tf.Tensor:
        """[N, dim]."""
        words = tf.gather(self.words, texts.word_ids)
        if self.ngrams is not None:
            words += mean_embedding(self.ngrams, texts.word_ngrams)
        present = tf.cast(tf.gather(texts.word_ids, texts.places) != PADDING, tf.float32)[..., tf.newaxis]
        total = tf.reduce_sum(tf.gather(words, texts.places) * present, axis=1)
        return total / tf.maximum(tf.reduce_sum(present, axis=1), 1.0)


def mean_embedding(table: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Mean over the ids that are not padding, zero where there is none: ids [N, length] → [N, dim]."""
    present = tf.cast(ids != PADDING, tf.float32)
    total = tf.reduce_sum(tf.gather(table, ids) * present[..., tf.newaxis], axis=1)
    return total / tf.maximum(tf.reduce_sum(present, axis=1, keepdims=True), 1.0)
