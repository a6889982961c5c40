"""Configuration files in protobuf's text form."""

from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from serving.errors import ServingError

_Message = TypeVar("_Message", bound=Message)


def read_text_proto(path: Path, message: _Message, example: str) -> _Message:
    """Reads a file into `message`, and returns it.

    Args:
        path: the file.
        message: an empty message of the type that the file holds.
        example: what such a file may hold, for whoever has to put it right.

    Raises:
        ServingError: the file is missing, or doesn't hold such a message.
    """
    kind = message.DESCRIPTOR.name
    if not path.is_file():
        raise ServingError(f"{path}: no such file; it holds a {kind} in text form, for example: {example}")
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), message)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ServingError(f"{path}: not a {kind} in text form: {error}. An example: {example}") from None
