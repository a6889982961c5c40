"""The embedded server's REST port: HTTP in a thread of its own, with all that a client can use up bounded."""

import asyncio
import logging
import resource
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from serving.core import ServingCore
from serving.errors import RequestError, ServingError
from serving.options import ServerOptions
from serving.rest_api import Answer, RestApi, refusal
from serving.rest_body import LARGE_BYTES, BodyError, BodyReader, unpack
from serving.rest_json import error_json

_LOG = logging.getLogger(__name__)
# Requests that are answered or wait for a thread; above, 429.
_MAX_REQUESTS = 512
# Connections, as far as the process may open files; above, 503. The rest of the files is for gRPC and the models.
_MAX_CONNECTIONS = 16_384
_SHARE_OF_FILES = 0.75
# Connections that wait to be accepted.
_BACKLOG = 512
# Seconds that a connection may be silent, or take for a request's headers.
_IDLE_SECONDS = 75.0
# Seconds for which the rest of a refused body is read and dropped: a client that is still sending when the connection
# closes would lose the answer.
_LINGERING_SECONDS = 2.0
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class RestServer:
    """Serves a ServingCore over HTTP on a port of its own."""

    def __init__(self, core: ServingCore, host: str, port: int, options: ServerOptions) -> None:
        """Takes the port (0 = a free one, see `port`); nothing is answered before `start`.

        Raises:
            ServingError: the port can't be had.
        """
        self._socket = _listen(host, port)
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        self._seconds = options.rest_api_timeout_in_ms / 1e3
        self._max_bytes = options.max_message_bytes
        self._bodies = BodyReader(self._max_bytes, self._seconds)
        self._api = RestApi(core, options.monitoring)
        self._threads = ThreadPoolExecutor(options.rest_api_num_threads, thread_name_prefix="rest")
        # Large requests are worked on one after another: their JSON takes much memory, and small ones must not wait.
        self._large_thread = ThreadPoolExecutor(1, thread_name_prefix="rest-large")
        self._requests = 0
        self._grace = 0.0
        self._started = threading.Event()
        self._loop_thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="rest-http", daemon=True)

    @property
    def address(self) -> str:
        """HOST:PORT for a client."""
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Begins to answer."""
        self._loop_thread.start()
        self._started.wait()
        _LOG.info("REST on %s", self.address)

    def stop(self, grace: float = 10.0) -> None:
        """Takes no new requests, and gives those under way `grace` seconds to finish."""
        if self._loop_thread.is_alive():
            self._grace = grace
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._loop_thread.join()
        self._socket.close()
        for pool in (self._threads, self._large_thread):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        http = _HttpServer(self._handle)
        most = _connections_allowed()
        listener = await self._loop.create_server(
            lambda: http() if len(http.connections) < most else _Busy(), sock=self._socket, backlog=_BACKLOG
        )
        self._started.set()
        await self._stopping.wait()
        listener.close()
        http.pre_shutdown()
        # Answers that are there are let out before their connections are closed.
        leaving = 1.0
        try:
            async with asyncio.timeout(self._grace):
                await self._idle.wait()
        except TimeoutError:
            _LOG.warning("%d REST requests were not answered within %g s", self._requests, self._grace)
            leaving = 0.05
        await http.shutdown(leaving)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._requests += 1
        self._idle.clear()
        try:
            response = await self._respond(request)
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()
        try:
            # Here and not by aiohttp, which would wait for a client that doesn't read for as long as it likes.
            async with asyncio.timeout(self._seconds):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the client doesn't take its answer") from None
        return response

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        try:
            if self._requests > _MAX_REQUESTS:
                raise BodyError(429, f"{_MAX_REQUESTS} requests are under way. Try again later.")
            if request.method != "POST":
                return _response(await self._work(request, bytearray()))
            async with self._bodies.read(request) as body:
                return _response(await self._work(request, body))
        except BodyError as error:
            response = _response(Answer(error.status, error_json(error.message)))
        # What is left of the body would be taken for the next request.
        response.force_close()
        return response

    async def _work(self, request: web.BaseRequest, body: bytearray) -> Answer:
        """Answers in a thread. Where the client vanishes before a thread is free, nothing is done."""
        packed = "gzip" in request.headers.get(hdrs.CONTENT_ENCODING, "")
        pool = self._large_thread if packed or len(body) > LARGE_BYTES else self._threads

        def work() -> Answer:
            whole = unpack(body, self._max_bytes) if packed else body
            return self._api.answer(request.method, request.raw_path, whole)

        try:
            async with asyncio.timeout(self._seconds):
                return await self._loop.run_in_executor(pool, work)
        except TimeoutError:
            return refusal(RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification"))


class _HttpServer(web.Server):
    """aiohttp's HTTP server with bounds; a handler ends with its client's connection."""

    def __init__(self, handler: Any) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=_LINGERING_SECONDS,
            # Only gzip is taken, as by TensorFlow Serving, and not in the thread that all connections share.
            auto_decompress=False,
            access_log=None,
            logger=_http_log(),
        )

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Makes a write wait until the system has taken all of it, so that a client that doesn't read is noticed."""
        transport.set_write_buffer_limits(high=0)
        super().connection_made(handler, transport)


class _Busy(asyncio.Protocol):
    """Refuses a connection, one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(_BUSY)
        transport.close()


def _response(answer: Answer) -> web.Response:
    return web.Response(
        status=answer.status, body=answer.body, content_type=answer.content_type, headers={"Server": "tandem"}
    )


def _http_log() -> logging.Logger:
    """Where aiohttp writes; without the stack of every request that isn't HTTP."""
    log = logging.getLogger(f"{__name__}.http")
    log.addFilter(_is_our_fault)
    return log


def _is_our_fault(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _connections_allowed() -> int:
    """How many connections the process has files for, once it has allowed itself as many as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else min(_MAX_CONNECTIONS, int(hard * _SHARE_OF_FILES))


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ServingError(
            f"Cannot listen on {host}:{port} for REST: {error.strerror}. Stop what uses it, or choose another port "
            "(0 = any free one)."
        ) from None
