"""Stage one: a query tower over history and context beside an item tower, trained by sampled softmax."""

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras

from trainer.catalogue_encoder import CatalogueEncoder
from trainer.config import RetrievalConfig
from trainer.data import Catalogue
from trainer.history import CLOCK, HistoryBatch, HistoryEmbedding, RequestGapEmbedding
from trainer.item_encoder import ItemEncoder
from trainer.model_files import load_weights, read_description
from trainer.negatives import negative_mask
from trainer.pooling import CausalPooling
from trainer.transformer import dropout, split_seed
from transform.feature_schema import clock_features, id_count
from transform.tables import PADDING

_CONTEXT_FEATURES = ("device", "region")
# Squared length below which an item embedding counts as having none.
_SMALLEST_SQUARE = 1e-12


class RetrievalModel(tfrs.models.Model):
    """Two towers on one sphere; the score of a product is the dot product of its vector and the query's.

    Item tower: fused item representation → linear → norm 1. Query tower: pooled causal attention over the history, the
    newest product and the context → MLP; added to it are the vector of the newest product and each head's mean of those
    in the history, so that a query lies near what the shopper met before anything is learned → norm 1. It reads no user
    id, so a new visitor works from the first click.

    Attributes:
        temperature: divides the scores in the loss.
    """

    def __init__(self, catalogue: Catalogue, config: RetrievalConfig) -> None:
        super().__init__()
        self.config = config
        self.temperature = config.temperature
        schema = catalogue.schema
        self.item_encoder = ItemEncoder(schema, config, embedding_devices=config.training.embedding_devices)
        self.products = CatalogueEncoder(catalogue, self.item_encoder)
        self.history_embedding = HistoryEmbedding(
            config.dim, config.history_length, has_timestamps=schema.has_timestamps, positions=False
        )
        self.pooling = CausalPooling(config.dim, config.heads, config.history_length)
        self.has_timestamps = schema.has_timestamps
        self.context_features = tuple(feature.name for feature in schema.context if feature.name in _CONTEXT_FEATURES)
        sizes = {feature.name: id_count(feature) for feature in schema.context}
        self.context_embeddings = {name: self._embedding(name, sizes[name]) for name in self.context_features}
        self.clock_features = clock_features(schema)
        if "hour" in self.clock_features:
            self.hour_embedding = self._embedding("hour", CLOCK["hour"].size)
        if "weekday" in self.clock_features:
            self.weekday_embedding = self._embedding("weekday", CLOCK["weekday"].size)
        if self.has_timestamps:
            self.request_gap = RequestGapEmbedding(config.dim)
        self.query_norm = tf_keras.layers.LayerNormalization(epsilon=1e-6, name="query_norm")
        self.query_hidden = tf_keras.layers.Dense(4 * config.dim, activation="gelu", name="query_hidden")
        self.query_output = tf_keras.layers.Dense(config.dim, name="query_output")
        self.echo_weights = tf_keras.layers.Dense(config.heads, bias_initializer="ones", name="echo_weights")
        self.item_projection = tf_keras.layers.Dense(config.dim, use_bias=False, name="item_projection")
        self.retrieval_task = tfrs.tasks.Retrieval()
        self._build_layers()

    def query_embeddings(self, batch: HistoryBatch, table: tf.Tensor | None = None) -> tf.Tensor:
        """Queries of shoppers.

        Args:
            batch: left-padded histories, newest last: history_rows, history_types int32 [B, L], history_timestamps
                int64 [B, L] seconds; context_timestamp int64 [B], context_device, context_region int32 [B].
            table: [V, dim] from `item_table()`, which spares encoding the catalogue anew.

        Returns:
            [B, dim], each of norm 1.
        """
        rows = batch["history_rows"]
        items = self.products.gather([rows])[0] if table is None else tf.gather(table, rows)
        slots = self.history_embedding(items, batch)
        pooled, echoes = self.pooling(slots, self.project_items(items), rows > PADDING, newest_only=True)
        times = batch["history_timestamps"][:, -1]
        return self._query(pooled[:, 0], echoes[:, 0], items[:, -1], times, batch)

    def item_table(self) -> tf.Tensor:
        """Fused item representations of the whole catalogue, [V, dim]: what `query_embeddings` takes as `table`."""
        return self.products.table()

    def candidate_embeddings(self, rows: tf.Tensor) -> tf.Tensor:
        """Vectors of catalogue rows, int32 [N] → [N, dim], each of norm 1."""
        return self.project_items(self.products.vectors(rows))

    def project_items(self, items: tf.Tensor) -> tf.Tensor:
        """The item tower above the fused item representation: [N, dim] → [N, dim], each of norm 1."""
        return tf.math.l2_normalize(self.item_projection(items), axis=-1, epsilon=_SMALLEST_SQUARE)

    def unprojected_queries(self, queries: tf.Tensor) -> tf.Tensor:
        """Queries for fused item representations as they are: [N, dim] → [N, dim].

        query · candidate embedding = (unprojected query · fused representation) / |projected representation|, which
        spares projecting every candidate; see `projected_norms`.
        """
        return tf.matmul(queries, self.item_projection.kernel, transpose_b=True)

    def projected_norms(self, items: tf.Tensor) -> tf.Tensor:
        """Lengths that `project_items` divides by: [N, dim] → [N]."""
        return tf.sqrt(tf.maximum(tf.reduce_sum(self.item_projection(items) ** 2, axis=-1), _SMALLEST_SQUARE))

    def position_queries(self, inputs: Mapping[str, tf.Tensor], table: tf.Tensor) -> tf.Tensor:
        """Queries of the positives of a training step, nothing dropped out: [P, dim], each of norm 1.

        Args:
            inputs: histories [B, L]; positive_slots int32 [P], flat indices into [B·L]; the context of each [P].
            table: [V, dim] from `item_table()`.
        """
        return self._position_queries(inputs, tf.gather(table, inputs["history_rows"]))

    def compute_loss(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Mean sampled softmax loss (nats) over the step's positives.

        Candidates are the positives, the positives once more as one another's negatives, the uniform negatives and,
        where there are any, each row's own hard negatives. A sampled negative's logit is corrected by −log of its
        expected count among the negatives; the row's own positive is not, since it is there for certain. The partition
        function is then estimated without bias (Khrylchenko et al. 2025, "Correcting the LogQ correction"). TFRS's own
        correction clips probabilities at 1e-6 and corrects the positive too; ours rides in one more dimension:
        [query/τ, 1] · [item, −log count].

        Hard negatives are terms added to that estimate, see `_with_own_negatives`.

        Args:
            inputs: what `trainer.retrieval_training` makes: histories [B, L]; positive_slots int32 [P], flat indices
                into [B·L]; positive_rows int32 [P] (0 = none) and positive_weights float32 [P]; negative_rows int32
                [U]; negative_log_counts [P + U]; perhaps hard_negative_rows int32 [P, H] (0 = none); the context of
                each positive [P]; seed int32 [2].
            training: drops out, and hides ids.
        """
        item_seed, slot_seed, query_seed = split_seed(inputs["seed"] if training else None, 3)
        rows = [inputs["history_rows"], inputs["positive_rows"], inputs["negative_rows"]]
        rows += [inputs["hard_negative_rows"]] if "hard_negative_rows" in inputs else []
        items, positives, negatives, *hard = self.products.gather(rows, training and item_seed is not None, item_seed)
        queries = self._position_queries(inputs, items, slot_seed, query_seed) / self.temperature
        candidates = self.project_items(tf.concat([positives, positives, negatives], axis=0))
        count = tf.shape(positives)[0]
        log_counts = tf.concat([tf.zeros([count]), inputs["negative_log_counts"]], axis=0)
        parts = (
            tf.concat([queries, tf.ones([count, 1])], axis=1),
            tf.concat([candidates, -log_counts[:, tf.newaxis]], axis=1),
            tf.concat([tf.eye(count, dtype=tf.bool), negative_mask(inputs)], axis=1),
        )
        if hard:
            logits = tf.einsum("pd,phd->ph", queries, self.project_items(hard[0]))
            parts = _with_own_negatives(*parts, logits, inputs["hard_negative_rows"] > PADDING)
        queries, candidates, mask = parts
        weights = inputs["positive_weights"]
        loss = self.retrieval_task(queries, candidates, sample_weight=weights, score_mask=mask, compute_metrics=False)
        return loss / tf.maximum(tf.reduce_sum(weights), 1.0)

    def _position_queries(
        self,
        inputs: Mapping[str, tf.Tensor],
        items: tf.Tensor,
        slot_seed: tf.Tensor | None = None,
        query_seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """`position_queries` from the fused representations of `history_rows`, [B, L, dim]; seeds drop out."""
        slots = dropout(self.history_embedding(items, inputs), self.config.dropout, slot_seed)
        pooled, echoes = self.pooling(slots, self.project_items(items), inputs["history_rows"] > PADDING)

        def of_positives(values: tf.Tensor) -> tf.Tensor:
            return tf.gather(tf.reshape(values, [-1, *values.shape[2:]]), inputs["positive_slots"])

        return self._query(
            of_positives(pooled),
            of_positives(echoes),
            of_positives(items),
            of_positives(inputs["history_timestamps"]),
            inputs,
            query_seed,
        )

    def _query(
        self,
        pooled: tf.Tensor,
        echoes: tf.Tensor,
        newest: tf.Tensor,
        newest_times: tf.Tensor,
        context: Mapping[str, tf.Tensor],
        seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Pooled history [N, dim], its means of item vectors [N, heads, dim], newest product [N, dim] and its time
        int64 [N], context [N] → [N, dim] of norm 1."""
        gap_seed, hidden_seed = split_seed(seed, 2)
        parts = [pooled, newest * self.config.dim**0.5]
        for name in self.clock_features:
            buckets = CLOCK[name].buckets(context["context_timestamp"])
            parts.append(tf.gather(getattr(self, f"{name}_embedding"), buckets))
        if self.has_timestamps:
            parts.append(self.request_gap(newest_times, context["context_timestamp"], gap_seed))
        parts += [
            tf.gather(self.context_embeddings[name], context[f"context_{name}"]) for name in self.context_features
        ]
        hidden = self.query_hidden(self.query_norm(tf.concat(parts, axis=-1)))
        hidden = dropout(hidden, self.config.dropout, hidden_seed)
        echo = tf.einsum("nh,nhd->nd", self.echo_weights(hidden), echoes)
        query = self.query_output(hidden) + echo + self.item_projection(newest)
        return tf.math.l2_normalize(query, axis=-1, epsilon=1e-12)

    def _embedding(self, name: str, size: int) -> tf.Variable:
        initializer = tf_keras.initializers.RandomNormal(stddev=0.02)
        return self.add_weight(f"{name}_embedding", (size, self.config.dim), initializer=initializer)

    def _build_layers(self) -> None:
        dim = self.config.dim
        parts = 2 + self.has_timestamps + len(self.clock_features) + len(self.context_features)
        self.history_embedding.build(None)
        self.pooling.build(None)
        self.query_norm.build((None, parts * dim))
        self.query_hidden.build((None, parts * dim))
        self.echo_weights.build((None, 4 * dim))
        self.query_output.build((None, 4 * dim))
        self.item_projection.build((None, dim))


def _with_own_negatives(
    queries: tf.Tensor, candidates: tf.Tensor, mask: tf.Tensor, logits: tf.Tensor, there: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Adds each query's own negatives to its softmax.

    They ride as one more candidate, whose logit is the logarithm of their summed exponentials, in one more dimension:
    [query, that] · [0, 1].

    Each is a term as it is, of weight 1, as in DPR (Karpukhin et al. 2020) and ANCE (Xiong et al. 2021). The sampled
    negatives already stand for the whole catalogue, so that a product at one of R mined ranks, of which H are drawn,
    counts 1 + H / R times in expectation instead of once: a bounded extra weight for what the model confuses with the
    positive, and that is what is wanted. A weight of R / H each would count those ranks twice. Multiple importance
    sampling (Veach and Guibas 1995) would correct every negative, mined or sampled, by the sum of both expected counts
    and stay without bias; for that the step would have to know of every sampled negative whether it stood at a mined
    rank of each row, and all it gains is less variance in a sum of which the sampled ones already see the most part.

    Args:
        queries: [P, d].
        candidates: [C, d].
        mask: bool [P, C], candidates that count.
        logits: [P, H] of each query's own negatives.
        there: bool [P, H], those that count.

    Returns:
        [P, d + 1], [C + 1, d + 1] and bool [P, C + 1].
    """
    any_there = tf.reduce_any(there, axis=1, keepdims=True)
    summed = tf.reduce_logsumexp(tf.where(there, logits, logits.dtype.min), axis=1, keepdims=True)
    width = candidates.shape[1]
    return (
        tf.concat([queries, tf.where(any_there, summed, 0.0)], axis=1),
        tf.concat([tf.pad(candidates, [[0, 0], [0, 1]]), tf.one_hot([width], width + 1)], axis=0),
        tf.concat([mask, any_there], axis=1),
    )


def load_retrieval(directory: Path, catalogue: Catalogue) -> RetrievalModel:
    """The model that `tandem train-retrieval` left in `directory`, over the products of `catalogue`.

    Raises:
        ModelFilesError: `directory` holds none, or one for another feature schema.
    """
    config = RetrievalConfig(**read_description(directory, "retrieval", catalogue.schema))
    model = RetrievalModel(catalogue, config)
    load_weights(directory, model)
    return model
