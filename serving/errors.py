"""What can go wrong in serving: a request that can't be answered, or a set-up that can't be served."""

from bisect import bisect_right
from itertools import accumulate

import grpc

# Bytes of a message in the trailers of gRPC, of which clients take 8 KB. It repeats names that a request gave, perhaps
# of megabytes.
_MESSAGE_BYTES = 6_000


class RequestError(Exception):
    """A request that gets an error as its answer: TensorFlow Serving's gRPC status code and message, cut if long."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self.code = code
        self.message = _cut(message)
        super().__init__(self.message)


def _cut(message: str) -> str:
    """The beginning of a message that fits into trailers, where all but printable ASCII is written as %XX."""
    sizes = (1 if " " <= character <= "~" else 3 * len(character.encode()) for character in message[:_MESSAGE_BYTES])
    kept = bisect_right(list(accumulate(sizes)), _MESSAGE_BYTES)
    return message if kept == len(message) else f"{message[:kept]} …"


def invalid_argument(message: str) -> RequestError:
    """The refusal of a request that is wrong in itself."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


class ServingError(RuntimeError):
    """Something whoever starts the server must put right: a file, a folder, a port. The message says what to do."""


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def status_code(number: int) -> grpc.StatusCode:
    """The gRPC status of a TensorFlow error code; both follow google.rpc.Code."""
    return _CODES.get(number, grpc.StatusCode.UNKNOWN)
