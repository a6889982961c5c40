"""A gRPC server that passes on what it is asked, after the refusals it is told to give first."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc


class Proxy(grpc.GenericRpcHandler):
    """Passes on bytes; knows nothing of their meaning."""

    def __init__(self, behind: str) -> None:
        self._channel = grpc.insecure_channel(behind)
        # The refusals of the next Predict calls, in their order.
        self.refusals: list[tuple[grpc.StatusCode, str]] = []
        # The Predict requests that came, and from where.
        self.asked: list[bytes] = []
        self.peers: set[str] = set()
        self.address = ""
        # Stands behind each response.
        self.appended = b""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self._passer(details.method))

    def _passer(self, method: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.peers.add(context.peer())
            if method.endswith("/Predict"):
                self.asked.append(request)
                if self.refusals:
                    context.abort(*self.refusals.pop(0))
            try:
                return self._channel.unary_unary(method)(request, timeout=10) + self.appended
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
                raise

        return answer


@contextmanager
def proxy(behind: str, credentials: grpc.ServerCredentials | None = None, port: int = 0) -> Iterator[Proxy]:
    """Runs one, with TLS if credentials are given."""
    passing = Proxy(behind)
    options = [("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(8), options=options)
    server.add_generic_rpc_handlers((passing,))
    address = f"127.0.0.1:{port}"
    bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    passing.address = f"127.0.0.1:{bound}"
    server.start()
    try:
        yield passing
    finally:
        server.stop(None).wait()
