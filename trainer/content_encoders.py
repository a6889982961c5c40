"""Encoders that give products vectors from raw content: pictures, or titles as sentences; made, kept and loaded."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras

from trainer.config import ContentConfig
from trainer.image_encoder import decode_pictures

_LOG = logging.getLogger(__name__)

# Beside the catalogue whose vectors it explains.
CONTENT_FOLDER = "content"
_DESCRIPTION = "content.json"
_SIGNATURE = "serving_default"
# Every batch has this size, the last filled up with nothing: a product's vector does not depend on its neighbours.
_AT_ONCE = 64
_KERAS_FILES = (".keras", ".h5")

Function = Callable[[tf.Tensor], tf.Tensor]


class ContentError(ValueError):
    """An encoder that cannot be used: names the key or folder, the rule and what was found."""


@dataclass(frozen=True)
class Description:
    """What is known of an encoder beside its graph; content.json holds it."""

    feature: str  # name of the VECTOR feature
    column: str  # canonical column that it reads
    dim: int
    # "trained here", or the path that the pre-trained model was read from.
    origin: str
    # What a warm start must find unchanged.
    settings: dict[str, int | str | None]


class ContentEncoder(tf.Module):
    """A saved encoder, loaded: string [B] → float32 [B, dim] of norm 1, all NaN where there is nothing to encode."""

    def __init__(self, directory: Path, description: Description) -> None:
        """Args:
        directory: SavedModel that `save_encoder` wrote.
        description: of it.
        """
        super().__init__(name=f"{description.feature}_encoder")
        self.description = description
        # Tracked, so that a SavedModel whose graph calls it holds its weights.
        self._model = tf.saved_model.load(str(directory))

    def __call__(self, content: tf.Tensor) -> tf.Tensor:
        """Raw content string [B] (bytes of a picture, or a title) → float32 [B, dim]; works inside a graph."""
        return tf.ensure_shape(self._model.encode(content), [None, self.description.dim])

    def vectors(self, content: Sequence[bytes]) -> np.ndarray:
        """As calling it, float32 [len(content), dim], a bounded number at a time."""
        blocks = [np.zeros([0, self.description.dim], np.float32)]
        for start in range(0, len(content), _AT_ONCE):
            block = list(content[start : start + _AT_ONCE])
            padded = block + [b""] * (_AT_ONCE - len(block))
            blocks.append(self(tf.constant(padded, tf.string)).numpy()[: len(block)])
        return np.concatenate(blocks)


class _SavedEncoder(tf.Module):
    """The form in which an encoder is kept: one function `encode`, which is its signature too."""

    def __init__(self, function: Function, parts: Sequence[tf.Module]) -> None:
        super().__init__()
        self._parts = list(parts)
        self.encode = tf.function(
            function, input_signature=[tf.TensorSpec([None], tf.string, "content")], autograph=False
        )


def save_image_encoder(
    catalogue_dir: Path, backbone: Function, parts: Sequence[tf.Module], origin: str, config: ContentConfig
) -> Description:
    """Keeps an encoder of pictures: bytes of a PNG or JPEG → vector, see `trainer.image_encoder.decode_pictures`.

    Args:
        catalogue_dir: gets `content/image`.
        backbone: float32 pixels [B, h, w, 3] in [0, 1] → [B, d].
        parts: what holds the backbone's weights.
        origin: see `Description`.
        config: size of the pictures.
    """
    height, width = config.image_height, config.image_width

    def encode(content: tf.Tensor) -> tf.Tensor:
        pixels, present = decode_pictures(content, height, width)
        vectors = tf.math.l2_normalize(backbone(tf.cast(pixels, tf.float32) / 255.0), axis=1)
        return tf.where(present[:, tf.newaxis], vectors, np.nan)

    return _save(catalogue_dir, "image", "image", encode, parts, origin, image_settings(config))


def save_sentence_encoder(
    catalogue_dir: Path, backbone: Function, parts: Sequence[tf.Module], origin: str, config: ContentConfig
) -> Description:
    """Keeps an encoder of titles as `content/sentence`: string [B] → [B, d]. See `save_image_encoder`."""

    def encode(content: tf.Tensor) -> tf.Tensor:
        present = tf.strings.strip(content) != ""
        vectors = tf.math.l2_normalize(backbone(content), axis=1)
        return tf.where(present[:, tf.newaxis], vectors, np.nan)

    return _save(catalogue_dir, "sentence", "title", encode, parts, origin, sentence_settings(config))


def image_settings(config: ContentConfig) -> dict[str, int | str | None]:
    """What the space of the pictures' vectors depends on, beside the weights."""
    names = ("image_encoder", "image_height", "image_width", *(() if config.image_encoder else ("image_dim",)))
    return {name: getattr(config, name) for name in names}


def sentence_settings(config: ContentConfig) -> dict[str, int | str | None]:
    """What the space of the titles' vectors depends on."""
    return {"text_encoder": config.text_encoder}


def _save(
    catalogue_dir: Path,
    feature: str,
    column: str,
    encode: Function,
    parts: Sequence[tf.Module],
    origin: str,
    settings: dict[str, int | str | None],
) -> Description:
    module = _SavedEncoder(encode, parts)
    dim = module.encode.get_concrete_function().output_shapes[1]
    if dim is None:
        dim = module.encode(tf.constant([b""])).shape[1]
    directory = catalogue_dir / CONTENT_FOLDER
    tf.saved_model.save(module, str(directory / feature), signatures={_SIGNATURE: module.encode})
    description = Description(feature, column, int(dim), origin, settings)
    write_descriptions(catalogue_dir, [*read_descriptions(catalogue_dir), description])
    _LOG.info("content: encoder of %s kept, %d numbers a product, %s", column, description.dim, origin)
    return description


