"""Saved once for all tests of this folder, copied where a test needs versions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.model_config import model_configs_for
from serving.server import ModelServer
from tests.serving.models import Scaler, TinyRecommender, publish


@pytest.fixture(scope="session")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SavedModel with the signatures of a recommender."""
    return TinyRecommender().save(tmp_path_factory.mktemp("saved") / "recommender")


@pytest.fixture(scope="session")
def scaler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SavedModel of y = 2x."""
    return Scaler(2.0).save(tmp_path_factory.mktemp("saved") / "scaler")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, recommender: Path, scaler: Path) -> Iterator[ModelServer]:
    """Serves `recommender` version 1 and `scaler` version 1."""
    export = tmp_path_factory.mktemp("export")
    publish(recommender, export / "recommender", 1)
    publish(scaler, export / "scaler", 1)
    with ModelServer(model_configs_for(export), port=0) as running:
        running.wait_until_available(60)
        yield running
