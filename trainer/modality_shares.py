"""What the vectors of products owe to each modality: id, text, picture, attributes, behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from protos.feature_schema_pb2 import Feature
from trainer.catalogue_encoder import CatalogueEncoder
from trainer.data import Catalogue
from trainer.item_encoder import ATTRIBUTE_KINDS, ATTRIBUTES, ID, Features
from trainer.segments import POPULARITY_CLASSES, popularity_classes
from trainer.text_encoder import Texts
from transform.tables import BEHAVIOUR, CATEGORY_SEPARATOR, PADDING, UNKNOWN

# Products of a category that have a line of their own, and the most such lines.
_MINIMUM = 5
_LARGEST = 20
_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class ModalityShares:
    """Mean shares of groups of products: group → modality → share, adding up to 1; and how many each group has."""

    overall: dict[str, float]
    by_popularity: dict[str, dict[str, float]]
    by_category: dict[str, dict[str, float]]
    products: dict[str, int]


def measure_modality_shares(products: CatalogueEncoder, catalogue: Catalogue, rows: np.ndarray) -> ModalityShares:
    """How far a product's vector turns where a modality is taken away, as a share of all such turns.

    turn_m = 1 − cos(vector, vector without m), share_m = turn_m / Σ turns: occlusion (Zeiler and Fergus 2014), which
    asks any fusion the same question. A modality that the product lacks has 0. Ids are taken away as training hides
    them, together with behaviour that only they have.

    Args:
        products: the encoder.
        catalogue: for popularity and the uppermost categories.
        rows: int [N] catalogue rows.
    """
    starts = range(0, max(1, len(rows)), _ROWS_AT_ONCE)
    shares = np.concatenate([_shares(products, catalogue, rows[start : start + _ROWS_AT_ONCE]) for start in starts])
    names = products.item_encoder.modalities

    def means(chosen: np.ndarray) -> dict[str, float]:
        mean = shares[chosen].sum(axis=0) / max(1, chosen.sum())
        return dict(zip(names, mean.tolist(), strict=True))

    classes = popularity_classes(catalogue.train_counts)[rows]
    tops = np.array([path.split(CATEGORY_SEPARATOR)[0] for path in catalogue.categories[rows]], dtype=object)
    known, counts = np.unique(tops[tops != ""].astype(str), return_counts=True)
    largest = known[np.argsort(-counts, kind="stable")][:_LARGEST]
    groups: Mapping[str, np.ndarray] = {str(top): tops == top for top in largest}
    categories = {name: group for name, group in groups.items() if group.sum() >= _MINIMUM}
    popularity = {name: classes == place for place, name in enumerate(POPULARITY_CLASSES) if (classes == place).any()}
    return ModalityShares(
        means(np.ones(len(rows), bool)),
        {name: means(group) for name, group in popularity.items()},
        {name: means(group) for name, group in categories.items()},
        {name: int(group.sum()) for name, group in {**popularity, **categories}.items()},
    )


def _shares(products: CatalogueEncoder, catalogue: Catalogue, rows: np.ndarray) -> np.ndarray:
    """Of products [N]: float64 [N, modalities]; where no modality turns anything, the id has it all."""
    encoder = products.item_encoder
    features, id_rows = products.features(tf.constant(rows, tf.int32)), tf.constant(catalogue.id_rows[rows], tf.int32)
    whole = encoder.encode(features, id_rows)
    turns = [
        1.0 - _cosines(whole, encoder.encode(without(features, encoder.item_features, name), _ids(id_rows, name)))
        for name in encoder.modalities
    ]
    found = np.maximum(np.stack(turns, axis=1), 0.0)
    total = found.sum(axis=1, keepdims=True)
    alone = np.zeros_like(found)
    alone[:, encoder.modalities.index(ID)] = 1.0
    return np.where(total > 0, found / np.where(total > 0, total, 1.0), alone)


def without(features: Features, kinds: tuple[tuple[str, "Feature.Kind"], ...], modality: str) -> Features:
    """Features of products of which a modality is not known.

    Args:
        features: of N products of a catalogue, whose words begin with the one that is none.
        kinds: name and kind of each feature.
        modality: as `ItemEncoder.modalities` names it.
    """
    changed = dict(features)
    for name, kind in kinds:
        member = modality == (ATTRIBUTES if kind in ATTRIBUTE_KINDS else name)
        if not member and not (modality == ID and name == BEHAVIOUR):
            continue
        values = features[name]
        if isinstance(values, Texts):
            changed[name] = values._replace(places=tf.zeros_like(values.places))
        elif values.dtype.is_floating:
            changed[name] = tf.fill(tf.shape(values), np.nan)
        else:
            changed[name] = tf.fill(tf.shape(values), PADDING)
    return changed


def _ids(id_rows: tf.Tensor, modality: str) -> tf.Tensor:
    return tf.fill(tf.shape(id_rows), UNKNOWN) if modality == ID else id_rows


def _cosines(one: tf.Tensor, other: tf.Tensor) -> np.ndarray:
    one, other = (tf.math.l2_normalize(tf.cast(vectors, tf.float64), axis=1) for vectors in (one, other))
    return tf.reduce_sum(one * other, axis=1).numpy()
