"""Product vectors for TensorBoard's embedding projector: vectors, metadata and a sheet of thumbnails."""

import logging
import math
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from pipeline.pictures import PictureError, thumbnail
from trainer.data import Catalogue, load_catalogue
from transform.tables import CATEGORY_SEPARATOR, FIRST

log = logging.getLogger(__name__)

# The projector draws in the browser and slows down above this.
MAX_PRODUCTS = 10_000
# Pixels. 100 thumbnails a side stay below TensorBoard's 8,192, and below 4,096, where the smallest browsers end.
THUMBNAIL = 40
_VECTORS, _METADATA, _SPRITE = "vectors.tsv", "metadata.tsv", "sprite.png"
_COLUMNS = ("title", "item_id", "department", "category", "price", "popularity")


def write_projector(transform_dir: Path, retrieval_dir: Path, log_dir: Path, max_products: int = MAX_PRODUCTS) -> int:
    """Writes the retrieval model's vectors of the most popular products to `log_dir`, a folder of its own.

    `tensorboard --logdir` on it, or on a folder above it, shows them. Returns the number of products written.
    """
    # Loads the models; the rest of this module is of use without them.
    from trainer.embedding_quality import vectors_of
    from trainer.retrieval import load_retrieval

    catalogue = load_catalogue(transform_dir)
    model = load_retrieval(retrieval_dir, catalogue)
    rows = most_popular(catalogue, max_products)
    write_vectors(log_dir, catalogue, rows, vectors_of(model.candidate_embeddings, rows))
    return len(rows)


def most_popular(catalogue: Catalogue, count: int) -> np.ndarray:
    """int32 rows of the `count` products with most interactions in the training span; ties by row."""
    order = np.argsort(-catalogue.train_counts[FIRST:], kind="stable")[:count]
    return (order + FIRST).astype(np.int32)


def write_vectors(log_dir: Path, catalogue: Catalogue, rows: np.ndarray, vectors: np.ndarray) -> None:
    """Writes float [N, D] vectors of the products at int32 [N] catalogue rows, with what is known about them.

    Raises:
        ValueError: the vectors do not match the rows, or are not finite.
    """
    if vectors.ndim != 2 or len(vectors) != len(rows):
        raise ValueError(f"projector: vectors must be [{len(rows)}, dim], received shape {vectors.shape}.")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        first = catalogue.item_ids[rows[~finite][0]]
        raise ValueError(f"projector: vectors must be finite, received NaN or infinity for product {first!r}.")
    log_dir.mkdir(parents=True, exist_ok=True)
    np.savetxt(log_dir / _VECTORS, vectors, fmt="%.5g", delimiter="\t")
    (log_dir / _METADATA).write_text(_metadata(catalogue, rows), encoding="utf-8")
    pictured = any(catalogue.images[row] for row in rows)
    if pictured:
        _sprite(catalogue, rows).save(log_dir / _SPRITE)
    # Last, because TensorBoard reads a folder as soon as it has this file.
    _write_config(log_dir, vectors.shape, pictured)
    _write_event(log_dir, len(rows), catalogue.size - FIRST)


def _metadata(catalogue: Catalogue, rows: np.ndarray) -> str:
    lines = ["\t".join(_COLUMNS)]
    for row in rows:
        path = catalogue.categories[row].split(CATEGORY_SEPARATOR)
        price = catalogue.prices[row]
        cells = (
            catalogue.titles[row] or catalogue.item_ids[row],
            catalogue.item_ids[row],
            path[0],
            path[-1],
            "" if math.isnan(price) else f"{price:.2f}",
            str(catalogue.train_counts[row]),
        )
        # A tab or a line break inside a title would shift every later product.
        lines.append("\t".join(" ".join(cell.split()) for cell in cells))
    return "\n".join(lines) + "\n"


def _sprite(catalogue: Catalogue, rows: np.ndarray) -> Image.Image:
    """Thumbnails in the order of `rows`, left to right, top to bottom, on a square sheet; empty where none."""
    side = math.ceil(math.sqrt(len(rows)))
    sheet = Image.new("RGB", (side * THUMBNAIL, side * THUMBNAIL), "white")
    pictured = unreadable = 0
    for place, row in enumerate(rows):
        if not catalogue.images[row]:
            continue
        pictured += 1
        try:
            picture = thumbnail(catalogue.images[row], THUMBNAIL)
        except PictureError:
            unreadable += 1
            continue
        sheet.paste(picture, (place % side * THUMBNAIL, place // side * THUMBNAIL))
    if unreadable:
        log.warning("projector: %d of %d pictures cannot be read and are left blank", unreadable, pictured)
    return sheet


def _write_config(log_dir: Path, shape: tuple[int, ...], with_sprite: bool) -> None:
    config = ProjectorConfig()
    embedding = config.embeddings.add(
        tensor_name="products", tensor_shape=shape, tensor_path=_VECTORS, metadata_path=_METADATA
    )
    if with_sprite:
        embedding.sprite.image_path = _SPRITE
        embedding.sprite.single_image_dim.extend([THUMBNAIL, THUMBNAIL])
    (log_dir / "projector_config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")


def _write_event(log_dir: Path, shown: int, products: int) -> None:
    """TensorBoard takes a folder for a run, and looks for projector files in it, only if it holds an event file."""
    for earlier in log_dir.glob("events.out.tfevents.*"):
        earlier.unlink()
    with tf.summary.create_file_writer(str(log_dir)).as_default():
        tf.summary.text("projector", f"The {shown:,} most popular of {products:,} products.", step=0)
