"""Trains the encoder of pictures from the catalogue itself: by the products' categories and by their titles."""

import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from trainer.config import ContentConfig
from trainer.data import Words
from trainer.errors import TrainingError
from trainer.hash_order import hash_order
from trainer.image_encoder import decode_pictures, make_image_encoder
from trainer.loop import make_deterministic
from trainer.text_encoder import TextEncoder, Texts, has_words, vocabulary_ngrams

_LOG = logging.getLogger(__name__)

HISTORY_FILE = "history.json"
# Share of the products that judge an epoch and teach nothing.
_HELD_OUT_SHARE = 0.1
_NGRAM_BUCKETS = 8_192
_DECODED_AT_ONCE = 1_024
# CLIP's (Radford et al. 2021): where the temperature starts, and the largest factor that it may become.
_FIRST_TEMPERATURE = 0.07
_LARGEST_SCALE = 100.0
# Largest shift of a picture in training, as a part of its sides.
_SHIFT = 1 / 12
_NEVER = -1e9
_NO_CATEGORY = -1


@dataclass(frozen=True)
class ContentExamples:
    """Products with pictures, and what else is known of them."""

    pixels: np.ndarray  # uint8 [N, h, w, 3]
    categories: np.ndarray  # int32 [N] number of the leaf category, −1 = unknown
    category_count: int
    words: Words | None  # titles of the N products; None: the shop has none
    word_count: int  # ids of words, the reserved ones included

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def can_teach(self) -> bool:
        """Whether there is anything to learn from: two categories, or titles."""
        return self.category_count > 1 or (self.words is not None and bool((self.words.places > 0).any()))


@dataclass(frozen=True)
class ContentEpoch:
    """What is known of an epoch when it ends."""

    epoch: int  # from 1
    loss: float  # nats, mean over the epoch's steps
    held_out_loss: float  # nats
    held_out_accuracy: float | None  # of the category from the picture; None where there are no categories
    held_out_matches: float | None  # share of pictures whose own title is the nearest of its batch; None: no titles
    seconds: float


