"""Encoders of pictures and titles on a published fashion catalogue: do a product's neighbours share its category?"""

import argparse
import csv
import gzip
import json
import logging
import tarfile
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf

from benchmarks.machine import machine, table
from trainer.config import ContentConfig
from trainer.content_training import (
    ContentExamples,
    ContentModel,
    Titles,
    category_numbers,
    decoded_pictures,
    train_content,
)
from trainer.data import Words
from trainer.hash_order import hash_order
from transform.feature_schema import Vocabulary, tokenize
from transform.tables import FIRST

NEIGHBOURS = 10
_WORDS_OF_A_TITLE = 16
# Words of fewer training titles are unknown words.
_MIN_TITLES = 2
_ENCODED_AT_ONCE = 512
# Length of the picture's vector beside the title's; validation chooses.
_PICTURE_WEIGHTS = (0.2, 0.35, 0.5, 0.7, 1.0)


@dataclass(frozen=True)
class Shop:
    """Products with a picture that can be read, in a chance order that does not change."""

    item_ids: np.ndarray  # object [N]
    titles: np.ndarray  # object [N]
    pixels: np.ndarray  # uint8 [N, h, w, 3]
    sub_categories: np.ndarray  # object [N]
    article_types: np.ndarray  # object [N], the leaves

    def __len__(self) -> int:
        return len(self.item_ids)


def load_shop(data: Path, config: ContentConfig, limit: int) -> Shop:
    """The products of `data`, in a chance order that does not change.

    Args:
        data: holds products.csv.gz and images.tar.gz; `description` is the path of categories, then colour and use.
        config: size of the pictures.
        limit: the first of them; 0 = all.
    """
    with gzip.open(data / "products.csv.gz", "rt", encoding="utf-8", newline="") as lines:
        products = {row["product_id"]: row for row in csv.DictReader(lines)}
    files: dict[str, bytes] = {}
    with tarfile.open(data / "images.tar.gz") as archive:
        for member in archive:
            if member.isfile() and (content := archive.extractfile(member)) is not None:
                files[Path(member.name).stem] = content.read()
    ids = [item_id for item_id in products if item_id in files]
    ids = [ids[place] for place in hash_order(ids, 0)][: limit or None]
    pixels, present = decoded_pictures([files[item_id] for item_id in ids], config)
    paths = [products[item_id]["description"].split(" - ") for item_id in ids]

    def kept(values: list[str]) -> np.ndarray:
        return np.array(values, dtype=object)[present]

    return Shop(
        kept(ids),
        kept([products[item_id]["title"] for item_id in ids]),
        pixels[present],
        kept([path[1] for path in paths]),
        kept([path[2] for path in paths]),
    )


def examples_of(shop: Shop, train: slice) -> ContentExamples:
    """The whole shop, with words and categories of the training products."""
    counts = Counter(word for words in tokenize(pa.array(shop.titles[train].tolist())).to_pylist() for word in {*words})
    vocabulary = Vocabulary(sorted(word for word, count in counts.items() if count >= _MIN_TITLES))
    leaves = np.where(np.isin(shop.article_types, shop.article_types[train]), shop.article_types, "")
    categories, count = category_numbers(leaves)
    words = Words.of(shop.titles, vocabulary, _WORDS_OF_A_TITLE)
    return ContentExamples(shop.pixels, categories, count, words, FIRST + len(vocabulary.words))


def agreement(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Mean share of a product's nearest others (by cosine) that have its label; products without a vector are last."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argpartition(-similarity, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    return float((labels[nearest] == labels[:, np.newaxis]).mean())


def encoded(model: ContentModel, examples: ContentExamples, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Vectors of pictures and of titles, float32 [len(rows), dim] of norm 1."""
    titles = Titles(examples.words)
    image = tf.function(model.image_vectors, reduce_retracing=True, autograph=False)
    blocks = [rows[start : start + _ENCODED_AT_ONCE] for start in range(0, len(rows), _ENCODED_AT_ONCE)]
    pictures = np.concatenate([image(tf.constant(examples.pixels[block])).numpy() for block in blocks])
    texts = np.concatenate([model.title_vectors(titles.batch(block)).numpy() for block in blocks])
    return {"picture": pictures, "title": texts}


def joint(vectors: dict[str, np.ndarray], picture_weight: float) -> np.ndarray:
    """Both vectors end to end, the picture's of length `picture_weight`; of norm 1."""
    both = np.concatenate([picture_weight * vectors["picture"], vectors["title"]], axis=1)
    return both / np.linalg.norm(both, axis=1, keepdims=True)


def main() -> None:
    """Prints the tables of benchmarks/README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with products.csv.gz and images.tar.gz")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--products", type=int, default=0, help="fewer, for a quick look; 0 = all")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("trainer").setLevel(logging.INFO)
    config = replace(ContentConfig(), epochs=given.epochs)
    shop = load_shop(given.data, config, given.products)
    train, validation = int(0.8 * len(shop)), int(0.9 * len(shop))
    examples = examples_of(shop, slice(0, train))
    held_out = np.zeros(validation, bool)
    held_out[train:] = True
    words = examples.words
    seen = replace(
        examples,
        pixels=examples.pixels[:validation],
        categories=examples.categories[:validation],
        words=Words(words.strings, words.ids, words.places[:validation]),
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        model, epochs = train_content(seen, shop.item_ids[:validation], config, Path(folder), held_out)
    seconds = time.monotonic() - started
    chosen, rows = 1.0, []
    for name, span in (("validation", np.arange(train, validation)), ("held out", np.arange(validation, len(shop)))):
        found = encoded(model, examples, span)
        if name == "validation":
            leaves = shop.article_types[span]
            chosen = max(_PICTURE_WEIGHTS, key=lambda weight: agreement(joint(found, weight), leaves))
        found |= {f"both, picture × {weight:g}": joint(found, weight) for weight in sorted({chosen, 1.0})}
        for kind, vectors in found.items():
            leaf, sub = (agreement(vectors, labels[span]) for labels in (shop.article_types, shop.sub_categories))
            rows.append([name, kind, f"{leaf:.3f}", f"{sub:.3f}"])
    print(machine())
    print(json.dumps({"products": len(shop), "seconds": round(seconds), "epochs": len(epochs)}))
    print(table(["products", f"{NEIGHBOURS} nearest by", "same article type", "same sub-category"], rows))


if __name__ == "__main__":
    main()
