"""What can go wrong in serving: a request that can't be answered, or a set-up that can't be served."""

import grpc


class RequestError(Exception):
    """A request that gets an error as its answer: TensorFlow Serving's gRPC status code and message."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid_argument(message: str) -> RequestError:
    """The refusal of a request that is wrong in itself."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


class ServingError(RuntimeError):
    """Something whoever starts the server must put right: a file, a folder, a port. The message says what to do."""


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def status_code(number: int) -> grpc.StatusCode:
    """The gRPC status of a TensorFlow error code; both follow google.rpc.Code."""
    return _CODES.get(number, grpc.StatusCode.UNKNOWN)
