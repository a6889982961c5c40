"""Pictures of products: from the bytes of a file to pixels, and a small network from pixels to vectors."""

import tensorflow as tf
import tf_keras

# Beyond these a file is no product's picture but a mistake or an attack; the first is compared before decoding, with
# what the header says, so that a few bytes cannot ask for gigabytes.
MAX_PIXELS = 4_096 * 4_096
MAX_BYTES = 1 << 25

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
# Width and height in the first chunk, as big-endian 32-bit integers (PNG specification, 11.2.2).
_PNG_SIZE_AT = 16
_PNG_SIZE_BYTES = 8
_PNG_COLOUR_AT = 25
_PALETTE = b"\x03"
# Chunk of transparent colours; it stands before the pixels, within so many bytes unless there is much else to say.
_TRANSPARENCY = "tRNS"
_BEFORE_PIXELS = 1 << 14
_WHITE = 255.0
# Channels of the stages; each halves height and width.
_CHANNELS = (16, 32, 64, 128)


def decode_pictures(images: tf.Tensor, height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Files of pictures as pixels of one size; never fails, and works inside a SavedModel.

    JPEG (grey, RGB, CMYK; progressive too) and PNG (any depth; transparent parts are white). The whole picture stands
    in the middle of a white ground, its proportions kept. Absent are: empty strings, other formats, files that cannot
    be read to their end, more than MAX_BYTES, headers that speak of more than MAX_PIXELS, and pictures so long and
    narrow that nothing would be left of them. One picture is decoded at a time, which bounds the memory.

    TensorFlow's decoders raise, and a graph cannot catch; a `tf.data` pipeline can leave an element out that raised.

    Args:
        images: string [B].
        height: in pixels.
        width: in pixels.

    Returns:
        Pixels uint8 [B, height, width, 3] in RGB, zero where absent, and bool [B]: there is a picture.
    """
    count = tf.size(images, out_type=tf.int64)
    blank = tf.zeros([height, width, 3], tf.uint8)
    pictures = (
        tf.data.Dataset.from_tensor_slices((tf.range(count), images))
        .filter(lambda place, image: _may_be_picture(image))
        .map(lambda place, image: (place, image, _pixels_in_header(image)))
        .filter(lambda place, image, pixels: (pixels > 0) & (pixels <= MAX_PIXELS))
        .map(lambda place, image, pixels: (place, _fitted(_decoded(image), height, width)))
        .ignore_errors()
        # Never empty, so that there is a batch.
        .concatenate(tf.data.Dataset.from_tensors((count, blank)))
        .batch(count + 1)
    )
    places, pixels = pictures.get_single_element()
    shape = tf.stack([count + 1, height, width, 3])
    # There is no kernel that scatters bytes.
    scattered = tf.scatter_nd(places[:, tf.newaxis], tf.cast(pixels, tf.int32), shape)
    present = tf.scatter_nd(places[:, tf.newaxis], tf.ones_like(places, tf.int32), [count + 1])
    result = tf.ensure_shape(tf.cast(scattered[:-1], tf.uint8), [None, height, width, 3])
    return result, present[:-1] > 0


def _may_be_picture(image: tf.Tensor) -> tf.Tensor:
    """By its length and its first bytes; the decoders would write a line to the terminal about each that is not."""
    jpeg = tf.strings.substr(image, 0, len(_JPEG)) == _JPEG
    return (tf.strings.length(image) <= MAX_BYTES) & (jpeg | _is_png(image))


def _is_png(image: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(image, 0, len(_PNG)) == _PNG


def _has_opacity(png: tf.Tensor) -> tf.Tensor:
    """False for a palette without transparent colours."""
    start = tf.strings.substr(png, 0, _BEFORE_PIXELS)
    marked = tf.strings.length(tf.strings.regex_replace(start, _TRANSPARENCY, "")) < tf.strings.length(start)
    return marked | (tf.strings.substr(png, _PNG_COLOUR_AT, 1) != _PALETTE)


def _pixels_in_header(image: tf.Tensor) -> tf.Tensor:
    """Height × width, int64; raises where there is no JPEG or PNG header."""

    def of_png() -> tf.Tensor:
        size = tf.strings.substr(image, _PNG_SIZE_AT, _PNG_SIZE_BYTES)
        sides = tf.cast(tf.io.decode_raw(size, tf.int32, little_endian=False), tf.int64)
        # Two sides above 2³¹ read as negative numbers, whose product is not.
        return tf.reduce_prod(tf.maximum(sides, 0))

    def of_jpeg() -> tf.Tensor:
        return tf.reduce_prod(tf.cast(tf.io.extract_jpeg_shape(image)[:2], tf.int64))

    return tf.cond(_is_png(image), of_png, of_jpeg)


def _decoded(image: tf.Tensor) -> tf.Tensor:
    """float32 [h, w, 3] in [0, 255]."""

    def of_png() -> tf.Tensor:
        rgba = tf.cast(tf.io.decode_png(image, channels=4), tf.float32)
        # TensorFlow leaves any number as the opacity of a palette's colours where the file does not tell it.
        opacity = tf.where(_has_opacity(image), rgba[..., 3:] / _WHITE, 1.0)
        return rgba[..., :3] * opacity + _WHITE * (1.0 - opacity)

    def of_jpeg() -> tf.Tensor:
        # The accurate method gives the same pixels on every machine.
        return tf.cast(tf.io.decode_jpeg(image, channels=3, dct_method="INTEGER_ACCURATE"), tf.float32)

    return tf.ensure_shape(tf.cond(_is_png(image), of_png, of_jpeg), [None, None, 3])


def _fitted(picture: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """uint8 [height, width, 3]: the whole picture on white."""
    # Turned to its negative, the zeros of the padding are white.
    negative = tf.image.resize_with_pad(_WHITE - picture, height, width, antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(_WHITE - negative, 0.0, _WHITE)), tf.uint8)


def make_image_encoder(height: int, width: int, dim: int) -> tf_keras.Model:
    """A small residual network (He et al. 2016): float32 pixels [B, height, width, 3] in [0, 1] → [B, dim].

    At 64 × 48 pixels about 20 million multiplications and additions a picture. The vectors are not normalised.
    """
    pixels = tf_keras.Input([height, width, 3], name="pixels")
    values = pixels
    for number, channels in enumerate(_CHANNELS):
        values = _convolution(values, channels, strides=2)
        # Where the picture is large a block would cost the most, and little is to be seen yet; at the end little is
        # left of it.
        if 0 < number < len(_CHANNELS) - 1:
            inner = _convolution(values, channels)
            inner = _convolution(inner, channels, activation=False)
            values = tf_keras.layers.ReLU()(tf_keras.layers.Add()([values, inner]))
    # The mean says what is there, the maximum that something is there at all.
    pooled = tf_keras.layers.Concatenate()(
        [tf_keras.layers.GlobalAveragePooling2D()(values), tf_keras.layers.GlobalMaxPooling2D()(values)]
    )
    return tf_keras.Model(pixels, tf_keras.layers.Dense(dim, name="vector")(pooled), name="image_encoder")


def _convolution(values: tf.Tensor, channels: int, strides: int = 1, activation: bool = True) -> tf.Tensor:
    convolved = tf_keras.layers.Conv2D(channels, 3, strides, padding="same", use_bias=False)(values)
    normalised = tf_keras.layers.BatchNormalization(momentum=0.95)(convolved)
    return tf_keras.layers.ReLU()(normalised) if activation else normalised
