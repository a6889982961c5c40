"""Measures the product vectors of both stages, and lays those of stage one out in the plane."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer.data import Catalogue
from trainer.embedding_geometry import Geometry, measure_geometry
from trainer.hash_order import hash_order
from trainer.modality_shares import ModalityShares, measure_modality_shares
from trainer.neighbour_map import neighbour_map
from trainer.rank_systems import RANKER, RETRIEVAL
from trainer.ranker import load_ranker
from trainer.retrieval import load_retrieval

_LOG = logging.getLogger(__name__)
# More points than these no eye tells apart, and the time of the layout grows with their square.
_MAP_PRODUCTS = 2_000
_MAP_SEED = 2
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Embeddings:
    """What was measured of one run's vectors."""

    geometry: dict[str, Geometry]  # by stage
    modalities: dict[str, ModalityShares]  # by stage
    map_rows: np.ndarray  # int64 [M] catalogue rows, in a chance order
    map_points: np.ndarray  # float64 [M, 2], within the unit square


def measure_embeddings(catalogue: Catalogue, retrieval_dir: Path, ranker_dir: Path) -> Embeddings:
    """The geometry of both stages' vectors of the available products (those that the index holds), and the map.

    The retrieval's vectors are those that the index compares, of norm 1; the ranker's are its fused item
    representations, as its scores read them.

    Raises:
        ModelFilesError: a model is missing or was trained on other data.
    """
    rows = np.flatnonzero(catalogue.available)
    retrieval, ranker = load_retrieval(retrieval_dir, catalogue), load_ranker(ranker_dir, catalogue)
    geometry, modalities, first = {}, {}, np.zeros((0, 0))
    models = ((RETRIEVAL, retrieval, retrieval.candidate_embeddings), (RANKER, ranker, ranker.item_vectors))
    for stage, model, encode in models:
        vectors = vectors_of(encode, rows)
        found = measure_geometry(vectors, catalogue.item_ids[rows], catalogue.categories[rows])
        _LOG.info("embedding quality, %s: %d products, isotropy %s", stage, found.products, found.isotropy)
        geometry[stage] = found
        modalities[stage] = measure_modality_shares(model.products, catalogue, rows)
        first = vectors if stage == RETRIEVAL else first
    drawn = hash_order(catalogue.item_ids[rows], _MAP_SEED)[:_MAP_PRODUCTS]
    return Embeddings(geometry, modalities, rows[drawn], neighbour_map(first[drawn]))


def vectors_of(encode: Callable[[tf.Tensor], tf.Tensor], rows: np.ndarray) -> np.ndarray:
    """Vectors of catalogue rows [N], a block at a time: float32 [N, dim]."""
    starts = range(0, max(1, len(rows)), _ROWS_AT_ONCE)
    blocks = [encode(tf.constant(rows[start : start + _ROWS_AT_ONCE], tf.int32)).numpy() for start in starts]
    return np.concatenate(blocks)
