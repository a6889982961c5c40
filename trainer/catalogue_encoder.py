"""The vectors of a catalogue's products, by catalogue row."""

import numpy as np
import tensorflow as tf

from trainer.data import Catalogue, Words
from trainer.item_encoder import Features, ItemEncoder
from trainer.text_encoder import Texts, vocabulary_ngrams
from transform.tables import FIRST, UNKNOWN

# Outside a graph the table is made of blocks of so many rows: what the encoder holds of a product on the way, the
# vectors of all its words, is some dozens of times the product's own vector.
_ROWS_AT_ONCE = 32_768


class CatalogueEncoder:
    """Features of every product beside the encoder that reads them.

    The features come from the transform and are not weights: they are neither trained nor saved with the model.
    """

    def __init__(self, catalogue: Catalogue, item_encoder: ItemEncoder) -> None:
        self.item_encoder = item_encoder
        self.size = catalogue.size
        self.trained_rows = catalogue.trained_rows
        item_encoder.adapt({name: values[self.trained_rows[FIRST:]] for name, values in catalogue.features.items()})
        # Place of each row among those; what is not among them is read as the unknown product.
        places = np.full(catalogue.size, UNKNOWN, np.int32)
        places[self.trained_rows] = np.arange(len(self.trained_rows))
        self.trained_places = tf.constant(places)
        self._id_rows = tf.constant(catalogue.id_rows)
        self._features: Features = {name: tf.constant(values) for name, values in catalogue.features.items()} | {
            name: _texts(words, item_encoder.texts[name].ngram_buckets) for name, words in catalogue.words.items()
        }

    def table(self, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Vectors of the whole catalogue, [V, dim]; row 0 (padding) is zero."""
        if self.size <= _ROWS_AT_ONCE or training or not tf.executing_eagerly():
            return self.item_encoder.encode(self._features, self._id_rows, training, seed)
        blocks = np.array_split(np.arange(self.size, dtype=np.int32), -(-self.size // _ROWS_AT_ONCE))
        return tf.concat([self.vectors(tf.constant(rows)) for rows in blocks], axis=0)

    def trained_table(self, seed: tf.Tensor | None) -> tf.Tensor:
        """Vectors of the rows that a training may learn from, as it sees them, [T, dim]; see `trained_places`."""
        return self.vectors(tf.constant(self.trained_rows), seed is not None, seed)

    def vectors(self, rows: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Vectors of some catalogue rows: int32 [N] → [N, dim]."""
        return self.item_encoder.encode(self.features(rows), tf.gather(self._id_rows, rows), training, seed)

    def features(self, rows: tf.Tensor) -> Features:
        """What the item encoder reads of some catalogue rows, int32 [N]."""
        return {
            name: values._replace(places=tf.gather(values.places, rows))
            if isinstance(values, Texts)
            else tf.gather(values, rows)
            for name, values in self._features.items()
        }

    def gather(self, rows: list[tf.Tensor], training: bool = False, seed: tf.Tensor | None = None) -> list[tf.Tensor]:
        """Vectors of several tensors of rows [...] → [..., dim], encoding whichever is fewer: the catalogue or them."""
        sizes = [row.shape.num_elements() for row in rows]
        if None in sizes or self.size <= sum(sizes):
            table = self.table(training, seed)
            return [tf.gather(table, row) for row in rows]
        flat = self.vectors(tf.concat([tf.reshape(row, [-1]) for row in rows], axis=0), training, seed)
        parts = tf.split(flat, sizes)
        return [tf.reshape(part, [*row.shape, self.item_encoder.dim]) for part, row in zip(parts, rows, strict=True)]


def _texts(words: Words, buckets: int) -> Texts:
    """Texts of a catalogue."""
    return Texts(tf.constant(words.ids), vocabulary_ngrams(words.strings, buckets), tf.constant(words.places))
