"""Names, types and places of the canonical tables; the columns are the fields of the messages in protos/."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from protos.events_pb2 import EventType, UserEvent
from protos.products_pb2 import Product
from protos.users_pb2 import User

# Reserved rows and ids, the same in every vocabulary and in both item numbers.
PADDING = 0
UNKNOWN = 1
FIRST = 2
# Of a product's features: what shoppers did with it in the training span, and its numbers (trainer/data.py).
BEHAVIOUR = "behaviour"
BEHAVIOUR_LENGTH = 5
# Line of a vocabulary file for the reserved ids. No checked value contains a control character.
RESERVED_LINES = ("", "\x01")

IMPRESSION = EventType.Value("IMPRESSION")
VIEW = EventType.Value("VIEW")
CLICK = EventType.Value("CLICK")
SEARCH = EventType.Value("SEARCH")
ADD_TO_CART = EventType.Value("ADD_TO_CART")
PURCHASE = EventType.Value("PURCHASE")

# Of the transform's output: counts by product, surface and position of the training span, an Arrow file; and the
# vocabulary of the surfaces, whose ids stand in the sequences.
POSITION_COUNTS_FILE = "position_counts.arrow"
SURFACES_FILE = "surface.txt"
# What it keeps of the events for the next transform (transform/read_step.py); no other step reads it.
DAYS_FOLDER = "days"
# Attribute of an event: the probability with which its product was looked at where it stood, as the shop logged it.
PROPENSITY_ATTRIBUTE = "propensity"

# "view", "add_to_cart" … → the enum's number; the number orders by strength of intent.
EVENT_TYPES: dict[str, int] = {
    name.lower(): number for name, number in EventType.items() if number != EventType.Value("EVENT_TYPE_UNSPECIFIED")
}

# The enum's number → "view", "add_to_cart" …, as the tables hold it.
TYPE_NAMES = {number: name for name, number in EVENT_TYPES.items()}

CATEGORY_SEPARATOR = " > "
# The feature that prices in buckets make.
PRICE_BUCKET = "price_bucket"
# Between the values of a cross: a control character, which no checked value contains.
CROSS_SEPARATOR = "\x1f"


def category_levels(path: str) -> list[str]:
    """The paths to each level of a category's path, root first: "A > B" → ["A", "A > B"]; "" has none."""
    levels = path.split(CATEGORY_SEPARATOR) if path else []
    return [CATEGORY_SEPARATOR.join(levels[: depth + 1]) for depth in range(len(levels))]


# An attribution token of a recommendation is "<version>:<request>": the version of the embeddings that answered, and
# whatever tells this answer from others. Tokens of other lists (search, category pages) have no colon.
_RECOMMENDATION_TOKEN = r"^(?P<version>[^:]+):(?P<request>.+)$"

_ARROW_TYPES = {
    FieldDescriptor.TYPE_STRING: pa.string(),
    FieldDescriptor.TYPE_BYTES: pa.binary(),
    FieldDescriptor.TYPE_INT64: pa.int64(),
    FieldDescriptor.TYPE_INT32: pa.int32(),
    FieldDescriptor.TYPE_FLOAT: pa.float32(),
    FieldDescriptor.TYPE_BOOL: pa.bool_(),
    # Enums are stored by their lower-case names, so that a table can be read without the protos.
    FieldDescriptor.TYPE_ENUM: pa.string(),
}


def _arrow_schema(message: type[Message]) -> pa.Schema:
    # Only repeated fields have lists as their defaults.
    return pa.schema(
        [
            (field.name, pa.list_(_ARROW_TYPES[field.type]) if field.default_value == [] else _ARROW_TYPES[field.type])
            for field in message.DESCRIPTOR.fields
        ]
    )


# A column that a shop does not have is absent from its Parquet file; a value it does not have is null.
EVENTS = _arrow_schema(UserEvent)
ITEMS = _arrow_schema(Product)
USERS = _arrow_schema(User)

SCHEMAS: dict[str, pa.Schema] = {"events": EVENTS, "items": ITEMS, "users": USERS}
REQUIRED_COLUMNS: dict[str, tuple[str, ...]] = {
    "events": ("user_id", "item_id", "type"),
    "items": ("item_id",),
    "users": ("user_id",),
}


def embedding_versions(tokens: pa.ChunkedArray) -> pa.ChunkedArray:
    """Versions of attribution tokens, string [rows]: null where a token is none of a recommendation."""
    return pc.struct_field(pc.extract_regex(tokens, _RECOMMENDATION_TOKEN), [0])


def table_files(data: Path, table: str) -> list[Path]:
    """Parquet files of one canonical table below `data`: `<table>.parquet`, or every file of the folder `<table>/`.

    Files of folders below count, but for those whose name or whose folder's begins with "_" or ".": what other
    programs are still writing, or tell each other.

    Raises:
        FileNotFoundError: neither is there, naming both.
    """
    single, folder = data / f"{table}.parquet", data / table
    if single.is_file():
        return [single]
    files = sorted(
        file
        for file in folder.rglob("*.parquet")
        if not any(part.startswith(("_", ".")) for part in file.relative_to(folder).parts)
    )
    if not files:
        raise FileNotFoundError(
            f"table {table!r} not found: expected the file {single} or Parquet files in {folder}/. "
            "Make the tables with `tandem import` or `tandem simulate`."
        )
    return files
