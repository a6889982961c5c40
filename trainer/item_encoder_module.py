"""Raw content of products → vectors as the index holds them; reads text in the graph as the transform reads it."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from protos.feature_schema_pb2 import Feature, FeatureSchema
from trainer.content_encoders import ContentEncoder
from trainer.retrieval import RetrievalModel
from trainer.signatures import Tensors, Untracked, read_weights, signature, whole_batch
from trainer.string_tables import IdTable
from trainer.text_encoder import Texts, hashed_ngrams
from transform.feature_schema import TEXT_CHARACTERS, TOKEN_PATTERN, TOKEN_REWRITES
from transform.tables import BEHAVIOUR, CATEGORY_SEPARATOR, CROSS_SEPARATOR, PADDING, PRICE_BUCKET, UNKNOWN

# Width of an input of several values that the models do not read.
_UNREAD_WIDTH = 1


class ItemEncoderModule(tf.Module):
    """One signature, serving_default: content of products → embedding float32 [B, D], of norm 1.

    Inputs, all but the title optional: title, description, category ("A > B > C"), brand string [B]; attributes
    string [B, A] ("name=value", "" where there are fewer); price float32 [B], NaN or 0 where unknown; image string [B],
    the bytes of a PNG or JPEG, "" where there is none (what cannot be read counts as none); item_id string [B]. Of a
    text the first TEXT_CHARACTERS are read. A product id that the catalogue knows adds what was learnt about that
    product; without one, content alone places the product. An input that the models have no feature for is accepted
    and not read. The encoders of pictures and sentences are part of the graph.
    """

    def __init__(
        self,
        retrieval: RetrievalModel,
        schema: FeatureSchema,
        id_rows: np.ndarray,
        assets: Mapping[str, Path],
        encoders: Mapping[str, ContentEncoder] | None = None,
        behaviour: np.ndarray | None = None,
    ) -> None:
        """Args:
        retrieval: the trained model.
        schema: of the features that it reads.
        id_rows: int32 [V] id-embedding row of each catalogue row.
        assets: vocabulary file name → its asset; `item_ids.txt` and those of the schema.
        encoders: of the schema's VECTOR features but behaviour, by name.
        behaviour: float32 [V, length], where the schema has it: known of products that the catalogue knows.

        Raises:
            ValueError: a VECTOR feature has no encoder, or behaviour no table.
        """
        super().__init__(name="item_encoder")
        self.features = {feature.name: feature for feature in schema.item}
        self.encoders = dict(encoders or {})
        self.behaviour = None if behaviour is None else tf.Variable(behaviour, trainable=False, name=BEHAVIOUR)
        made = {*self.encoders, *([] if behaviour is None else [BEHAVIOUR])}
        lacking = [
            name for name, feature in self.features.items() if feature.kind == Feature.VECTOR and name not in made
        ]
        if lacking:
            raise ValueError(f"each VECTOR feature needs an encoder, received none for {', '.join(lacking)}.")
        self.rows_by_id = IdTable(assets["item_ids.txt"])
        self.id_rows = tf.Variable(id_rows, trainable=False, name="id_rows")
        self.tables = {feature.name: IdTable.of(feature, assets) for feature in schema.item if feature.vocabulary}
        self._model = Untracked(retrieval)
        width = self.features["attributes"].length if "attributes" in self.features else _UNREAD_WIDTH
        optional = {
            "description": tf.constant("", shape=[1]),
            "category": tf.constant("", shape=[1]),
            "brand": tf.constant("", shape=[1]),
            "attributes": tf.constant("", shape=[1, width]),
            "price": tf.constant(math.nan, shape=[1]),
            "image": tf.constant("", shape=[1]),
            "item_id": tf.constant("", shape=[1]),
        }
        self.functions = {
            "serving_default": signature(self.encode, {"title": tf.TensorSpec([None], tf.string)}, optional)
        }
        self.weights = read_weights(self.functions)

    def encode(self, title: tf.Tensor, **optional: tf.Tensor) -> Tensors:
        """embedding float32 [B, D]."""
        raw = whole_batch(optional, tf.shape(title)[0]) | {"title": title}
        rows = self.rows_by_id(raw["item_id"])
        id_rows = tf.gather(self.id_rows, tf.where(rows == PADDING, UNKNOWN, rows))
        features = {name: self._read(feature, raw) for name, feature in self.features.items() if name != BEHAVIOUR}
        if self.behaviour is not None:
            # The reserved rows know none.
            features[BEHAVIOUR] = tf.gather(self.behaviour, rows)
        model = self._model.value
        return {"embedding": model.project_items(model.item_encoder.encode(features, id_rows))}

    def _read(self, feature: Feature, raw: Tensors) -> tf.Tensor | Texts:
        """What the model takes for a feature of B products, of the inputs by name."""
        if feature.kind == Feature.NUMERIC:
            return normalised(raw[feature.name], feature.mean, feature.stddev)
        if feature.kind == Feature.VECTOR:
            encoder = self.encoders[feature.name]
            return encoder(raw[encoder.description.column])
        if feature.kind == Feature.TEXT:
            words = tokens(raw[feature.name], feature.length)
            flat, buckets = tf.reshape(words, [-1]), self._model.value.item_encoder.texts[feature.name].ngram_buckets
            places = tf.reshape(tf.range(tf.size(flat)), tf.shape(words))
            return Texts(self.tables[feature.name](flat), hashed_ngrams(flat, buckets), places)
        return self.tables[feature.name](values_of(feature, raw))


def values_of(feature: Feature, raw: Tensors) -> tf.Tensor:
    """Values of a CATEGORICAL feature of B products as `transform.vocabularies.feature_values` makes them.

    `raw`: inputs by name, [B]. Returns string [B, length], "" where there are fewer.
    """
    if feature.crossed:
        parts = [_part(name, feature, raw) for name in feature.crossed]
        whole = tf.reduce_all(tf.stack(parts) != "", axis=0)
        return tf.where(whole, tf.strings.join(parts, CROSS_SEPARATOR), "")[:, tf.newaxis]
    if feature.name == PRICE_BUCKET:
        return price_buckets(raw["price"], feature.boundaries)[:, tf.newaxis]
    return _LISTS.get(feature.name, single)(raw[feature.name], feature.length)


def _part(name: str, cross: Feature, raw: Tensors) -> tf.Tensor:
    """One of a cross's values, string [B]."""
    return price_buckets(raw["price"], cross.boundaries) if name == PRICE_BUCKET else raw[name]


