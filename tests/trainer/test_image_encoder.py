"""Files of pictures become pixels whatever they hold, in a graph, in a SavedModel and behind the embedded server."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.trainer.exported import ServedModel
from tests.trainer.pictures import BLUE, RED, file_of, plain
from trainer.image_encoder import MAX_BYTES, decode_pictures, make_image_encoder

HEIGHT, WIDTH = 64, 48


def decoded(*images: bytes, height: int = HEIGHT, width: int = WIDTH) -> tuple[np.ndarray, list[bool]]:
    pixels, present = decode_pictures(tf.constant(list(images), tf.string), height, width)
    return pixels.numpy(), present.numpy().tolist()


def pixel_of(image: bytes) -> np.ndarray:
    """The middle of a picture that can be read."""
    pixels, present = decoded(image)
    assert present == [True]
    return pixels[0, HEIGHT // 2, WIDTH // 2].astype(int)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 60, 3), np.uint8))
PALETTE = plain(RED).quantize(4)
READABLE = {
    "PNG": (file_of(plain(RED)), RED),
    "JPEG": (file_of(plain(RED), "JPEG", quality=95), RED),
    "progressive JPEG": (file_of(plain(RED), "JPEG", quality=95, progressive=True), RED),
    "CMYK JPEG": (file_of(plain(RED).convert("CMYK"), "JPEG", quality=95), RED),
    "grey JPEG": (file_of(plain((77,), mode="L"), "JPEG", quality=95), (77, 77, 77)),
    "grey PNG": (file_of(plain((77,), mode="L")), (77, 77, 77)),
    "PNG of 16 bits": (file_of(Image.fromarray(np.full((64, 48), 77 * 257, np.uint16))), (77, 77, 77)),
    "PNG of 1 bit": (file_of(plain((255, 255, 255)).convert("1")), (255, 255, 255)),
    "PNG with a palette": (file_of(PALETTE), RED),
    "opaque RGBA": (file_of(plain((*RED, 255), mode="RGBA")), RED),
    "transparent RGBA": (file_of(plain((0, 0, 0, 0), mode="RGBA")), (255, 255, 255)),
    "transparent colour of a palette": (
        file_of(PALETTE, transparency=PALETTE.getpixel((0, 0))),
        (255, 255, 255),
    ),
    "half transparent grey": (file_of(plain((0, 128), mode="LA")), (127, 127, 127)),
}


def with_size(png: bytes, width: int, height: int) -> bytes:
    """A PNG whose header lies about its size."""
    return png[:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + png[24:]


PNG, JPEG = file_of(NOISE), file_of(NOISE, "JPEG")
# Start of frame: height and width stand five bytes after its marker.
FRAME = JPEG.index(b"\xff\xc0") + 5
UNREADABLE = {
    "empty": b"",
    "text": b"<html>404 Not Found</html>",
    "random bytes": np.random.default_rng(1).bytes(5_000),
    "half a PNG": PNG[: len(PNG) // 2],
    "half a JPEG": JPEG[: len(JPEG) // 2],
    "JPEG without its end": JPEG[:-200],
    "mark of a JPEG": JPEG[:3],
    "mark of a PNG": PNG[:8],
    "PNG cut in its header": PNG[:20],
    "PNG that says to be giant": with_size(PNG, 100_000, 100_000),
    "PNG with impossible sides": with_size(PNG, 2**32 - 1, 2**32 - 1),
    "PNG without area": with_size(PNG, 0, 80),
    "JPEG that says to be giant": JPEG[:FRAME] + b"\xff\xff\xff\xff" + JPEG[FRAME + 4 :],
    "GIF": file_of(plain(RED), "GIF"),
    "BMP": file_of(plain(RED), "BMP"),
    "a line": file_of(plain(RED, (3_000, 1))),
    "too many bytes": PNG + b"\0" * MAX_BYTES,
}


@pytest.mark.parametrize("kind", READABLE)
def test_pictures_are_read_with_their_colours(kind: str) -> None:
    image, colour = READABLE[kind]
    np.testing.assert_allclose(pixel_of(image), colour, atol=2)


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_absent(kind: str) -> None:
    pixels, present = decoded(UNREADABLE[kind])
    assert present == [False]
    assert not pixels.any()


def test_the_unreadable_leave_the_others_in_their_places() -> None:
    red, blue = file_of(plain(RED)), file_of(plain(BLUE), "JPEG", quality=95)
    pixels, present = decoded(b"", red, JPEG[:500], blue, b"GIF89a")
    assert present == [False, True, False, True, False]
    np.testing.assert_allclose(pixels[[1, 3], 5, 5], [RED, BLUE], atol=2)


def test_no_pictures_at_all_are_no_error() -> None:
    pixels, present = decoded()
    assert (pixels.shape, present) == ((0, HEIGHT, WIDTH, 3), [])
    assert decoded(b"", b"")[1] == [False, False]


def test_the_whole_picture_stands_in_the_middle_of_white() -> None:
    # Twice as wide as high: of 64 rows the middle 24 are the picture, whose right half is blue.
    picture = plain(RED, (80, 40))
    picture.paste(BLUE, (40, 0, 80, 40))
    (pixels,), _ = decoded(file_of(picture))
    assert (pixels[:20] == 255).all()
    assert (pixels[44:] == 255).all()
    np.testing.assert_array_equal(pixels[32, [2, 45]], [RED, BLUE])


def test_a_large_picture_is_averaged_not_sampled() -> None:
    stripes = np.zeros((640, 480, 3), np.uint8)
    stripes[:, ::2] = 255
    (pixels,), _ = decoded(file_of(Image.fromarray(stripes)))
    assert abs(int(pixels[32, 24, 0]) - 127) < 12


class Decoder(tf.Module):
    """The decoder as an exported function."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image")])
    def __call__(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels, present = decode_pictures(image, 8, 6)
        return {"pixels": pixels, "present": present}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("decoder") / "1"
    module = Decoder()
    tf.saved_model.save(module, str(directory), signatures={"serving_default": module.__call__})
    return directory


ALL = [image for image, _ in READABLE.values()] + list(UNREADABLE.values())


def test_a_session_reads_pictures_as_the_training_does(saved: Path) -> None:
    pixels, present = decoded(*ALL, height=8, width=6)
    with ServedModel(saved) as served:
        answer = served("serving_default", image=ALL)
    np.testing.assert_array_equal(answer["pixels"], pixels)
    assert answer["present"].tolist() == present == [True] * len(READABLE) + [False] * len(UNREADABLE)


_OTHER_PROCESS = """
import sys, numpy as np, tensorflow as tf
content = np.load(sys.argv[2], allow_pickle=True)
answer = tf.saved_model.load(sys.argv[1]).signatures["serving_default"](image=tf.constant(content.tolist()))
np.save(sys.argv[3], answer["pixels"].numpy())
"""


# Quickly, above: what was saved reads pictures so in a session that knows nothing else.
@pytest.mark.slow
def test_a_new_process_reads_pictures_alike(saved: Path, tmp_path: Path) -> None:
    small = [image for image in ALL if len(image) < 100_000]
    np.save(tmp_path / "in.npy", np.array(small, dtype=object))
    files = [str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    subprocess.run([sys.executable, "-c", _OTHER_PROCESS, str(saved), *files], check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(files[1]), decoded(*small, height=8, width=6)[0])


def test_encoder_gives_a_vector_a_picture_of_any_allowed_size() -> None:
    for height, width in ((16, 16), (64, 48)):
        encoder = make_image_encoder(height, width, 5)
        assert encoder(tf.zeros([3, height, width, 3])).shape == (3, 5)
