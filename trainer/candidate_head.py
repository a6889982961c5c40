"""The last word of stage two: orders a short list of candidates by both stages' scores and what else is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras

from trainer.candidate_features import CANDIDATE_GROUPS, SHOPPER_GROUPS, Candidates, FeatureGroup, groups_of, unmet
from trainer.config import HeadConfig, Part
from trainer.data import Catalogue
from trainer.history import CLOCK
from trainer.model_files import load_weights, read_description, save_model
from transform.feature_schema import clock_features, id_count

KIND = "head"
# Of the features: which candidates training never met.
UNMET = "unmet"
_AGE = "log_days_known"
# Unmet candidates in the lists that a head is fitted to, from which it learns what their age says.
_ENOUGH_UNMET = 1_000
# What a learned combination starts from: the spread of the retrieval's scores counts this much of the ranker's.
_FIRST_RETRIEVAL_WEIGHT = 0.3
# Standard deviations from the mean at which a feature is cut, so that a strange request stays near what was learned.
_LARGEST = 5.0

# Name → values: "candidate" float32 [B, C, F], "shopper" float32 [B, S], NaN = unknown; "device", "region", "hour",
# "weekday" int32 [B], 0 = unknown; "unmet" float32 [B, C]. Only what the head's parts read.
Features = dict[str, tf.Tensor]


class CandidateHead(tf_keras.Model):
    """Both scores, weighted, plus a small network of candidate and shopper:

        score  = a · ranker / σ₁ + w · retrieval / σ₂ + u · candidate + v · relu(W [candidate; shopper] + context)

    Features are standardised by constants; unknown ones are their mean. `u` and `v` start at zero, so that an untrained
    head orders as a ranker plus a share of the retrieval, and one without parts hands the ranker's score through. A
    score depends on the candidate and the request, never on the other candidates of the list. Products that training
    never met get a bonus, where the configuration tolerates what it costs.

    Attributes:
        parts: those of the configuration that the data can fill.
    """

    def __init__(self, catalogue: Catalogue, config: HeadConfig) -> None:
        super().__init__(name=KIND)
        self.config = config
        self.candidate_groups = groups_of(CANDIDATE_GROUPS, catalogue, config.parts)
        self.shopper_groups = groups_of(SHOPPER_GROUPS, catalogue, config.parts)
        self.context_sizes = _context_sizes(catalogue) if "context" in config.parts else {}
        self.parts = self._parts()
        self.candidate_names = _names(self.candidate_groups)
        self.shopper_names = _names(self.shopper_groups)
        if self.parts:
            self._add_weights()
        if config.new_product_tolerance:
            self.new_product_bonus = self.add_weight("new_product_bonus", (), initializer="zeros", trainable=False)

    def features(self, candidates: Candidates) -> Features:
        """What the head reads of candidates, beside their scores."""
        features = {}
        if self.candidate_groups:
            features["candidate"] = _stacked(self.candidate_groups, candidates)
        if self.shopper_groups:
            features["shopper"] = _stacked(self.shopper_groups, candidates)
        if self.config.new_product_tolerance or _AGE in self.candidate_names:
            features[UNMET] = unmet(candidates)
        batch = candidates.batch
        ids = {
            name: CLOCK[name].buckets(batch["context_timestamp"]) if name in CLOCK else batch[f"context_{name}"]
            for name in self.context_sizes
        }
        return features | ids

    def score(self, features: Features, ranker_scores: tf.Tensor, retrieval_scores: tf.Tensor) -> tf.Tensor:
        """Scores of candidates, higher is better.

        Args:
            features: of `features`.
            ranker_scores: float32 [B, C].
            retrieval_scores: float32 [B, C].

        Returns:
            float32 [B, C].
        """
        scores = self._learned_score(features, ranker_scores, retrieval_scores) if self.parts else ranker_scores
        return scores + self.new_product_bonus * features[UNMET] if self.config.new_product_tolerance else scores

    def _learned_score(self, features: Features, ranker_scores: tf.Tensor, retrieval_scores: tf.Tensor) -> tf.Tensor:
        scores = self.score_weights[0] * ranker_scores / self.score_scales[0]
        if "retrieval" in self.parts:
            scores += self.score_weights[1] * retrieval_scores / self.score_scales[1]
        if not self.candidate_groups:
            return scores
        candidate = _standardised(self._known(features), self.candidate_moments)
        hidden = tf.einsum("bcf,fh->bch", candidate, self.candidate_kernel) + self.hidden_bias
        if self.shopper_groups:
            shopper = _standardised(features["shopper"], self.shopper_moments)
            hidden += tf.matmul(shopper, self.shopper_kernel)[:, tf.newaxis]
        for name, embedding in self.context_embeddings.items():
            hidden += tf.gather(embedding, features[name])[:, tf.newaxis]
        scores += tf.einsum("bch,h->bc", tf.nn.relu(hidden), self.output_kernel)
        return scores + tf.einsum("bcf,f->bc", candidate, self.linear_kernel)

    def call(self, candidates: Candidates, ranker_scores: tf.Tensor, retrieval_scores: tf.Tensor) -> tf.Tensor:
        """Scores of candidates [B, C], from the request itself; see `score`."""
        return self.score(self.features(candidates), ranker_scores, retrieval_scores)

    def adapt(
        self,
        features: dict[str, np.ndarray],
        ranker_scores: np.ndarray,
        retrieval_scores: np.ndarray,
        valid: np.ndarray,
    ) -> None:
        """Takes means and spreads from examples, as Keras' Normalization layer does; before training.

        Args:
            features: of `features`, Q lists of C candidates.
            ranker_scores: [Q, C].
            retrieval_scores: [Q, C].
            valid: bool [Q, C], the candidates that there are.
        """
        if not self.parts:
            return
        self.score_scales.assign([_spread_in_list(scores, valid) for scores in (ranker_scores, retrieval_scores)])
        if self.candidate_groups:
            self.candidate_moments.assign(_moments(features["candidate"][valid]))
        if _AGE in self.candidate_names:
            self.knows_unmet.assign(float((features[UNMET] * valid).sum() >= _ENOUGH_UNMET))
        if self.shopper_groups:
            self.shopper_moments.assign(_moments(features["shopper"]))

    def _known(self, features: Features) -> tf.Tensor:
        """Features of candidates [B, C, F], the age of unmet products unknown to a head that met too few of them.

        At a cut-off nothing young is without clicks, and what is young sells: a head that learned this there would put
        every product that came later before all others.
        """
        values = features["candidate"]
        if _AGE not in self.candidate_names:
            return values
        unknown = (features[UNMET] > 0) & (self.knows_unmet == 0)
        column = np.array(self.candidate_names) == _AGE
        return tf.where(unknown[..., tf.newaxis] & column, np.nan, values)

    def _parts(self) -> tuple[Part, ...]:
        filled = {group.part for group in (*self.candidate_groups, *self.shopper_groups)} | {"retrieval"}
        if self.context_sizes:
            filled.add("context")
        return tuple(part for part in self.config.parts if part in filled)

    def _add_weights(self) -> None:
        width, hidden = len(self.candidate_names), self.config.hidden
        self.score_weights = self.add_weight(
            "score_weights", (2,), initializer=tf_keras.initializers.Constant([1.0, _FIRST_RETRIEVAL_WEIGHT])
        )
        self.score_scales = self.add_weight("score_scales", (2,), initializer="ones", trainable=False)
        self.context_embeddings: dict[str, tf.Variable] = {}
        if not self.candidate_groups:
            return
        self.candidate_moments = self._moments_weight("candidate_moments", width)
        self.candidate_kernel = self.add_weight("candidate_kernel", (width, hidden), initializer="glorot_uniform")
        if _AGE in self.candidate_names:
            self.knows_unmet = self.add_weight("knows_unmet", (), initializer="zeros", trainable=False)
        self.linear_kernel = self.add_weight("linear_kernel", (width,), initializer="zeros")
        self.output_kernel = self.add_weight("output_kernel", (hidden,), initializer="zeros")
        self.hidden_bias = self.add_weight("hidden_bias", (hidden,), initializer="zeros")
        if self.shopper_groups:
            size = len(self.shopper_names)
            self.shopper_moments = self._moments_weight("shopper_moments", size)
            self.shopper_kernel = self.add_weight("shopper_kernel", (size, hidden), initializer="glorot_uniform")
        self.context_embeddings = {
            name: self.add_weight(f"{name}_embedding", (size, hidden), initializer="zeros")
            for name, size in self.context_sizes.items()
        }

    def _moments_weight(self, name: str, width: int) -> tf.Variable:
        """Mean and standard deviation of features, [2, width]; 0 and 1 until `adapt`."""
        start = tf_keras.initializers.Constant(np.repeat([[0.0], [1.0]], width, axis=1))
        return self.add_weight(name, (2, width), initializer=start, trainable=False)


def save_head(directory: Path, head: CandidateHead, catalogue: Catalogue) -> None:
    """Writes what `load_head` reads; the configuration names the parts that the head has."""
    config = replace(head.config, parts=head.parts)
    save_model(directory, KIND, head, config, catalogue.schema)


def load_head(directory: Path, catalogue: Catalogue) -> CandidateHead:
    """The head that `tandem train-head` left in `directory`.

    Raises:
        ModelFilesError: `directory` holds none, or one for another feature schema.
    """
    config = HeadConfig(**read_description(directory, KIND, catalogue.schema))
    head = CandidateHead(catalogue, config)
    load_weights(directory, head)
    return head


def _context_sizes(catalogue: Catalogue) -> dict[str, int]:
    """Ids of each circumstance of a request that the data has."""
    sizes = {
        feature.name: id_count(feature) for feature in catalogue.schema.context if feature.name in ("device", "region")
    }
    return sizes | {name: CLOCK[name].size for name in clock_features(catalogue.schema)}


def _names(groups: list[FeatureGroup]) -> tuple[str, ...]:
    return tuple(name for group in groups for name in group.names)


def _stacked(groups: list[FeatureGroup], candidates: Candidates) -> tf.Tensor:
    return tf.stack([values for group in groups for values in group.compute(candidates)], axis=-1)


def _standardised(values: tf.Tensor, moments: tf.Tensor) -> tf.Tensor:
    """Values [..., F] less their means, over their standard deviations; 0, the mean, where unknown."""
    scaled = tf.clip_by_value((values - moments[0]) / moments[1], -_LARGEST, _LARGEST)
    return tf.where(tf.math.is_finite(values), scaled, 0.0)


def _moments(values: np.ndarray) -> np.ndarray:
    """Means and standard deviations of what is known of [N, F]: [2, F]; 0 and 1 where nothing varies."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0.0).sum(axis=0, dtype=np.float64) / count
    stddev = np.sqrt((np.where(known, values - mean, 0.0) ** 2).sum(axis=0, dtype=np.float64) / count)
    return np.stack([mean, np.where(stddev > 1e-6, stddev, 1.0)]).astype(np.float32)


def _spread_in_list(scores: np.ndarray, valid: np.ndarray) -> float:
    """Root of the mean variance of scores within a list; 1 where they do not vary."""
    count = np.maximum(valid.sum(axis=1, keepdims=True), 1)
    mean = np.where(valid, scores, 0.0).sum(axis=1, keepdims=True) / count
    variance = (np.where(valid, scores - mean, 0.0) ** 2).sum() / max(int(valid.sum()), 1)
    return float(np.sqrt(variance)) if variance > 1e-12 else 1.0
