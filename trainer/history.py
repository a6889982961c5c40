"""What a shopper did, as vectors: products, event types, time gaps and positions."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow as tf
import tf_keras

from protos.events_pb2 import EventType
from transform.tables import PADDING

# Time-gap buckets end at 1, 2, 4 … 2²⁶ seconds (two years).
_GAP_BOUNDARIES = 27
GAP_BUCKETS = _GAP_BOUNDARIES + 2
HOUR_BUCKETS = 25
WEEKDAY_BUCKETS = 8
# Share of request gaps that training hides, so that a request without a time is no surprise.
_HIDDEN_GAPS = 0.1
EVENT_TYPE_BUCKETS = max(EventType.values()) + 1

HistoryBatch = Mapping[str, tf.Tensor]


def gap_buckets(earlier: tf.Tensor, later: tf.Tensor) -> tf.Tensor:
    """Logarithmic buckets of the time between two moments, int64 seconds of any one shape, 0 = unknown.

    Returns:
        int32 in [0, GAP_BUCKETS): 0 = unknown, 1 = less than a second, then one bucket per doubling.
    """
    return _buckets(tf.maximum(later - earlier, 0), (earlier > 0) & (later > 0))


def distance_buckets(timestamps: tf.Tensor) -> tf.Tensor:
    """`gap_buckets` of the time between any two slots, whichever is earlier: int64 [B, L] → int32 [B, L, L]."""
    known = timestamps > 0
    gap = tf.abs(timestamps[:, :, tf.newaxis] - timestamps[:, tf.newaxis, :])
    return _buckets(gap, known[:, :, tf.newaxis] & known[:, tf.newaxis, :])


def _buckets(gap: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
    """Of gaps of at least 0, int64 seconds; 0 where not known."""
    # The exponent of a float64 is the whole part of the logarithm, exactly; that of 0 is far below 0.
    exponent = tf.bitwise.right_shift(tf.bitcast(tf.cast(gap, tf.float64), tf.int64), 52) - 1_023
    bucket = 2 + tf.cast(tf.clip_by_value(exponent, -1, _GAP_BOUNDARIES - 1), tf.int32)
    return tf.where(known, bucket, 0)


def times_before(history: HistoryBatch) -> tf.Tensor:
    """Time of the interaction before each slot: int64 [B, L] seconds, 0 = unknown."""
    return tf.pad(history["history_timestamps"][:, :-1], [[0, 0], [1, 0]])


def times_after(history: HistoryBatch) -> tf.Tensor:
    """When the shopper came back after each slot: the next later time of the history, after the newest the request.

    All interactions of a basket have the same one: a basket has no inner order.

    Args:
        history: history_timestamps int64 [B, L] seconds, in time order; context_timestamp int64 [B]; 0 = unknown.

    Returns:
        int64 [B, L] seconds.
    """
    timestamps = history["history_timestamps"]
    each, other = timestamps[:, :, tf.newaxis], timestamps[:, tf.newaxis, :]
    nearest = tf.reduce_min(tf.where(other > each, other, tf.int64.max), axis=2)
    return tf.where(nearest == tf.int64.max, history["context_timestamp"][:, tf.newaxis], nearest)


def hour_buckets(timestamps: tf.Tensor) -> tf.Tensor:
    """Hour of the day (UTC) plus one, int32 in [0, HOUR_BUCKETS); 0 = unknown. Takes int64 seconds of any shape."""
    hour = tf.cast((timestamps // 3_600) % 24, tf.int32) + 1
    return tf.where(timestamps > 0, hour, 0)


def weekday_buckets(timestamps: tf.Tensor) -> tf.Tensor:
    """Day of the week (UTC): 1 = Monday to 7 = Sunday, int32; 0 = unknown. Takes int64 seconds of any shape."""
    # 1970-01-01 was a Thursday.
    weekday = tf.cast((timestamps // 86_400 + 3) % 7, tf.int32) + 1
    return tf.where(timestamps > 0, weekday, 0)


class ClockFeature(NamedTuple):
    """A number that models read of a request's time."""

    size: int  # of its embedding
    buckets: Callable[[tf.Tensor], tf.Tensor]  # of int64 seconds of any shape


# By the names of `transform.feature_schema.CLOCK_FEATURES`.
CLOCK = {"hour": ClockFeature(HOUR_BUCKETS, hour_buckets), "weekday": ClockFeature(WEEKDAY_BUCKETS, weekday_buckets)}


class HistoryEmbedding(tf_keras.layers.Layer):
    """Sum of a product's vector and learned embeddings of event type, time gap and position.

    Positions count from the newest interaction, so that padding changes nothing. A padding slot gets one learned
    vector, "nothing yet": it is what an empty history looks like, and what precedes a shopper's first interaction.
    """

    def __init__(self, dim: int, max_length: int, has_timestamps: bool, positions: bool, name: str = "history") -> None:
        super().__init__(name=name)
        self.dim = dim
        self.max_length = max_length
        self.has_timestamps = has_timestamps
        self.type_embedding = self._embedding("type_embedding", EVENT_TYPE_BUCKETS)
        self.nothing = self._embedding("nothing", 1)
        self.gap_embedding = self._embedding("gap_embedding", GAP_BUCKETS) if has_timestamps else None
        self.position_embedding = self._embedding("position_embedding", max_length) if positions else None

    def _embedding(self, name: str, size: int) -> tf.Variable:
        initializer = tf_keras.initializers.RandomNormal(stddev=0.02)
        return self.add_weight(name, (size, self.dim), initializer=initializer)

    def call(self, items: tf.Tensor, history: HistoryBatch) -> tf.Tensor:
        """Vectors of the slots of left-padded histories.

        Args:
            items: [B, L, dim] vectors of `history_rows`.
            history: history_rows, history_types int32 [B, L]; history_timestamps int64 [B, L] seconds.

        Returns:
            [B, L, dim].

        Raises:
            ValueError: L is greater than the length the model was made for.
        """
        length = items.shape[1]
        if length > self.max_length:
            raise ValueError(
                f"histories are {length} long, the model was made for history_length = {self.max_length}: "
                "keep the newest interactions only."
            )
        # As in SASRec (Kang and McAuley 2018): products outweigh what is added to them.
        slots = items * self.dim**0.5 + tf.gather(self.type_embedding, history["history_types"])
        if self.gap_embedding is not None:
            buckets = gap_buckets(times_before(history), history["history_timestamps"])
            slots += tf.gather(self.gap_embedding, buckets)
        if self.position_embedding is not None:
            slots += self.position_embedding[:length][::-1]
        valid = (history["history_rows"] > PADDING)[..., tf.newaxis]
        return tf.where(valid, slots, self.nothing)


class RequestGapEmbedding(tf_keras.layers.Layer):
    """Learned embedding of the time from an interaction to the request that follows it.

    It tells whether the question is what comes next in this visit or when the shopper is back next week.
    """

    def __init__(self, dim: int, name: str = "request_gap") -> None:
        super().__init__(name=name)
        initializer = tf_keras.initializers.RandomNormal(stddev=0.02)
        self.embedding = self.add_weight("embedding", (GAP_BUCKETS, dim), initializer=initializer)

    def call(self, interaction: tf.Tensor, request: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """int64 seconds of any one shape [...], 0 = unknown → [..., dim]; with a seed, a random tenth is hidden."""
        buckets = gap_buckets(interaction, request)
        if seed is not None:
            hidden = tf.random.stateless_uniform(buckets.shape, seed, alg="philox") < _HIDDEN_GAPS
            buckets = tf.where(hidden, 0, buckets)
        return tf.gather(self.embedding, buckets)
