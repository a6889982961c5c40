"""The size of a picture comes from its header alone; whatever else it is, is none."""

import io
import struct
from typing import Any

import pytest
from PIL import Image

from transform.pictures import picture_size


def encoded(kind: str, size: tuple[int, int], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        # Comments and profiles stand before the frame header.
        ("JPEG", {"comment": b"x" * 60_000, "icc_profile": b"y" * 70_000}),
    ],
)
def test_the_header_tells_width_and_height(kind: str, options: dict[str, Any]) -> None:
    assert picture_size(encoded(kind, (31, 17), **options)) == (31, 17)
    assert picture_size(memoryview(encoded(kind, (31, 17), **options))) == (31, 17)


def test_a_giant_is_told_without_decoding_it() -> None:
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 100_000, 90_000)
    assert picture_size(header) == (100_000, 90_000)


def test_fill_bytes_and_bare_markers_are_passed_over() -> None:
    frame = b"\xff\xc0" + struct.pack(">HBHH", 17, 8, 17, 31)
    assert picture_size(b"\xff\xd8\xff\x01\xff\xff\xff" + frame[1:]) == (31, 17)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        encoded("GIF", (3, 3)),
        encoded("PNG", (3, 3))[:20],
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 0, 5),
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"iTXt", 5, 5),
        encoded("JPEG", (3, 3))[:30],
        b"\xff\xd8\xff\xda\x00\x02",
        b"\xff\xd8\xff\xe0\x00\x00\x00\x00",
        b"\xff\xd8" + b"\xff" * 50,
    ],
)
def test_what_has_no_size_is_no_picture(data: bytes) -> None:
    assert picture_size(data) is None
