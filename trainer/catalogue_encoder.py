"""The vectors of a catalogue's products, by catalogue row."""

import tensorflow as tf

from trainer.data import Catalogue
from trainer.item_encoder import ItemEncoder


class CatalogueEncoder:
    """Features of every product beside the encoder that reads them.

    The features come from the transform and are not weights: they are neither trained nor saved with the model.
    """

    def __init__(self, catalogue: Catalogue, item_encoder: ItemEncoder) -> None:
        self.item_encoder = item_encoder
        self.size = catalogue.size
        self._id_rows = tf.constant(catalogue.id_rows)
        self._features = {name: tf.constant(values) for name, values in catalogue.features.items()}

    def table(self, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Vectors of the whole catalogue, [V, dim]; row 0 (padding) is zero."""
        return self.item_encoder.encode(self._features, self._id_rows, training, seed)

    def vectors(self, rows: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Vectors of some catalogue rows: int32 [N] → [N, dim]."""
        features = {name: tf.gather(values, rows) for name, values in self._features.items()}
        return self.item_encoder.encode(features, tf.gather(self._id_rows, rows), training, seed)

    def gather(self, rows: list[tf.Tensor], training: bool = False, seed: tf.Tensor | None = None) -> list[tf.Tensor]:
        """Vectors of several tensors of rows [...] → [..., dim], encoding whichever is fewer: the catalogue or them."""
        sizes = [row.shape.num_elements() for row in rows]
        if None in sizes or self.size <= sum(sizes):
            table = self.table(training, seed)
            return [tf.gather(table, row) for row in rows]
        flat = self.vectors(tf.concat([tf.reshape(row, [-1]) for row in rows], axis=0), training, seed)
        parts = tf.split(flat, sizes)
        return [tf.reshape(part, [*row.shape, self.item_encoder.dim]) for part, row in zip(parts, rows, strict=True)]