def read_descriptions(catalogue_dir: Path) -> list[Description]:
    """The encoders of a catalogue, in the order of their features; none where it has no such vectors.

    Raises:
        ContentError: the list cannot be read.
    """
    file = catalogue_dir / CONTENT_FOLDER / _DESCRIPTION
    if not file.is_file():
        return []
    try:
        return [Description(**values) for values in json.loads(file.read_text(encoding="utf-8"))["encoders"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ContentError(f"{file}: not a list of encoders: {error!r}. Run `tandem embed-content` again.") from error


def write_descriptions(catalogue_dir: Path, descriptions: Sequence[Description]) -> None:
    """Keeps the list that `read_descriptions` reads, each feature once, the last one of a name."""
    by_feature = {description.feature: asdict(description) for description in descriptions}
    folder = catalogue_dir / CONTENT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"encoders": list(by_feature.values())}, indent=2)
    (folder / _DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def load_encoders(catalogue_dir: Path) -> dict[str, ContentEncoder]:
    """The encoders of a catalogue by feature; empty where it has no such vectors.

    Raises:
        ContentError: one is missing or damaged.
    """
    loaded = {}
    for description in read_descriptions(catalogue_dir):
        directory = catalogue_dir / CONTENT_FOLDER / description.feature
        try:
            loaded[description.feature] = ContentEncoder(directory, description)
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise ContentError(
                f"{directory} holds no encoder that can be loaded: {_first_line(error)} "
                "Run `tandem embed-content` again."
            ) from error
    return loaded


def load_image_backbone(path: str, height: int, width: int) -> tuple[Function, list[tf.Module]]:
    """A pre-trained network: float32 pixels [B, height, width, 3] in [0, 1] → [B, d], and what holds its weights.

    Args:
        path: of a SavedModel folder (TF Hub's "feature vector" models are such) or of a Keras 2 file (.keras, .h5).
        height: in pixels.
        width: in pixels.

    Raises:
        ContentError: there is no such model, or it maps something else.
    """
    key = "content.image_encoder"
    probe = tf.zeros([2, height, width, 3])
    if path.endswith(_KERAS_FILES):
        model = _keras_model(key, path)
        return _checked(key, path, lambda pixels: model(pixels, training=False), probe), [model]
    return _saved_function(key, path, probe)


def load_sentence_backbone(path: str) -> tuple[Function, list[tf.Module]]:
    """A pre-trained sentence encoder: string [B] → [B, d], and what holds its weights; see `load_image_backbone`.

    Raises:
        ContentError: there is no such SavedModel, or it maps something else.
    """
    return _saved_function("content.text_encoder", path, tf.constant(["red shoe", ""]))


def _keras_model(key: str, path: str) -> tf_keras.Model:
    if not Path(path).is_file():
        raise ContentError(f"{key}: no such file: {path!r}.")
    try:
        return tf_keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its reader of the day raises.
        raise ContentError(
            f"{key}: {path!r} cannot be read as a Keras 2 model: {_first_line(error)} "
            "A model of Keras 3 is exported to a folder with model.export(), and that folder given."
        ) from error


def _saved_function(key: str, path: str, probe: tf.Tensor) -> tuple[Function, list[tf.Module]]:
    if not (Path(path) / "saved_model.pb").is_file():
        raise ContentError(f"{key}: must be a SavedModel folder (with saved_model.pb), received {path!r}.")
    try:
        model = tf.saved_model.load(path)
    except (OSError, ValueError, tf.errors.OpError) as error:
        # TensorFlow names an op that it lacks, such as those of tensorflow_text.
        raise ContentError(f"{key}: {path!r} cannot be loaded: {_first_line(error)}") from error
    signature = model.signatures.get(_SIGNATURE)
    if signature is None:
        if not callable(model):
            known = ", ".join(sorted(model.signatures)) or "none"
            raise ContentError(f"{key}: {path!r} has no signature {_SIGNATURE} and cannot be called, received {known}.")
        return _checked(key, path, model, probe), [model]
    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1:
        raise ContentError(
            f"{key}: the signature of {path!r} must have one input, received {', '.join(sorted(inputs))}."
        )
    (name,) = inputs
    outputs = {
        name: spec
        for name, spec in signature.structured_outputs.items()
        if spec.dtype.is_floating and spec.shape.rank in (2, None)
    }
    if len(outputs) != 1:
        received = [f"{name} {spec.dtype.name} {spec.shape}" for name, spec in signature.structured_outputs.items()]
        raise ContentError(
            f"{key}: the signature of {path!r} must have one output of floats [B, d], received {', '.join(received)}."
        )
    (output,) = outputs
    return _checked(key, path, lambda values: signature(**{name: values})[output], probe), [model]


def _checked(key: str, path: str, function: Function, probe: tf.Tensor) -> Function:
    """`function`, giving float32 with a known width; tried once."""
    wanted = f"{probe.dtype.name} {['B', *probe.shape[1:]]}".replace("'", "")
    try:
        made = tf.convert_to_tensor(function(probe))
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise ContentError(f"{key}: {path!r} must map {wanted} to [B, d]; it says: {_first_line(error)}") from error
    if made.shape.rank != 2 or made.shape[0] != 2 or not made.dtype.is_floating:
        raise ContentError(
            f"{key}: {path!r} must map {wanted} to floats [B, d], received {made.dtype.name} {made.shape} of two."
        )
    width = made.shape[1]
    return lambda values: tf.ensure_shape(tf.cast(function(values), tf.float32), [None, width])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
