"""The size of a picture, read from the first bytes of a PNG or JPEG file without decoding it."""

import struct

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
# Frame headers, ITU-T T.81 table B.1: C0 to CF but for the tables DHT (C4), JPG (C8) and DAC (CC).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: TEM, RST0 to RST7.
_BARE = frozenset((0x01, *range(0xD0, 0xD8)))
_SCAN, _END = 0xDA, 0xD9


def picture_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Width and height in pixels that a PNG or JPEG file states; None where the bytes are neither or stop too early.

    PNG: W3C, "Portable Network Graphics", 11.2.2 IHDR. JPEG: ITU-T T.81, B.2.2 frame header.
    """
    if bytes(data[:8]) == _PNG:
        size = _png_size(data)
    elif bytes(data[:2]) == _JPEG:
        size = _jpeg_size(data)
    else:
        return None
    return size if size and min(size) > 0 else None


def _png_size(data: bytes | memoryview) -> tuple[int, int] | None:
    if len(data) < 24 or bytes(data[12:16]) != b"IHDR":
        return None
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _jpeg_size(data: bytes | memoryview) -> tuple[int, int] | None:
    place = len(_JPEG)
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker in _BARE:
            place += 2
        elif marker in _FRAMES:
            if place + 9 > len(data):
                return None
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height
        elif marker in (_SCAN, _END):
            return None
        else:
            place += 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
    return None