def price_buckets(prices: tf.Tensor, boundaries: Sequence[float]) -> tf.Tensor:
    """Numbers of the buckets of prices, float32 [B] → string [B]; "" where a price is no number above 0."""
    places = tf.searchsorted(tf.constant(list(boundaries), tf.float32), prices, side="right")
    return tf.where(_is_price(prices), tf.strings.as_string(places), "")


def tokens(texts: tf.Tensor, length: int) -> tf.Tensor:
    """The first tokens of texts [B] as `transform.feature_schema.tokenize` makes them: string [B, length].

    A text is cut as `transform.content_faults.clean_content` cuts it.
    """
    texts = tf.strings.substr(texts, 0, TEXT_CHARACTERS, unit="UTF8_CHAR")
    # TensorFlow's `lower` takes a zero byte for the end of a text; for a tokeniser it is a separator like any other.
    for old, new in (("\x00", " "), *TOKEN_REWRITES):
        texts = tf.strings.regex_replace(texts, old, new)
    lowered = tf.strings.lower(texts, encoding="utf-8")
    split = tf.strings.split(tf.strings.regex_replace(lowered, TOKEN_PATTERN, " "))
    return split.to_tensor("", shape=[None, length])


def category_prefixes(paths: tf.Tensor, depth: int) -> tf.Tensor:
    """The paths to each level, root first: string [B] → [B, depth], "" below a path's end."""
    levels = tf.strings.split(paths, CATEGORY_SEPARATOR)
    names = tf.unstack(levels.to_tensor("", shape=[None, depth]), axis=1)
    prefixes = [names[0]]
    for name in names[1:]:
        prefixes.append(tf.strings.join([prefixes[-1], name], CATEGORY_SEPARATOR))
    present = tf.sequence_mask(levels.row_lengths(), depth)
    # A path deeper than `depth` has a mask of the same width.
    return tf.where(present[:, :depth], tf.stack(prefixes, axis=1), "")


def single(values: tf.Tensor, length: int) -> tf.Tensor:
    """Values [B] as lists of one: [B, 1]."""
    del length
    return values[:, tf.newaxis]


def normalised(values: tf.Tensor, mean: float, stddev: float) -> tf.Tensor:
    """(log(1 + x) − mean) / stddev of float32 [B] as float32 [B, 1]; NaN where x is no number above 0."""
    valid = _is_price(values)
    logs = tf.math.log1p(tf.cast(tf.where(valid, values, 0.0), tf.float64))
    result = tf.cast((logs - mean) / stddev, tf.float32)
    return tf.where(valid, result, math.nan)[:, tf.newaxis]


def _is_price(values: tf.Tensor) -> tf.Tensor:
    return tf.math.is_finite(values) & (values > 0)


def _as_they_are(values: tf.Tensor, length: int) -> tf.Tensor:
    del length
    return values


# How the values of a feature are found in its column; others hold one value.
_LISTS: dict[str, Callable[[tf.Tensor, int], tf.Tensor]] = {
    "category": category_prefixes,
    "attributes": _as_they_are,
}
