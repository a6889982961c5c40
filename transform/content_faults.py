"""Content of products that cannot be read as it is: what is left out or cut, and how often, by name.

No product is refused for it: it goes on with what it has.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transform.config import TransformConfig
from transform.feature_schema import TEXT_CHARACTERS
from transform.pictures import picture_size

# Fault → what it means, after the number of products.
FAULTS = {
    "no_title": "without a title",
    "wordless_title": "with a title without any letter or digit, which says nothing to the models",
    "unknown_words": "with a title of words that were not in the training catalogue: only their letters are read",
    "no_category": "without a category",
    "unknown_category": "in a category that was not in the training catalogue: known levels above it are read",
    "no_price": "without a price",
    "zero_price": "with a price of 0, which is read as no price",
    "no_picture": "without a picture",
    "unreadable_picture": "with a picture that is neither PNG nor JPEG, which is left out",
    "giant_picture": "with a picture above transform.max_image_bytes or max_image_side, which is left out",
    "long_title": f"with a title of more than {TEXT_CHARACTERS:,} characters, the rest of which is cut off",
    "long_description": f"with a description of more than {TEXT_CHARACTERS:,} characters, the rest of which is cut off",
}
# What a product may lack → its column.
LACKS = {"no_title": "title", "no_category": "category", "no_price": "price", "no_picture": "image"}


@dataclass(frozen=True)
class PictureLimits:
    """Larger pictures are left out."""

    bytes: int = TransformConfig.max_image_bytes
    side: int = TransformConfig.max_image_side  # pixels


def picture_limits(config: TransformConfig) -> PictureLimits:
    """As they are configured."""
    return PictureLimits(config.max_image_bytes, config.max_image_side)


def clean_content(items: pa.Table, limits: PictureLimits) -> tuple[pa.Table, dict[str, int]]:
    """Good rows of an items table (canonical types) without what cannot be read, and products by fault.

    Pictures that are unreadable or giant become null, as does a price of 0 (a shop that gives something away is rarer
    than one that writes 0 where it knows no price, and next to real prices 0 is further out than any of them); texts
    end after TEXT_CHARACTERS. What a product lacks is counted last, and only where the table has the column. Faults
    that nobody has are not named.
    """
    faults: dict[str, int] = {}
    for text in ("title", "description"):
        if text in items.column_names:
            items, faults[f"long_{text}"] = _cut(items, text)
    if "price" in items.column_names:
        items, faults["zero_price"] = _without(items, "price", pc.equal(items["price"], 0))
    if "image" in items.column_names:
        unreadable, giant = _bad_pictures(items["image"], limits)
        items, faults["unreadable_picture"] = _without(items, "image", pa.array(unreadable))
        items, faults["giant_picture"] = _without(items, "image", pa.array(giant))
    if "title" in items.column_names:
        faults["wordless_title"] = _count(is_wordless(items["title"]))
    faults |= {name: _lacking(items[column]) for name, column in LACKS.items() if column in items.column_names}
    return items, sorted_faults(faults)


def is_wordless(titles: pa.ChunkedArray) -> pa.ChunkedArray:
    """Bool [N], null where there is no title: a text, but none that `tokenize` finds a word in."""
    has_word = pc.match_substring_regex(titles, r"[\p{L}\p{N}]")
    return pc.and_(pc.invert(has_word), pc.not_equal(titles, ""))


def sorted_faults(faults: Mapping[str, int]) -> dict[str, int]:
    """Those that were met, in the order in which people read them."""
    return {name: faults[name] for name in FAULTS if faults.get(name)}


def fault_sentences(faults: Mapping[str, int]) -> list[str]:
    """One plain sentence for each fault."""
    return [
        f"{faults[name]:,} product{'s' if faults[name] > 1 else ''} {FAULTS[name]}." for name in sorted_faults(faults)
    ]


def _cut(items: pa.Table, column: str) -> tuple[pa.Table, int]:
    texts = items[column]
    long = pc.greater(pc.utf8_length(texts), TEXT_CHARACTERS)
    count = _count(long)
    if not count:
        return items, 0
    cut = pc.utf8_slice_codeunits(texts, 0, TEXT_CHARACTERS)
    return items.set_column(items.column_names.index(column), items.schema.field(column), cut), count


def _without(items: pa.Table, column: str, bad: pa.Array | pa.ChunkedArray) -> tuple[pa.Table, int]:
    """The table with null where `bad`, bool [N], holds."""
    count = _count(bad)
    if not count:
        return items, 0
    field = items.schema.field(column)
    kept = pc.if_else(bad, pa.scalar(None, field.type), items[column])
    return items.set_column(items.column_names.index(column), field, kept), count


def _bad_pictures(pictures: pa.ChunkedArray, limits: PictureLimits) -> tuple[np.ndarray, np.ndarray]:
    """Unreadable and giant ones, bool [N] each; empty bytes are no picture at all."""
    unreadable, giant = np.zeros((2, len(pictures)), bool)
    for place, picture in enumerate(pictures):
        # Arrow's buffers call their bytes signed.
        data = memoryview(picture.as_buffer()).cast("B") if picture.is_valid else b""
        if not len(data):
            continue
        size = picture_size(data)
        unreadable[place] = size is None
        giant[place] = size is not None and (len(data) > limits.bytes or max(size) > limits.side)
    return unreadable, giant


def _lacking(column: pa.ChunkedArray) -> int:
    """Products without a value, or with an empty one."""
    if pa.types.is_floating(column.type):
        return int(column.null_count)
    return _count(pc.equal(pc.fill_null(pc.binary_length(column), 0), 0))


def _count(condition: pa.Array | pa.ChunkedArray) -> int:
    return int(pc.sum(condition).as_py() or 0)
