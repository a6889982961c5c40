"""Thumbnails of product pictures, drawn anew: what a shop's catalogue holds is never passed on byte by byte."""

import base64
import io

from PIL import Image, ImageOps, UnidentifiedImageError

# What Pillow raises for bytes that are no picture, a truncated one, or one too large to be a product's.
_UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class PictureError(ValueError):
    """A picture that cannot be read."""


def thumbnail(image: bytes, side: int) -> Image.Image:
    """RGB picture of `side` × `side` pixels on white, the whole of `image` inside.

    Raises:
        PictureError: `image` is not a PNG or JPEG that can be read to its end.
    """
    try:
        with Image.open(io.BytesIO(image), formats=("PNG", "JPEG")) as picture:
            rgba = ImageOps.pad(picture.convert("RGBA"), (side, side), color=(255, 255, 255, 0))
    except _UNREADABLE as error:
        raise PictureError(f"picture of {len(image)} bytes cannot be read: {error}") from error
    sheet = Image.new("RGB", (side, side), "white")
    sheet.paste(rgba, mask=rgba.getchannel("A"))
    return sheet


def data_uri(picture: Image.Image) -> str:
    """The picture as a PNG inside a `data:` address, so that a page needs no other file."""
    buffer = io.BytesIO()
    # 64 colours are enough at this size, and keep photographs small.
    picture.quantize(64).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
