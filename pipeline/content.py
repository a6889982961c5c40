"""The step embed-content: encoders of pictures and sentences, and the catalogue with their vectors."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trainer.config import ContentConfig
from trainer.content_encoders import (
    CONTENT_FOLDER,
    ContentEncoder,
    image_settings,
    load_encoders,
    load_image_backbone,
    load_sentence_backbone,
    read_descriptions,
    save_image_encoder,
    save_sentence_encoder,
    sentence_settings,
    write_descriptions,
)
from trainer.content_training import (
    ContentExamples,
    category_numbers,
    decoded_pictures,
    describe,
    train_content,
)
from trainer.data import Catalogue, Words, load_catalogue
from trainer.hash_order import hash_order
from trainer.queries import load_split
from transform.catalogue_vectors import VectorEncoder, write_vectors
from transform.feature_schema import id_count
from transform.tables import FIRST

log = logging.getLogger(__name__)

_TRAINING = "training"
TRAINED_HERE = "trained here"


def embed_content(
    transform_dir: Path, output: Path, config: ContentConfig, previous: Path | None, pictures: bool = True
) -> None:
    """Writes the catalogue of the transform with a vector for each picture, and for each title where asked.

    Where there is nothing to encode or to learn an encoder from, the catalogue is linked as it is. A killed training
    goes on from its last epoch.

    Args:
        transform_dir: output of the transform.
        output: gets a catalogue directory of the same form, and the encoders under `content/`.
        config: of the encoders.
        previous: this step's output in an earlier run whose models a warm start goes on from: their weights read the
            vectors of that run's encoders, which are therefore kept.
        pictures: whether the models read them.

    Raises:
        ContentError: a pre-trained encoder cannot be used.
        TrainingError: the training's loss is no number any more.
        DataError, DamagedRecordError: the transform's output is damaged.
    """
    catalogue = load_catalogue(transform_dir)
    if pictures and any(catalogue.images):
        if not (_made(output, "image") or _kept(previous, output, "image", image_settings(config))):
            _make_image_encoder(catalogue, transform_dir, output, config)
    elif config.image_encoder:
        log.info("content: content.image_encoder is not used: no product has a picture that the models may read")
    if config.text_encoder:
        _make_sentence_encoder(output, config, config.text_encoder, previous)
    counts = write_vectors(transform_dir, output, vector_encoders(load_encoders(output)))
    for name, count in counts.items():
        log.info("content: %d of %d products have a vector of their %s", count, catalogue.size - FIRST, name)
    if not counts:
        log.info("content: no vectors, the catalogue stays as it is")


def vector_encoders(encoders: Mapping[str, ContentEncoder]) -> dict[str, VectorEncoder]:
    """Encoders as the transform takes them, which knows nothing of models."""
    return {
        name: VectorEncoder(encoder.description.column, encoder.description.dim, encoder.vectors)
        for name, encoder in encoders.items()
    }


def _made(output: Path, feature: str) -> bool:
    """Whether an attempt that was killed had come so far."""
    return any(description.feature == feature for description in read_descriptions(output))


def _kept(previous: Path | None, output: Path, feature: str, settings: dict[str, int | str | None]) -> bool:
    """Whether an earlier run has the encoder, which is then copied."""
    if previous is None:
        return False
    found = {description.feature: description for description in read_descriptions(previous)}
    if feature not in found:
        return False
    if found[feature].settings != settings:
        log.info("content: the earlier run's encoder of %s has other settings, and is made anew", feature)
        return False
    place = Path(CONTENT_FOLDER) / feature
    shutil.copytree(previous / place, output / place, dirs_exist_ok=True)
    write_descriptions(output, [*read_descriptions(output), found[feature]])
    log.info("content: the encoder of %s is that of the earlier run", feature)
    return True


def _make_image_encoder(catalogue: Catalogue, transform_dir: Path, output: Path, config: ContentConfig) -> None:
    if config.image_encoder:
        backbone, parts = load_image_backbone(config.image_encoder, config.image_height, config.image_width)
        save_image_encoder(output, backbone, parts, config.image_encoder, config)
        return
    rows = _learned_from(catalogue, load_split(transform_dir).validation_start, config)
    pixels, present = decoded_pictures([catalogue.images[row] for row in rows], config)
    rows, pixels = rows[present], pixels[present]
    categories, count = category_numbers(catalogue.categories[rows])
    words = catalogue.words.get("title")
    size = next((id_count(feature) for feature in catalogue.schema.item if feature.name == "title"), 0)
    examples = ContentExamples(
        pixels,
        categories,
        count,
        None if words is None else Words(words.strings, words.ids, words.places[rows]),
        size,
    )
    if len(examples) < 2 or not examples.can_teach:
        log.info(
            "content: pictures are not used: of the products known before validation %d have one that can be read, "
            "in %d categories",
            *(len(examples), count),
        )
        return
    log.info("content: learning to read pictures from %d products, %d categories", len(examples), count)
    folder = output / CONTENT_FOLDER / _TRAINING
    model, epochs = train_content(examples, catalogue.item_ids[rows], config, folder)
    save_image_encoder(output, lambda pixels: model.image(pixels, training=False), [model.image], TRAINED_HERE, config)
    shutil.rmtree(folder / "checkpoints")
    (folder / "kept_epoch.json").write_text(json.dumps(describe(epochs), indent=2) + "\n", encoding="utf-8")


def _make_sentence_encoder(output: Path, config: ContentConfig, path: str, previous: Path | None) -> None:
    if not (_made(output, "sentence") or _kept(previous, output, "sentence", sentence_settings(config))):
        backbone, parts = load_sentence_backbone(path)
        save_sentence_encoder(output, backbone, parts, path, config)


def _learned_from(catalogue: Catalogue, validation_start: int | None, config: ContentConfig) -> np.ndarray:
    """Rows of products with a picture that were known in the training span, drawn by a hash of their ids."""
    known = np.arange(catalogue.size) >= FIRST
    if validation_start is not None:
        known &= (catalogue.known_from < validation_start) | (catalogue.train_counts > 0)
    known &= np.array([bool(image) for image in catalogue.images])
    rows = np.flatnonzero(known)
    return np.sort(rows[hash_order(catalogue.item_ids[rows], config.seed)[: config.products]])
