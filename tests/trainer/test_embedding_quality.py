"""The vectors that are measured are those of both stages' models, of available products."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.worlds import checkerboard_catalogue
from trainer.config import RankerConfig, RetrievalConfig
from trainer.data import Catalogue
from trainer.embedding_quality import measure_embeddings, vectors_of
from trainer.model_files import save_model
from trainer.ranker import Ranker
from trainer.retrieval import RetrievalModel
from transform.tables import FIRST


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """The last product is not available; models of both stages lie in `tmp_path`."""
    catalogue = checkerboard_catalogue()
    catalogue.available[-1] = False
    retrieval, ranker = RetrievalConfig(dim=8, history_length=6, heads=1), RankerConfig(dim=4, heads=1)
    save_model(tmp_path / "one", "retrieval", RetrievalModel(catalogue, retrieval), retrieval, catalogue.schema)
    save_model(tmp_path / "two", "ranker", Ranker(catalogue, ranker), ranker, catalogue.schema)
    return catalogue


def test_both_stages_are_measured_over_the_products_of_the_index(catalogue: Catalogue, tmp_path: Path) -> None:
    found = measure_embeddings(catalogue, tmp_path / "one", tmp_path / "two")
    available = range(FIRST, catalogue.size - 1)
    assert {stage: (part.products, part.dim) for stage, part in found.geometry.items()} == {
        "retrieval": (len(available), 8),
        "ranker": (len(available), 4),
    }
    assert 0 < found.geometry["retrieval"].isotropy < 1
    assert sorted(found.map_rows) == list(available)
    assert found.map_points.shape == (len(available), 2)


def test_a_catalogue_of_which_nothing_is_available_says_what_is_missing(catalogue: Catalogue, tmp_path: Path) -> None:
    catalogue.available[:] = False
    found = measure_embeddings(catalogue, tmp_path / "one", tmp_path / "two")
    assert found.geometry["retrieval"].reasons["isotropy"] == "0 products cannot fill 8 dimensions"
    assert len(found.map_points) == 0


def test_vectors_are_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.embedding_quality._ROWS_AT_ONCE", 3)
    rows = np.arange(7)
    found = vectors_of(lambda part: tf.stack([part, 2 * part], axis=1), rows)
    np.testing.assert_array_equal(found, np.stack([rows, 2 * rows], axis=1))
