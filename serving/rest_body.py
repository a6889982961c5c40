"""Reads the bodies of HTTP requests within bounds of size, time and memory."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import hdrs, web

# Bodies above this size count as large: parsed JSON takes up to six times its bytes, so the memory of small requests
# is kept apart from that of large ones.
LARGE_BYTES = 1 << 20
# Bytes of large bodies that are held at once; of all bodies, twice as many.
_HELD_BYTES = 256 << 20
# What zlib calls a gzip header.
_GZIP = 16


class BodyError(Exception):
    """A body that isn't read to its end: the HTTP status and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class BodyReader:
    """Reads bodies for one server, and counts what they hold together. For one event loop."""

    def __init__(self, max_bytes: int, seconds: float) -> None:
        """Bounds a body to `max_bytes`, and its arrival to `seconds`."""
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._held = 0

    @asynccontextmanager
    async def read(self, request: web.BaseRequest) -> AsyncIterator[bytearray]:
        """The whole body, which counts as held while the block runs.

        Raises:
            BodyError: it is too large (413), comes too slowly (408), breaks the rules of HTTP (400), or too much is
                held already (429).
        """
        if request.content_length is not None and request.content_length > self._max_bytes:
            raise _too_large(self._max_bytes)
        body = bytearray()
        try:
            await self._fill(body, request)
            yield body
        finally:
            self._held -= len(body)

    async def _fill(self, body: bytearray, request: web.BaseRequest) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                async for chunk in request.content.iter_any():
                    body += chunk
                    self._held += len(chunk)
                    if len(body) > self._max_bytes:
                        raise _too_large(self._max_bytes)
                    if self._held > (_HELD_BYTES if len(body) > LARGE_BYTES else 2 * _HELD_BYTES):
                        raise BodyError(429, "The server holds as many large requests as it can. Try again later.")
        except web.RequestPayloadError as error:
            raise BodyError(400, f"The body can't be read: {error}") from None
        except TimeoutError:
            raise BodyError(408, f"The body didn't arrive within {self._seconds:g} s.") from None


def unpack(body: bytearray, max_bytes: int) -> bytes:
    """The body that a client compressed with gzip.

    Raises:
        BodyError: it isn't gzip (400), or it is larger than `max_bytes` (413).
    """
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | _GZIP)
    try:
        whole = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise BodyError(400, f"The body isn't gzip, as its Content-Encoding says: {error}") from None
    if len(whole) > max_bytes:
        raise _too_large(max_bytes)
    if not unpacker.eof:
        raise BodyError(400, "The body ends before its gzip stream does.")
    return whole


def _too_large(max_bytes: int) -> BodyError:
    return BodyError(413, f"The body is larger than {max_bytes} bytes.")
