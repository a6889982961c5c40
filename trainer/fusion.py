"""What is known of a product by its id and by each kind of content → one vector."""

from typing import Protocol

import tensorflow as tf
import tf_keras

from trainer.dense import dense

_ABSENT = -1e9
_HEADS = 4


class Fusion(Protocol):
    """Vectors of modalities float32 [N, M, dim], the id's first, and which are there, bool [N, M] → [N, dim].

    What is not there has no say, whatever its vector. The id is always there: the vector of the unknown product is how
    an unknown id is told, so that an id that starts from that vector takes over as it is learned.
    """

    def __call__(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor: ...


class GatedFusion(tf_keras.layers.Layer):
    """item = Σ over modalities of g_m · v_m, with g = softmax over m of G [v_1; …; v_M; which are there], one gate for
    each dimension (gated multimodal units, Arevalo et al. 2017, with a softmax where they have a sigmoid)."""

    def __init__(self, modalities: int, dim: int) -> None:
        super().__init__(name="gated_fusion")
        self.gate = dense(modalities * dim, modalities * (dim + 1), "gate")

    def call(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """See `Fusion`."""
        modalities, dim = vectors.shape[1:]
        known = tf.cast(present, tf.float32)
        shown = tf.reshape(vectors * known[..., tf.newaxis], [-1, modalities * dim])
        logits = tf.reshape(self.gate(tf.concat([shown, known], axis=1)), [-1, modalities, dim])
        shares = tf.nn.softmax(tf.where(present[..., tf.newaxis], logits, _ABSENT), axis=1)
        return tf.reduce_sum(shares * vectors, axis=1)


class ConcatenatedFusion(tf_keras.layers.Layer):
    """content = W₂ gelu(W₁ [v_2; …; v_M; which are there]), item = g · id + (1 − g) · content, with the gate
    g = sigmoid(G [id; content])."""

    def __init__(self, modalities: int, dim: int) -> None:
        super().__init__(name="concatenated_fusion")
        self.hidden = dense(2 * dim, (modalities - 1) * (dim + 1), "hidden", "gelu")
        self.content = dense(dim, 2 * dim, "content")
        self.gate = dense(dim, 2 * dim, "gate", "sigmoid")

    def call(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """See `Fusion`."""
        modalities, dim = vectors.shape[1:]
        known = tf.cast(present, tf.float32)
        shown = tf.reshape((vectors * known[..., tf.newaxis])[:, 1:], [-1, (modalities - 1) * dim])
        content = self.content(self.hidden(tf.concat([shown, known[:, 1:]], axis=1)))
        ids = vectors[:, 0]
        gate = self.gate(tf.concat([ids, content], axis=1))
        nothing = ~tf.reduce_any(present[:, 1:], axis=1, keepdims=True)
        return tf.where(nothing, ids, gate * ids + (1.0 - gate) * content)


class AttendedFusion(tf_keras.layers.Layer):
    """item = id + O Σ over modalities of a_m · V v_m: the id looks at the content, in several heads (cross-attention,
    Vaswani et al. 2017)."""

    def __init__(self, modalities: int, dim: int) -> None:
        super().__init__(name="attended_fusion")
        self.heads = _HEADS if dim % _HEADS == 0 else 1
        self.names_of = self.add_weight(
            "names", (modalities, dim), initializer=tf_keras.initializers.RandomNormal(stddev=0.02)
        )
        self.query = dense(dim, dim, "query")
        self.key = dense(dim, dim, "key")
        self.value = dense(dim, dim, "value")
        self.projection = dense(dim, dim, "projection")

    def call(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """See `Fusion`."""
        dim, content = vectors.shape[2], vectors[:, 1:]

        def in_heads(values: tf.Tensor) -> tf.Tensor:
            return tf.reshape(values, [-1, values.shape[1], self.heads, dim // self.heads])

        query = in_heads(self.query(vectors[:, :1] + self.names_of[0]))
        keys, values = in_heads(self.key(content + self.names_of[1:])), in_heads(self.value(content))
        logits = tf.einsum("nqhd,nmhd->nhm", query, keys) / (dim // self.heads) ** 0.5
        there = present[:, tf.newaxis, 1:]
        weights = tf.nn.softmax(tf.where(there, logits, _ABSENT), axis=-1) * tf.cast(there, tf.float32)
        seen = tf.reshape(tf.einsum("nhm,nmhd->nhd", weights, values), [-1, dim])
        any_content = tf.cast(tf.reduce_any(present[:, 1:], axis=1, keepdims=True), tf.float32)
        return vectors[:, 0] + any_content * self.projection(seen)


FUSIONS = {"gate": GatedFusion, "concatenation": ConcatenatedFusion, "cross_attention": AttendedFusion}
