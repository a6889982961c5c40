"""Pictures for tests, as the bytes of a file."""

import io

from PIL import Image

RED, GREEN, BLUE = (200, 30, 40), (30, 160, 60), (20, 40, 200)


def file_of(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The picture as a file of a format that Pillow writes."""
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def plain(colour: tuple[int, ...], size: tuple[int, int] = (48, 64), mode: str = "RGB") -> Image.Image:
    """One colour; size is width, height."""
    return Image.new(mode, size, colour)
