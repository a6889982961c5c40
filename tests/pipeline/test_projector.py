"""The embedding projector, read back by TensorBoard's own plugin."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from werkzeug.test import Client

from pipeline.projector import MAX_PRODUCTS, THUMBNAIL, most_popular, write_vectors
from protos.feature_schema_pb2 import FeatureSchema
from trainer.data import Catalogue


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def shop(images: bool = True) -> Catalogue:
    """Three products: a red jacket (5 interactions), a product known by id only (9), a blue pot (0)."""
    return Catalogue(
        schema=FeatureSchema(catalogue_size=5),
        item_ids=np.array(["", "\x01", "jacket", "ghost", "pot"], dtype=object),
        id_rows=np.array([0, 1, 3, 2, 1], np.int32),
        features={},
        train_counts=np.array([0, 0, 5, 9, 0]),
        known_from=np.zeros(5, np.int64),
        available=np.ones(5, bool),
        titles=np.array(["", "", "Red\tjacket\n", "", "Blue pot"], dtype=object),
        categories=np.array(["", "", "Clothes > Jackets", "", "Kitchen"], dtype=object),
        prices=np.array([np.nan, np.nan, 49.5, np.nan, 12], np.float32),
        images=[b"", b"", picture("red"), b"", picture("blue")] if images else [b""] * 5,
    )


VECTORS = np.array([[1, 0], [0.25, -0.5], [0, 1]], np.float32)
ROWS = np.array([3, 2, 4], np.int32)


def ask(logdir: Path, route: str, **query: str) -> bytes:
    """What TensorBoard's projector plugin answers for the log folder."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(logdir))
    context = base_plugin.TBContext(logdir=str(logdir), data_provider=provider, multiplexer=multiplexer)
    response = Client(ProjectorPlugin(context).get_plugin_apps()[route]).get(route, query_string=query)
    assert response.status_code == 200, response.data
    return response.data


def test_tensorboard_finds_the_run_below_the_log_folder(tmp_path: Path) -> None:
    write_vectors(tmp_path / "projector", shop(), ROWS, VECTORS)
    assert json.loads(ask(tmp_path, "/runs")) == ["projector"]


def test_tensorboard_reads_the_vectors_back(tmp_path: Path) -> None:
    write_vectors(tmp_path / "projector", shop(), ROWS, VECTORS)
    received = np.frombuffer(ask(tmp_path, "/tensor", run="projector", name="products"), np.float32)
    np.testing.assert_allclose(received.reshape(3, 2), VECTORS)


def test_metadata_has_one_line_per_product_whatever_its_title(tmp_path: Path) -> None:
    write_vectors(tmp_path / "projector", shop(), ROWS, VECTORS)
    lines = ask(tmp_path, "/metadata", run="projector", name="products").decode().splitlines()
    assert lines == [
        "title\titem_id\tdepartment\tcategory\tprice\tpopularity",
        "ghost\tghost\t\t\t\t9",
        "Red jacket\tjacket\tClothes\tJackets\t49.50\t5",
        "Blue pot\tpot\tKitchen\tKitchen\t12.00\t0",
    ]


def test_sprite_holds_the_pictures_in_the_order_of_the_vectors(tmp_path: Path) -> None:
    write_vectors(tmp_path / "projector", shop(), ROWS, VECTORS)
    sheet = Image.open(io.BytesIO(ask(tmp_path, "/sprite_image", run="projector", name="products")))
    # Two thumbnails a side: no picture, red; blue, unused.
    assert sheet.size == (80, 80)
    assert [sheet.getpixel(at) for at in ((20, 20), (60, 20), (20, 60))] == [(255, 255, 255), (255, 0, 0), (0, 0, 255)]


def test_picture_that_cannot_be_read_is_a_blank_tile_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue = shop()
    catalogue.images[2] = b"no picture"
    write_vectors(tmp_path / "projector", catalogue, ROWS, VECTORS)
    sheet = Image.open(tmp_path / "projector" / "sprite.png")
    assert [sheet.getpixel(at) for at in ((60, 20), (20, 60))] == [(255, 255, 255), (0, 0, 255)]
    assert "1 of 2 pictures cannot be read and are left blank" in caplog.text


def test_sheet_of_all_products_stays_below_the_limit_of_tensorboard() -> None:
    # TensorBoard takes at most 8,192 pixels a side, many browsers 4,096.
    assert math.ceil(math.sqrt(MAX_PRODUCTS)) * THUMBNAIL <= 4_096


def test_shop_without_pictures_has_no_sprite(tmp_path: Path) -> None:
    write_vectors(tmp_path / "projector", shop(images=False), ROWS, VECTORS)
    assert not (tmp_path / "projector" / "sprite.png").exists()
    assert "sprite" not in json.loads(ask(tmp_path, "/info", run="projector"))["embeddings"][0]


def test_most_popular_come_first_and_ties_keep_the_row_order() -> None:
    assert most_popular(shop(), 2).tolist() == [3, 2]


def test_writing_again_replaces_the_earlier_run(tmp_path: Path) -> None:
    write_vectors(tmp_path / "projector", shop(), ROWS, VECTORS)
    write_vectors(tmp_path / "projector", shop(), ROWS[:1], VECTORS[:1])
    assert json.loads(ask(tmp_path, "/info", run="projector"))["embeddings"][0]["tensorShape"] == [1, 2]
    assert len(list((tmp_path / "projector").glob("events.out.tfevents.*"))) == 1


def test_wrong_number_of_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vectors must be \[3, dim\], received shape \(2, 2\)"):
        write_vectors(tmp_path, shop(), ROWS, VECTORS[:2])


def test_vector_that_is_not_finite_is_refused_with_the_product(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be finite, received NaN or infinity for product 'pot'"):
        write_vectors(tmp_path, shop(), ROWS, np.array([[0, 1], [1, 0], [np.nan, 0]], np.float32))
