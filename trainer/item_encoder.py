"""One shared idea of an item: id embedding and content, fused by a learned gate."""

from collections.abc import Mapping

import tensorflow as tf
import tf_keras

from protos.feature_schema_pb2 import Feature, FeatureSchema
from trainer.sharded_embedding import ShardedEmbedding, Table, gather
from trainer.text_encoder import TextEncoder, Texts, mean_embedding
from transform.tables import PADDING, UNKNOWN

# int32 ids [N, length] (0 = absent), float32 [N, 1] (NaN = absent), or texts.
Features = Mapping[str, tf.Tensor | Texts]


class ItemEncoder(tf_keras.layers.Layer):
    """Features of products → one vector each; holds no catalogue, so that it serves products it has never seen.

        content = W₂ gelu(W₁ [mean embedding of each list of ids; text; price, price missing])
        gate    = sigmoid(G [id; content])
        item    = gate · id + (1 − gate) · content

    In training the ids of a random share of products are replaced by the out-of-vocabulary id, so that content learns
    to place a product alone and the out-of-vocabulary embedding learns to stand for "id unknown". A schema without
    content leaves the id embedding alone, and nothing is hidden.

    Attributes:
        item_features: the schema's features, in the order of concatenation.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        dim: int,
        id_dropout: float,
        ngram_buckets: int,
        name: str = "item_encoder",
        embedding_devices: tuple[str, ...] = (),
    ) -> None:
        """Args:
        schema: of the products.
        dim: length of a vector.
        id_dropout: share of products whose id training hides.
        ngram_buckets: see `TextEncoder`.
        name: of the layer.
        embedding_devices: among which the id embedding is divided; none = it is not.
        """
        super().__init__(name=name)
        self.dim = dim
        self.id_dropout = id_dropout
        self.id_embedding_size = int(schema.id_embedding_size)
        self.item_features = tuple((feature.name, feature.kind) for feature in schema.item)
        self.id_embedding: Table = self._id_embedding(embedding_devices)
        self.feature_embeddings = {
            feature.name: self._embedding(feature.name, int(feature.vocabulary_size))
            for feature in schema.item
            if feature.kind == Feature.CATEGORICAL
        }
        self.texts = {
            feature.name: TextEncoder(int(feature.vocabulary_size), dim, ngram_buckets, feature.name)
            for feature in schema.item
            if feature.kind == Feature.TEXT
        }
        if self.item_features:
            width = sum(2 if feature.kind == Feature.NUMERIC else dim for feature in schema.item)
            self.content_hidden = _dense(2 * dim, width, "content_hidden", "gelu")
            self.content_output = _dense(dim, 2 * dim, "content_output")
            self.gate = _dense(dim, 2 * dim, "gate", "sigmoid")

    def encode(
        self,
        features: Features,
        id_rows: tf.Tensor,
        training: bool = False,
        seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Vectors of products.

        Args:
            features: of N products, by name.
            id_rows: int32 [N] id-embedding rows; 0 = padding, whose vector is zero; 1 = out of vocabulary.
            training: hides the ids of a random share of products, the same products for every row of one call.
            seed: int32 [2], required in training.

        Returns:
            float32 [N, dim].
        """
        present = tf.cast(id_rows != PADDING, tf.float32)[:, tf.newaxis]
        if not self.item_features:
            return gather(self.id_embedding, id_rows) * present
        if training and self.id_dropout > 0:
            draws = tf.random.stateless_uniform([self.id_embedding_size], seed, alg="philox")
            hidden = tf.gather(draws < self.id_dropout, id_rows)
            id_rows = tf.where(hidden, UNKNOWN, id_rows)
        ids = gather(self.id_embedding, id_rows)
        content = self._content(features)
        gate = self.gate(tf.concat([ids, content], axis=-1))
        return (gate * ids + (1.0 - gate) * content) * present

    def _id_embedding(self, devices: tuple[str, ...]) -> Table:
        if not devices:
            return self._embedding("id", self.id_embedding_size)
        return ShardedEmbedding(self.id_embedding_size, self.dim, devices, _small, name="id_embedding")

    def _embedding(self, name: str, size: int) -> tf.Variable:
        return self.add_weight(f"{name}_embedding", (size, self.dim), initializer=_small())

    def _content(self, features: Features) -> tf.Tensor:
        """[N, dim] from content alone."""
        parts = []
        for name, kind in self.item_features:
            if kind == Feature.NUMERIC:
                missing = tf.math.is_nan(features[name])
                parts += [tf.where(missing, 0.0, features[name]), tf.cast(missing, tf.float32)]
            elif kind == Feature.TEXT:
                parts.append(self.texts[name](features[name]))
            else:
                parts.append(mean_embedding(self.feature_embeddings[name], features[name]))
        return self.content_output(self.content_hidden(tf.concat(parts, axis=-1)))


def _small() -> tf_keras.initializers.Initializer:
    """What is learned soon outweighs what was drawn (ids start near one another)."""
    return tf_keras.initializers.RandomNormal(stddev=0.02)


def _dense(units: int, width: int, name: str, activation: str | None = None) -> tf_keras.layers.Dense:
    layer = tf_keras.layers.Dense(units, activation=activation, name=name)
    layer.build((None, width))
    return layer
