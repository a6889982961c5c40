"""The feature schema, its vocabularies and the tokeniser: what the transform, the models and the export agree on."""

from collections.abc import Sequence
from pathlib import Path

import farmhash
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import text_format

from protos.feature_schema_pb2 import Feature, FeatureSchema
from transform.checks import DataError
from transform.tables import FIRST, PADDING, RESERVED_LINES, UNKNOWN

SCHEMA_FILE = "feature_schema.pbtxt"
VOCABULARY_FOLDER = "vocabularies"
# Line number = catalogue row.
ITEM_IDS_FILE = "item_ids.txt"

# What models can read of a request's time, in their order; and what they read where the schema says nothing of it.
CLOCK_FEATURES = ("hour", "weekday")
DEFAULT_CLOCK = ("hour",)

# A text becomes tokens by: each rewrite in order, lower case, everything that TOKEN_PATTERN matches to a space,
# split at spaces. The same four steps in a TensorFlow graph are tf.strings.regex_replace(…, old, new),
# tf.strings.lower(…, encoding="utf-8"), tf.strings.regex_replace(…, TOKEN_PATTERN, " "), tf.strings.split(…).
TOKEN_PATTERN = r"[^\p{L}\p{N}]+"
# Of a text, the characters (code points) that are kept and read: what follows is not.
TEXT_CHARACTERS = 2_000
# Capitals whose lower case depends on the library: TensorFlow (ICU) makes a combining dot of the first and looks at
# the neighbours of the second, Arrow does neither.
TOKEN_REWRITES = (("İ", "i"), ("Σ", "σ"))


def write_schema(directory: Path, schema: FeatureSchema) -> None:
    """Writes `schema` as text to `directory`/feature_schema.pbtxt."""
    (directory / SCHEMA_FILE).write_text(text_format.MessageToString(schema, as_utf8=True), encoding="utf-8")


def read_schema(directory: Path) -> FeatureSchema:
    """The feature schema that `tandem transform` wrote into `directory`.

    Raises:
        FileNotFoundError: there is none.
        DataError: the file is not a feature schema.
    """
    file = directory / SCHEMA_FILE
    if not file.is_file():
        raise FileNotFoundError(f"no {SCHEMA_FILE} in {directory}: run `tandem transform` first.")
    try:
        return text_format.Parse(file.read_text(encoding="utf-8"), FeatureSchema())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a feature schema in protobuf's text form: {error}.") from error


def write_vocabulary(file: Path, values: list[str]) -> None:
    """Writes `values` (without the reserved lines) as a vocabulary: line number = id, from 0."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(f"{value}\n" for value in (*RESERVED_LINES, *values))


def read_vocabulary(path: Path) -> list[str]:
    """Values of a vocabulary file by id, the two reserved lines included.

    Raises:
        DataError: the reserved lines are not at its start.
    """
    # Not splitlines(), which also splits at control characters such as the reserved \x01's neighbours.
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if tuple(lines[: len(RESERVED_LINES)]) != RESERVED_LINES:
        raise DataError(
            f"{path}: a vocabulary must begin with the reserved lines {RESERVED_LINES!r}, received {lines[:2]!r}. "
            "Run `tandem transform` again."
        )
    return lines


class Vocabulary:
    """Values and their ids: after the reserved ones those of its words, then the buckets that all others share.

    Attributes:
        words: values with an id of their own, by id from FIRST.
        oov_buckets: ids that others share; 0 = they have the id 1.
    """

    def __init__(self, words: Sequence[str], oov_buckets: int = 0) -> None:
        self.words = words
        self.oov_buckets = oov_buckets
        self._values = pa.array(words, pa.string())

    @classmethod
    def of(cls, directory: Path, feature: Feature) -> "Vocabulary":
        """That of a feature of the schema in `directory`."""
        words = read_vocabulary(directory / VOCABULARY_FOLDER / feature.vocabulary)[FIRST:]
        return cls(words, feature.oov_buckets)

    @property
    def lines(self) -> list[str]:
        """What each id stands for; no value is like the lines of the reserved ids and of the buckets."""
        buckets = (f"\x01{number}/{self.oov_buckets}" for number in range(self.oov_buckets))
        return [*RESERVED_LINES, *self.words, *buckets]

    def ids(self, values: pa.Array) -> np.ndarray:
        """int64 [values]: 0 where null or empty.

        A value outside of the vocabulary has the bucket farmhash's Fingerprint64 of its UTF-8 modulo their number, as
        TensorFlow's `to_hash_bucket_fast` has it in a graph. Raises ValueError on a zero byte, which no checked value
        contains.
        """
        absent = pc.fill_null(pc.equal(values, ""), True).to_numpy(zero_copy_only=False)
        places = pc.fill_null(pc.index_in(values, value_set=self._values), UNKNOWN - FIRST)
        found = np.where(absent, PADDING, places.to_numpy().astype(np.int64) + FIRST)
        unknown = found == UNKNOWN
        if self.oov_buckets and unknown.any():
            encoded = values.filter(pa.array(unknown)).dictionary_encode()
            hashes = [farmhash.fingerprint64(value) % self.oov_buckets for value in encoded.dictionary.to_pylist()]
            found[unknown] = FIRST + len(self.words) + np.array(hashes, np.int64)[encoded.indices.to_numpy()]
        return found


def clock_features(schema: FeatureSchema) -> tuple[str, ...]:
    """Of CLOCK_FEATURES, what models read of a request's time; nothing where events have no clock."""
    if not schema.has_timestamps:
        return ()
    return tuple(schema.clock.features) if schema.HasField("clock") else DEFAULT_CLOCK


def id_count(feature: Feature) -> int:
    """Ids of a feature with a vocabulary: the reserved ones, those of its values, its buckets."""
    return int(feature.vocabulary_size) + int(feature.oov_buckets)


def tokenize(texts: pa.Array) -> pa.ListArray:
    """Tokens of each text: list<string> [rows]; null and empty texts have no token.

    The rule stands beside TOKEN_PATTERN; upper and lower case, punctuation and spacing make no difference.
    """
    folded = texts
    for old, new in TOKEN_REWRITES:
        folded = pc.replace_substring(folded, pattern=old, replacement=new)
    spaced = pc.replace_substring_regex(pc.utf8_lower(folded), pattern=TOKEN_PATTERN, replacement=" ")
    # Splitting leaves one empty token where a text is empty or begins or ends with a separator.
    pieces = pc.split_pattern(pc.fill_null(spaced, ""), pattern=" ")
    tokens = pieces.flatten()
    kept = pc.not_equal(tokens, "")
    counts = np.concatenate([[0], np.cumsum(kept.to_numpy(zero_copy_only=False))])
    offsets = counts[pieces.offsets.to_numpy() - pieces.offsets[0].as_py()]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), tokens.filter(kept))
