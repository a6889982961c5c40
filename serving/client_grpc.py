"""gRPC as a client's transport: one channel, synchronous or asyncio."""

from collections.abc import Sequence

import grpc
from google.protobuf.message import Message

from serving.client_conversation import Call, Method
from serving.client_options import ClientOptions

# gRPC waits 1 s before it connects again, and a call in that time fails at once: no second try would meet a server
# that was back after a moment.
_RECONNECT_MS = 100
_LONGEST_RECONNECT_MS = 5_000
# Share of a call's time that one attempt to connect may take where REST is there to fall back to. Something that takes
# the connection and stays silent, as a proxy for HTTP may, would otherwise use up all of it.
_CONNECTING_SHARE = 0.25


class GrpcTransport:
    """A channel that threads share; connects at the first call."""

    def __init__(self, target: str, options: ClientOptions) -> None:
        self._target = target
        credentials = _credentials(options)
        settings = _channel_settings(options)
        self._channel = (
            grpc.insecure_channel(target, settings)
            if credentials is None
            else grpc.secure_channel(target, credentials, settings)
        )
        self._calls = {
            method: self._channel.unary_unary(method.path, _serialize, method.response.FromString) for method in Method
        }

    def send(self, call: Call) -> Message:
        """The response.

        Raises:
            RecommenderError: refused, or not answered in time.
        """
        try:
            return self._calls[call.method](call.request, timeout=call.seconds_left)
        except grpc.RpcError as error:
            raise call.failed(error.code(), error.details(), self._target) from None

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()


class AsyncGrpcTransport:
    """A channel of one event loop: the one that runs when it is made."""

    def __init__(self, target: str, options: ClientOptions) -> None:
        self._target = target
        credentials = _credentials(options)
        settings = _channel_settings(options)
        self._channel = (
            grpc.aio.insecure_channel(target, settings)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, settings)
        )
        self._calls = {
            method: self._channel.unary_unary(method.path, _serialize, method.response.FromString) for method in Method
        }

    async def send(self, call: Call) -> Message:
        """As `GrpcTransport.send`."""
        try:
            return await self._calls[call.method](call.request, timeout=call.seconds_left)
        except grpc.aio.AioRpcError as error:
            raise call.failed(error.code(), error.details(), self._target) from None

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close(None)


def _credentials(options: ClientOptions) -> grpc.ChannelCredentials | None:
    if options.tls is None:
        return None
    return grpc.ssl_channel_credentials(
        options.tls.pem("root_certificate"), options.tls.pem("key"), options.tls.pem("certificate")
    )


def _channel_settings(options: ClientOptions) -> Sequence[tuple[str, int]]:
    settings = [
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _LONGEST_RECONNECT_MS),
    ]
    if options.rest_target is not None:
        # Despite its name also the time that an attempt to connect gets.
        connecting = max(int(1_000 * options.timeout * _CONNECTING_SHARE), _RECONNECT_MS)
        settings.append(("grpc.min_reconnect_backoff_ms", connecting))
    return settings


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
