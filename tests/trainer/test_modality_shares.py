"""Shares of modalities: what is not there has none, what alone turns the vector has it all."""

from dataclasses import replace

import numpy as np
import pytest

from protos.feature_schema_pb2 import Feature, FeatureSchema
from tests.trainer.worlds import checkerboard_catalogue
from trainer.catalogue_encoder import CatalogueEncoder
from trainer.config import ItemEncoderConfig
from trainer.data import Catalogue
from trainer.item_encoder import ItemEncoder
from trainer.modality_shares import measure_modality_shares
from transform.tables import FIRST

ROWS = np.arange(FIRST, 26)
BLACK = 3


def make_encoder(catalogue: Catalogue, fusion: str = "gate") -> CatalogueEncoder:
    return CatalogueEncoder(catalogue, ItemEncoder(catalogue.schema, ItemEncoderConfig(dim=8, fusion=fusion)))


def with_one_picture() -> Catalogue:
    catalogue = checkerboard_catalogue()
    schema = FeatureSchema()
    schema.CopyFrom(catalogue.schema)
    schema.item.append(Feature(name="image", kind=Feature.VECTOR, length=2))
    pictures = np.full((catalogue.size, 2), np.nan, np.float32)
    pictures[BLACK] = [3.0, -4.0]
    return replace(catalogue, schema=schema, features={**catalogue.features, "image": pictures})


@pytest.mark.parametrize("fusion", ["gate", "concatenation", "cross_attention"])
def test_shares_add_up_and_a_missing_picture_has_none(fusion: str) -> None:
    catalogue = with_one_picture()
    encoder = make_encoder(catalogue, fusion)
    assert encoder.item_encoder.modalities == ("id", "attributes", "title", "image")
    found = measure_modality_shares(encoder, catalogue, ROWS)
    assert sum(found.overall.values()) == pytest.approx(1.0)
    own = measure_modality_shares(encoder, catalogue, np.array([BLACK])).overall
    others = measure_modality_shares(encoder, catalogue, ROWS[ROWS != BLACK]).overall
    assert own["image"] > 0
    assert others["image"] < 1e-12


def test_new_products_owe_nothing_to_their_ids() -> None:
    found = measure_modality_shares(make_encoder(checkerboard_catalogue()), checkerboard_catalogue(), ROWS)
    assert found.by_popularity["new"]["id"] < 1e-12
    assert found.by_popularity["head"]["id"] > 0
    assert found.products["new"] == 2
    assert set(found.by_category) == {"black", "white"}


def test_ids_alone_have_it_all() -> None:
    catalogue = checkerboard_catalogue(content=False)
    assert measure_modality_shares(make_encoder(catalogue), catalogue, ROWS).overall == {"id": 1.0}
