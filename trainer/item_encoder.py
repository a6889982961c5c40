"""One shared idea of an item: what is known of it by id, behaviour and each kind of content, fused into one vector."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
import tf_keras

from protos.feature_schema_pb2 import Feature, FeatureSchema
from trainer.class_means import class_means, leaf_categories
from trainer.config import ItemEncoderConfig
from trainer.dense import dense
from trainer.fusion import FUSIONS, Fusion
from trainer.sharded_embedding import ShardedEmbedding, Table, gather
from trainer.text_encoder import TextEncoder, Texts, has_words, mean_embedding
from transform.feature_schema import id_count
from transform.tables import BEHAVIOUR, PADDING, UNKNOWN

# int32 ids [N, length] (0 = absent), float32 [N, length] (NaN = absent), or texts.
Features = Mapping[str, tf.Tensor | Texts]
ID = "id"
# What the shop itself says of a product in so many words and numbers is one modality.
ATTRIBUTES = "attributes"
CATEGORY = "category"
ATTRIBUTE_KINDS = (Feature.NUMERIC, Feature.CATEGORICAL)
_FLOATS = (Feature.NUMERIC, Feature.VECTOR)


class ItemEncoder(tf_keras.layers.Layer):
    """Features of products → one vector each; holds no catalogue, so that it serves products it has never seen.

    Modalities are the id, each text, each picture or other vector, the attributes together (category, brand, price, …),
    and behaviour. Each becomes a vector, W₂ gelu(W₁ [what is read of it]), and `trainer.fusion` makes one of them.

    In training the ids of a random share of products are replaced by the out-of-vocabulary id and their behaviour is
    hidden, so that content learns to place a product alone. A schema without content leaves the id embedding alone, and
    nothing is hidden.

    Attributes:
        item_features: the schema's features: name and kind.
        modalities: names, in the order of fusion.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        config: ItemEncoderConfig,
        name: str = "item_encoder",
        embedding_devices: Sequence[str] = (),
    ) -> None:
        """Args:
        schema: of the products.
        config: dimension, share of products whose id training hides, n-grams, fusion.
        name: of the layer.
        embedding_devices: among which the id embedding is divided; none = it is not.
        """
        super().__init__(name=name)
        self.dim = config.dim
        self.id_dropout = config.id_dropout
        self.id_embedding_size = int(schema.id_embedding_size)
        self.item_features = tuple((feature.name, feature.kind) for feature in schema.item)
        self.id_embedding: Table = self._id_embedding(tuple(embedding_devices))
        self.feature_embeddings = {
            feature.name: self._embedding(feature.name, id_count(feature))
            for feature in schema.item
            if feature.kind == Feature.CATEGORICAL
        }
        self.texts = {
            feature.name: TextEncoder(id_count(feature), self.dim, config.ngram_buckets, feature.name)
            for feature in schema.item
            if feature.kind == Feature.TEXT
        }
        self.class_means = self._class_means(schema) if config.subtract_class_means else {}
        widths: dict[str, int] = {}
        for feature in schema.item:
            widths[_modality(feature)] = widths.get(_modality(feature), 0) + self._width(feature)
        self.modalities = (ID, *widths)
        self.hidden = {name: dense(2 * self.dim, width, f"{name}_hidden", "gelu") for name, width in widths.items()}
        self.outputs_of = {name: dense(self.dim, 2 * self.dim, f"{name}_output") for name in widths}
        self.fusion: Fusion | None = FUSIONS[config.fusion](len(self.modalities), self.dim) if widths else None

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
        product = tf.cast(id_rows != PADDING, tf.float32)[:, tf.newaxis]
        if self.fusion is None:
            return gather(self.id_embedding, id_rows) * product
        hidden = tf.zeros_like(id_rows, tf.bool)
        if training and self.id_dropout > 0:
            draws = tf.random.stateless_uniform([self.id_embedding_size], seed, alg="philox")
            hidden = tf.gather(draws < self.id_dropout, id_rows)
            id_rows = tf.where(hidden, UNKNOWN, id_rows)
        vectors, present = [gather(self.id_embedding, id_rows)], [tf.ones_like(hidden)]
        for name, (read, there) in self._read(features).items():
            vectors.append(self.outputs_of[name](self.hidden[name](read)))
            present.append(there & ~hidden if name == BEHAVIOUR else there)
        return self.fusion(tf.stack(vectors, axis=1), tf.stack(present, axis=1)) * product

    def content_tables(self) -> list[tf.Variable]:
        """What reads words, n-grams and values, and could have been learned elsewhere."""
        words = [weight for text in self.texts.values() for weight in text.weights]
        return words + list(self.feature_embeddings.values())

    def adapt(self, features: Mapping[str, np.ndarray]) -> None:
        """Takes the means of categories from products, as `Catalogue.features` holds them; before training."""
        for name, means in self.class_means.items():
            means.assign(class_means(features[CATEGORY], features[name], means.shape[0]))

    def _read(self, features: Features) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """What is read of each modality but the id, [N, width], and whether it is there, bool [N]."""
        parts: dict[str, list[tf.Tensor]] = {}
        there: dict[str, tf.Tensor] = {}
        for name, kind in self.item_features:
            values = features[name]
            if isinstance(values, Texts):
                read = [self.texts[name](values)]
                known = has_words(values)
            elif kind in _FLOATS:
                missing = tf.math.is_nan(values)
                read, known = [tf.where(missing, 0.0, values)], ~tf.reduce_all(missing, axis=1)
                read += [tf.cast(missing, tf.float32)] if kind == Feature.NUMERIC else []
                if name in self.class_means:
                    table = self.class_means[name]
                    means = tf.gather(table, leaf_categories(features[CATEGORY], table.shape[0]))
                    read.append(tf.where(missing, 0.0, values - means))
            else:
                read = [mean_embedding(self.feature_embeddings[name], values)]
                known = tf.reduce_any(values != PADDING, axis=1)
            modality = ATTRIBUTES if kind in ATTRIBUTE_KINDS else name
            parts.setdefault(modality, []).extend(read)
            there[modality] = there[modality] | known if modality in there else known
        return {name: (tf.concat(read, axis=-1), there[name]) for name, read in parts.items()}

    def _width(self, feature: Feature) -> int:
        """Numbers that are read of a feature; of a number itself, and whether it is missing."""
        if feature.kind == Feature.VECTOR:
            return int(feature.length) * (2 if feature.name in self.class_means else 1)
        return 2 if feature.kind == Feature.NUMERIC else self.dim

    def _class_means(self, schema: FeatureSchema) -> dict[str, tf.Variable]:
        """Of each feature that is a vector but behaviour, [categories, length]; none without categories."""
        sizes = {feature.name: int(feature.vocabulary_size) for feature in schema.item}
        if CATEGORY not in sizes:
            return {}
        return {
            feature.name: self.add_weight(f"{feature.name}_means", (sizes[CATEGORY], feature.length), trainable=False)
            for feature in schema.item
            if feature.kind == Feature.VECTOR and feature.name != BEHAVIOUR
        }

    def _id_embedding(self, devices: tuple[str, ...]) -> Table:
        if not devices:
            return self._embedding(ID, self.id_embedding_size)
        return ShardedEmbedding(self.id_embedding_size, self.dim, devices, _small, name="id_embedding")

    def _embedding(self, name: str, size: int) -> tf.Variable:
        return self.add_weight(f"{name}_embedding", (size, self.dim), initializer=_small())


def _modality(feature: Feature) -> str:
    return ATTRIBUTES if feature.kind in ATTRIBUTE_KINDS else feature.name


def _small() -> tf_keras.initializers.Initializer:
    """What is learned soon outweighs what was drawn (ids start near one another)."""
    return tf_keras.initializers.RandomNormal(stddev=0.02)