class ContentModel(tf_keras.Model):
    """Pictures and titles as vectors in one space, learned by two terms, each where the data has it.

    Category: cross-entropy of the leaf category from the picture's vector, the title's and their sum. Contrast: CLIP's
    symmetric InfoNCE (Radford et al. 2021, "Learning transferable visual models from natural language supervision"):
    among the titles of the batch the picture finds its own, and the other way round.

    Attributes:
        image: pixels in [0, 1] → vectors that are not normalised.
        title: texts → vectors that are not normalised; None without titles.
    """

    def __init__(self, examples: ContentExamples, config: ContentConfig) -> None:
        """Args:
        examples: numbers of categories and words.
        config: sizes and weights.
        """
        super().__init__(name="content")
        self.config = config
        self.image = make_image_encoder(config.image_height, config.image_width, config.image_dim)
        self.title: TextEncoder | None = None
        if examples.words is not None:
            self.title = TextEncoder(examples.word_count, config.image_dim, _NGRAM_BUCKETS, "title")
        self.category_count = examples.category_count
        self.log_scale = self.add_weight(
            "log_scale", (), initializer=tf_keras.initializers.Constant(-math.log(_FIRST_TEMPERATURE))
        )
        self.category_scale = self.add_weight(
            "log_category_scale", (), initializer=tf_keras.initializers.Constant(-math.log(_FIRST_TEMPERATURE))
        )
        self.categories = self.add_weight("categories", (max(1, examples.category_count), config.image_dim))

    def image_vectors(self, pixels: tf.Tensor, training: bool = False) -> tf.Tensor:
        """uint8 [B, h, w, 3] → float32 [B, dim] of norm 1."""
        return tf.math.l2_normalize(self.image(tf.cast(pixels, tf.float32) / 255.0, training=training), axis=1)

    def title_vectors(self, texts: Texts) -> tf.Tensor:
        """float32 [N, dim] of norm 1, zero where there is no word.

        Raises:
            ValueError: the model was made without titles.
        """
        if self.title is None:
            raise ValueError("title_vectors needs a model that was made with titles, received one without.")
        return tf.math.l2_normalize(self.title(texts), axis=1)

    def losses_of(self, images: tf.Tensor, categories: tf.Tensor, texts: Texts | None) -> dict[str, tf.Tensor]:
        """Sums over a batch and what they are sums of: loss (a mean, in nats), and for each term hits and count."""
        found: dict[str, tf.Tensor] = {"loss": tf.constant(0.0)}
        if self.category_count > 1:
            known = tf.cast(categories != _NO_CATEGORY, tf.float32)
            loss, hits = self._category_loss(images, categories, known)
            found |= {"category_hits": hits, "category_count": tf.reduce_sum(known)}
            if texts is not None:
                titles, worded = self.title_vectors(texts), known * tf.cast(has_words(texts), tf.float32)
                together = tf.math.l2_normalize(images + titles, axis=1)
                others = [self._category_loss(vectors, categories, worded)[0] for vectors in (titles, together)]
                loss = (loss + others[0] + others[1]) / 3.0
            found["loss"] += self.config.category_weight * loss
        if texts is not None:
            loss, hits, count = self._contrast(images, self.title_vectors(texts), tf.cast(has_words(texts), tf.float32))
            found |= {"title_hits": hits, "title_count": count}
            found["loss"] += self.config.contrast_weight * loss
        return found

    def _category_loss(
        self, vectors: tf.Tensor, categories: tf.Tensor, weight: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        scale = tf.minimum(tf.exp(self.category_scale), _LARGEST_SCALE)
        logits = scale * tf.matmul(vectors, tf.math.l2_normalize(self.categories, axis=1), transpose_b=True)
        labels = tf.maximum(categories, 0)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        hit = tf.cast(tf.argmax(logits, axis=1, output_type=tf.int32) == labels, tf.float32)
        return tf.reduce_sum(losses * weight) / tf.maximum(tf.reduce_sum(weight), 1.0), tf.reduce_sum(hit * weight)

    def _contrast(
        self, images: tf.Tensor, titles: tf.Tensor, worded: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Loss, pictures whose own title is the nearest, and pictures with a title."""
        scale = tf.minimum(tf.exp(self.log_scale), _LARGEST_SCALE)
        logits = scale * tf.matmul(images, titles, transpose_b=True) + _NEVER * (1.0 - worded)
        back = scale * tf.matmul(titles, images, transpose_b=True) + _NEVER * (1.0 - worded)
        own = tf.range(tf.shape(images)[0])
        losses = [tf.nn.sparse_softmax_cross_entropy_with_logits(own, each) for each in (logits, back)]
        count = tf.reduce_sum(worded)
        hits = tf.cast(tf.argmax(logits, axis=1, output_type=tf.int32) == own, tf.float32)
        loss = tf.reduce_sum((losses[0] + losses[1]) / 2.0 * worded) / tf.maximum(count, 1.0)
        return loss, tf.reduce_sum(hits * worded), count


def decoded_pictures(images: list[bytes], config: ContentConfig) -> tuple[np.ndarray, np.ndarray]:
    """All pictures, uint8 [N, h, w, 3], and bool [N]: it could be read."""
    decode = tf.function(
        lambda files: decode_pictures(files, config.image_height, config.image_width),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )
    pixels = np.zeros([len(images), config.image_height, config.image_width, 3], np.uint8)
    present = np.zeros(len(images), bool)
    for start in range(0, len(images), _DECODED_AT_ONCE):
        block = slice(start, start + _DECODED_AT_ONCE)
        pixels[block], present[block] = (part.numpy() for part in decode(tf.constant(images[block], tf.string)))
    return pixels, present


def category_numbers(leaves: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers of categories, object [N] ("" = unknown): int32 [N] from 0, −1 for what has none, and how many."""
    names, numbers = np.unique(leaves.astype(str), return_inverse=True)
    if len(names) and names[0] == "":
        return (numbers - 1).astype(np.int32), len(names) - 1
    return numbers.astype(np.int32), len(names)


class Titles:
    """The titles of a batch, with what is the same for every batch done once."""

    def __init__(self, words: Words) -> None:
        self._ids = words.ids
        self._places = words.places
        self._ngrams = vocabulary_ngrams(words.strings, _NGRAM_BUCKETS).numpy()

    def batch(self, rows: np.ndarray) -> Texts:
        """Texts of those products; the words of a batch only."""
        used, places = np.unique(self._places[rows], return_inverse=True)
        # A number of words that seldom changes is traced once.
        padded = np.zeros(-(-len(used) // 256) * 256, np.int32)
        padded[: len(used)] = used
        return Texts(
            tf.constant(self._ids[padded]),
            tf.constant(self._ngrams[padded]),
            tf.constant(places.reshape(len(rows), -1).astype(np.int32)),
        )


def train_content(
    examples: ContentExamples,
    names: np.ndarray,
    config: ContentConfig,
    output: Path,
    held_out: np.ndarray | None = None,
) -> tuple[ContentModel, list[ContentEpoch]]:
    """A trained model as it was after the epoch with the lowest held-out loss.

    A killed training goes on from its last epoch where `output` is the same; the same seed gives the same weights.

    Args:
        examples: at least two products.
        names: object [N], by whose hash the products are held out.
        config: of the training.
        output: folder for checkpoints and history.json.
        held_out: bool [N], products that judge; None: a tenth, by the hash.

    Raises:
        TrainingError: there is nothing to learn from, or the loss is no number any more.
    """
    if not examples.can_teach or len(examples) < 2:
        raise TrainingError(
            f"training an encoder of pictures needs two products with two categories, or with titles; received "
            f"{len(examples)} products, {examples.category_count} categories. Leave image out of "
            "transform.content_features."
        )
    if held_out is None:
        held_out = np.zeros(len(examples), bool)
        held_out[hash_order(names, config.seed)[: int(len(examples) * _HELD_OUT_SHARE)]] = True
    make_deterministic(config.seed)
    model = ContentModel(examples, config)
    training = _Training(model, examples, config, np.flatnonzero(~held_out), np.flatnonzero(held_out))
    return model, training.run(output)


class _Training:
    """The epochs of one training."""

    def __init__(
        self,
        model: ContentModel,
        examples: ContentExamples,
        config: ContentConfig,
        taught: np.ndarray,
        judging: np.ndarray,
    ) -> None:
        self._model = model
        self._examples = examples
        self._config = config
        self._taught = taught
        # A shop of a handful of products is judged by what it learned from.
        self._judging = judging if len(judging) > 1 else taught
        self._titles = None if examples.words is None else Titles(examples.words)
        self._batch = min(config.batch_size, len(taught))
        self._steps = len(taught) // self._batch
        rate = tf_keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0,
            decay_steps=max(1, config.epochs * self._steps - self._warmup),
            warmup_target=config.learning_rate,
            warmup_steps=self._warmup,
        )
        self._optimizer = tf_keras.optimizers.AdamW(rate, weight_decay=config.weight_decay)
        self._optimizer.exclude_from_weight_decay(var_names=["log_", "gamma", "beta", "bias"])
        # Made before the first trace, so that a checkpoint can be put in their place.
        self._evaluate_batch(self._judging[:2])
        self._optimizer.build(model.trainable_variables)
        self._train_step = tf.function(self._step, autograph=False, reduce_retracing=True)
        self._evaluate_step = tf.function(self._losses, autograph=False, reduce_retracing=True)

    @property
    def _warmup(self) -> int:
        """An epoch, but not more than a fifth of the training."""
        return max(1, round(self._steps * min(1.0, self._config.epochs / 5)))

    def run(self, output: Path) -> list[ContentEpoch]:
        record = tf.Variable("[]", trainable=False)
        checkpoint = tf.train.Checkpoint(model=self._model, optimizer=self._optimizer, record=record)
        manager = tf.train.CheckpointManager(checkpoint, str(output / "checkpoints"), max_to_keep=1)
        best_path = str(output / "checkpoints" / "best")
        if manager.latest_checkpoint:
            checkpoint.restore(manager.latest_checkpoint).assert_existing_objects_matched()
        epochs = [ContentEpoch(**values) for values in json.loads(record.numpy())]
        while len(epochs) < self._config.epochs and not self._out_of_patience(epochs):
            epochs.append(self._epoch(len(epochs) + 1))
            if _best(epochs) is epochs[-1]:
                tf.train.Checkpoint(model=self._model).write(best_path)
            record.assign(json.dumps([asdict(epoch) for epoch in epochs]))
            manager.save(checkpoint_number=len(epochs))
        tf.train.Checkpoint(model=self._model).read(best_path).assert_existing_objects_matched()
        history = [asdict(epoch) for epoch in epochs]
        (output / HISTORY_FILE).write_text(json.dumps(history, indent=2) + "\n", encoding="utf-8")
        return epochs

    def _out_of_patience(self, epochs: list[ContentEpoch]) -> bool:
        return bool(epochs) and len(epochs) - _best(epochs).epoch >= self._config.patience

    def _epoch(self, number: int) -> ContentEpoch:
        started = time.monotonic()
        generator = np.random.default_rng([self._config.seed, number])
        order = generator.permutation(self._taught)
        total, told = 0.0, started
        for step in range(self._steps):
            rows = order[step * self._batch : (step + 1) * self._batch]
            loss = self._train_step(*self._inputs(rows), tf.constant(generator.integers(0, 2**31, 2), tf.int32))
            total += float(loss)
            if not math.isfinite(total):
                raise TrainingError(
                    f"the loss of the picture encoder became {float(loss)} in epoch {number}; lower "
                    f"content.learning_rate, received {self._config.learning_rate}."
                )
            if time.monotonic() - told > 20:
                told = time.monotonic()
                _LOG.info(
                    "pictures: epoch %d, step %d of %d, loss %.3f", number, step + 1, self._steps, total / (step + 1)
                )
        judged = self._judge()
        epoch = ContentEpoch(number, total / self._steps, *judged, round(time.monotonic() - started, 3))
        _LOG.info(
            "pictures: epoch %d of %d, loss %.3f; held out: loss %.3f, categories %s, titles %s; %.0f s",
            *(number, self._config.epochs, epoch.loss, epoch.held_out_loss),
            *(_share(epoch.held_out_accuracy), _share(epoch.held_out_matches), epoch.seconds),
        )
        return epoch

    def _judge(self) -> tuple[float, float | None, float | None]:
        sums: dict[str, float] = {}
        for start in range(0, len(self._judging), self._config.batch_size):
            rows = self._judging[start : start + self._config.batch_size]
            found = self._evaluate_batch(rows)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + float(value) * (len(rows) if name == "loss" else 1)

        def ratio(term: str) -> float | None:
            count = sums.get(f"{term}_count", 0.0)
            return sums[f"{term}_hits"] / count if count else None

        return sums["loss"] / len(self._judging), ratio("category"), ratio("title")

    def _evaluate_batch(self, rows: np.ndarray) -> dict[str, tf.Tensor]:
        evaluate = getattr(self, "_evaluate_step", self._losses)
        return evaluate(*self._inputs(rows))

    def _inputs(self, rows: np.ndarray) -> tuple[tf.Tensor, tf.Tensor, Texts | None]:
        return (
            tf.constant(self._examples.pixels[rows]),
            tf.constant(self._examples.categories[rows]),
            None if self._titles is None else self._titles.batch(rows),
        )

    def _losses(self, pixels: tf.Tensor, categories: tf.Tensor, texts: Texts | None) -> dict[str, tf.Tensor]:
        return self._model.losses_of(self._model.image_vectors(pixels), categories, texts)

    def _step(self, pixels: tf.Tensor, categories: tf.Tensor, texts: Texts | None, seed: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            images = self._model.image_vectors(_varied(pixels, seed), training=True)
            loss = self._model.losses_of(images, categories, texts)["loss"]
        variables = self._model.trainable_variables
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        self._optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss


def _best(epochs: list[ContentEpoch]) -> ContentEpoch:
    return min(epochs, key=lambda epoch: (epoch.held_out_loss, epoch.epoch))


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _varied(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Half of the pictures are turned left to right, and all of a batch shifted alike; the ground is white."""
    _, height, width, _ = pixels.shape
    turned = tf.random.stateless_uniform([tf.shape(pixels)[0], 1, 1, 1], seed, alg="philox") < 0.5
    pixels = tf.where(turned, pixels[:, :, ::-1], pixels)
    down, right = math.ceil(height * _SHIFT), math.ceil(width * _SHIFT)
    framed = tf.pad(pixels, [[0, 0], [down, down], [right, right], [0, 0]], constant_values=255)
    limits = tf.constant([2.0 * down + 1.0, 2.0 * right + 1.0])
    offset = tf.cast(tf.random.stateless_uniform([2], seed + 1, alg="philox") * limits, tf.int32)
    return tf.slice(framed, [0, offset[0], offset[1], 0], [-1, height, width, -1])


def describe(epochs: list[ContentEpoch]) -> dict[str, Any]:
    """The epoch that is kept, for content.json."""
    return asdict(_best(epochs))
