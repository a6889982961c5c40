"""Trains the candidate head on the validation span, which neither stage has seen, and keeps it only if it helps."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from trainer.candidate_features import Candidates, ProductFacts, product_facts
from trainer.candidate_head import CandidateHead, save_head
from trainer.config import EvaluationConfig, HeadConfig, Part
from trainer.data import Catalogue, Sequences, load_catalogue, load_sequences
from trainer.loop import TrainingError, make_deterministic
from trainer.metrics import LIST_LENGTH
from trainer.queries import Queries, build_queries, build_rolling_queries, load_split, sample_users
from trainer.ranker import Ranker, load_ranker
from trainer.ranking import candidate_rows, order_keys
from trainer.retrieval import RetrievalModel, load_retrieval
from trainer.scorers import RankerScorer, RetrievalScorer, block_size

_LOG = logging.getLogger(__name__)
HEAD_REPORT = "head.json"
# Heads that are tried besides the whole one and those that lack one of its parts.
RANKER_ALONE, BLEND, WHOLE = "ranker", "blend", "head"


@dataclass(frozen=True)
class Examples:
    """Lists of candidates, a list per validation shopper, with what came of them."""

    user_ids: np.ndarray  # object [Q]
    rows: np.ndarray  # int32 [Q, C] catalogue rows, ascending; 0 = none
    ranker_scores: np.ndarray  # float32 [Q, C]
    retrieval_scores: np.ndarray  # float32 [Q, C]
    relevant: np.ndarray  # bool [Q, C]
    truth_sizes: np.ndarray  # int64 [Q]: products of the truth, candidates or not
    features: dict[str, np.ndarray]  # of `CandidateHead.features`, Q lists
    names: dict[str, tuple[str, ...]]  # "candidate" and "shopper" → names of the columns of those features

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def valid(self) -> np.ndarray:
        """The candidates that there are: bool [Q, C]."""
        return self.rows > 0

    def read_by(self, head: CandidateHead) -> "Examples":
        """The same lists with the features of a head that has fewer parts."""
        names = _feature_names(head)
        features = {name: values for name, values in self.features.items() if name in head.context_sizes}
        for kind in ("candidate", "shopper"):
            columns = [self.names[kind].index(name) for name in names[kind]]
            if columns:
                features[kind] = self.features[kind][..., columns]
        return replace(self, features=features, names=names)

    @property
    def tensors(self) -> dict[str, tf.Tensor]:
        """What a training step reads, by name, Q lists."""
        arrays = {
            "ranker_scores": self.ranker_scores,
            "retrieval_scores": self.retrieval_scores,
            "relevant": self.relevant,
            "valid": self.valid,
            **self.features,
        }
        return {name: tf.constant(values) for name, values in arrays.items()}


def train_head(
    transform_dir: Path,
    retrieval_dir: Path,
    ranker_dir: Path,
    output: Path,
    config: HeadConfig,
    evaluation: EvaluationConfig,
    log_dir: Path,
) -> None:
    """Fits heads on the validation span and keeps the one whose out-of-fold NDCG@10 is best.

    Both stages were trained on the training span alone, so their scores of what came in the validation span are as
    fresh as those in service will be. Each head is judged by cross-fitting: shoppers are divided by a hash, and those
    of a fold are ordered by a head fitted to the others. Tried are the ranker alone, its blend with the retrieval's
    score, the head with all of its parts and the heads that lack one. The best is fitted once more, to all shoppers.

    Args:
        transform_dir: output of `tandem transform`.
        retrieval_dir: output of `tandem train-retrieval`.
        ranker_dir: output of `tandem train-ranker`.
        output: gets model.json, weights and head.json.
        config: of the head and its training.
        evaluation: the rule for seen products, the target types and the number of candidates.
        log_dir: for TensorBoard.

    Raises:
        TrainingError: no shopper can be asked anything, or there are fewer than folds.
        ModelFilesError: a stage is missing or was trained on other data.
    """
    catalogue, sequences = load_catalogue(transform_dir), load_sequences(transform_dir)
    retrieval, ranker = load_retrieval(retrieval_dir, catalogue), load_ranker(ranker_dir, catalogue)
    queries = _queries(transform_dir, sequences, catalogue, config, evaluation, ranker.config.history_length)
    make_deterministic(config.seed)
    examples = build_examples(queries, catalogue, retrieval, ranker, config, evaluation.candidates)
    report, parts = choose_parts(examples, catalogue, config)
    head = CandidateHead(catalogue, replace(config, parts=parts))
    if parts:
        HeadFit(head, examples, config).fit(np.arange(len(examples)))
    save_head(output, head, catalogue)
    (output / HEAD_REPORT).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    _write_scalars(log_dir, report)


def build_examples(
    queries: Queries,
    catalogue: Catalogue,
    retrieval: RetrievalModel,
    ranker: Ranker,
    config: HeadConfig,
    candidates: int,
) -> Examples:
    """The candidates of stage one for each query with everything that any head reads, computed once."""
    block = block_size(catalogue.size)
    stages = RetrievalScorer(retrieval, block), RankerScorer(ranker, block)
    head = CandidateHead(catalogue, config)
    features_of = _feature_function(head, ranker, catalogue)
    parts: dict[str, list[np.ndarray]] = {}
    for start, stop in queries.blocks(block):
        retrieval_scores, ranker_scores = (stage.scores(queries, start, stop) for stage in stages)
        keys = order_keys(retrieval_scores, queries.excluded(start, stop))
        rows = np.sort(candidate_rows(keys, queries.own_products(start, stop, candidates), candidates), axis=1)
        truth = queries.truth.take(np.arange(start, stop))
        relevant = np.zeros(keys.shape, bool)
        relevant[truth.owners, truth.rows] = True
        batch = {name: tf.constant(values) for name, values in queries.batch(start, stop).items()}
        values = {
            "rows": rows,
            "ranker_scores": np.take_along_axis(ranker_scores, rows, axis=1),
            "retrieval_scores": np.take_along_axis(retrieval_scores, rows, axis=1),
            "relevant": np.take_along_axis(relevant, rows, axis=1) & (rows > 0),
            **{name: tensor.numpy() for name, tensor in features_of(tf.constant(rows), batch).items()},
        }
        for name, array in values.items():
            parts.setdefault(name, []).append(array)
    arrays = {name: np.concatenate(blocks) for name, blocks in parts.items()}
    own = {name: arrays.pop(name) for name in ("rows", "ranker_scores", "retrieval_scores", "relevant")}
    return Examples(
        user_ids=queries.sequences.user_ids[queries.users],
        truth_sizes=queries.truth.lengths,
        features=arrays,
        names=_feature_names(head),
        **own,
    )


class HeadFit:
    """Fits one head to lists of candidates, as often as asked, each time from the same start.

    Means and spreads of the features are those of all lists; no answer enters them.
    """

    def __init__(self, head: CandidateHead, examples: Examples, config: HeadConfig) -> None:
        self.head, self.config = head, config
        examples = examples.read_by(head)
        self._tensors = examples.tensors
        self._taught = examples.relevant.any(axis=1)
        head.adapt(examples.features, examples.ranker_scores, examples.retrieval_scores, examples.valid)
        self._optimizer = tf_keras.optimizers.AdamW(
            tf_keras.optimizers.schedules.CosineDecay(config.learning_rate, config.steps),
            weight_decay=config.weight_decay,
            jit_compile=False,
        )
        self._optimizer.build(head.trainable_variables)
        self._start = [(variable, variable.numpy()) for variable in (*head.variables, *self._optimizer.variables)]
        # One trace for lists of any number; no Python control flow depends on a tensor.
        lists = [tf.TensorSpec([None], tf.int64)]
        self._train_step = tf.function(self._step, input_signature=lists, autograph=False)
        self._scores = tf.function(self._score, input_signature=lists, autograph=False)

    def fit(self, lists: np.ndarray) -> None:
        """Trains the head on the given lists, int64 [n]; those without a right answer teach nothing."""
        for variable, value in self._start:
            variable.assign(value)
        taught = lists[self._taught[lists]]
        for chosen in _batches(taught, self.config):
            loss = float(self._train_step(tf.constant(chosen)))
            if not np.isfinite(loss):
                raise TrainingError(f"the loss of the candidate head is {loss}: lower head.learning_rate.")

    def scores(self, lists: np.ndarray) -> np.ndarray:
        """Scores of the given lists by the head as it stands: int64 [n] → float32 [n, C]."""
        starts = range(0, len(lists), self.config.batch_size)
        blocks = [self._scores(tf.constant(lists[start : start + self.config.batch_size])) for start in starts]
        return np.concatenate(blocks)

    def _score(self, lists: tf.Tensor) -> tf.Tensor:
        return self._of(lists, self._tensors)

    def _of(self, lists: tf.Tensor, tensors: dict[str, tf.Tensor]) -> tf.Tensor:
        inputs = {name: tf.gather(values, lists) for name, values in tensors.items()}
        return self.head.score(inputs, inputs["ranker_scores"], inputs["retrieval_scores"])

    def _step(self, lists: tf.Tensor) -> tf.Tensor:
        relevant, valid = (tf.gather(self._tensors[name], lists) for name in ("relevant", "valid"))
        with tf.GradientTape() as tape:
            loss = list_loss(self._score(lists), relevant, valid)
        variables = self.head.trainable_variables
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
        self._optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss


def list_loss(scores: tf.Tensor, relevant: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Mean listwise softmax loss (nats) over lists: each right answer against the wrong ones of its list.

    For a list with right answers P and wrong ones N, the mean over p in P of

        −log( exp s_p / (exp s_p + Σ_{n in N} exp s_n) ) = log(1 + exp(log Σ exp s_n − s_p))

    (Cao et al. 2007's top-one loss for one right answer; several do not compete with one another).

    Args:
        scores: [B, C].
        relevant: bool [B, C].
        valid: bool [B, C]: candidates that there are.
    """
    wrong = tf.where(valid & ~relevant, scores, scores.dtype.min)
    against = tf.nn.softplus(tf.reduce_logsumexp(wrong, axis=1, keepdims=True) - scores)
    right = tf.cast(relevant, scores.dtype)
    return tf.reduce_mean(
        tf.reduce_sum(tf.where(relevant, against, 0.0), axis=1) / tf.maximum(tf.reduce_sum(right, axis=1), 1.0)
    )


def choose_parts(
    examples: Examples, catalogue: Catalogue, config: HeadConfig
) -> tuple[dict[str, Any], tuple[Part, ...]]:
    """The out-of-fold figures of every head that is tried, and the parts of the best."""
    folds = shopper_folds(examples.user_ids, config.folds, config.seed)
    if len(np.unique(folds)) < config.folds:
        raise TrainingError(
            f"head.folds = {config.folds} divides {len(examples)} validation shoppers so that a fold is empty. "
            "Lower head.folds, move split.validation_start or give more data."
        )
    whole = CandidateHead(catalogue, config)
    measured: dict[str, np.ndarray] = {}
    tried = _tried(whole.parts)
    for name, parts in tried.items():
        fit = HeadFit(CandidateHead(catalogue, replace(config, parts=parts)), examples, config)
        measured[name] = list_ndcg(_out_of_fold(fit, folds), examples)
        _LOG.info("head: %s: NDCG@%d %.4f out of fold", name, LIST_LENGTH, measured[name].mean())
    # Of equals, the one with fewest parts.
    kept = max(tried, key=lambda name: (measured[name].mean(), -len(tried[name])))
    _LOG.info("head: kept %s (%s)", kept, ", ".join(tried[kept]) or "the ranker's order as it is")
    retrieval = list_ndcg(examples.retrieval_scores, examples)
    return _report(examples, whole, measured, retrieval, kept, tried), tried[kept]


def shopper_folds(user_ids: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Fold of each shopper by a hash of the id, the same in every process: object [Q] → int64 [Q] in [0, folds)."""
    key = f"folds {seed}".encode()
    digests = (hashlib.blake2b(user.encode(), digest_size=8, key=key).digest() for user in user_ids)
    return np.array([int.from_bytes(digest, "big") % folds for digest in digests], np.int64)


def list_ndcg(scores: np.ndarray, examples: Examples, cutoff: int = LIST_LENGTH) -> np.ndarray:
    """NDCG@cutoff of each list as its candidates are ordered, float64 [Q]; truth that is no candidate counts as missed.

    As `trainer.metrics.ndcg` of two stages with at least `cutoff` candidates; of equals the lower row comes first.
    """
    order = np.argsort(np.where(examples.valid, -scores, np.inf), axis=1, kind="stable")[:, :cutoff]
    discounts = 1 / np.log2(np.arange(2.0, cutoff + 2))
    gains = np.take_along_axis(examples.relevant, order, axis=1) @ discounts[: order.shape[1]]
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])
    return gains / ideal[np.minimum(examples.truth_sizes, cutoff)]


def _queries(
    transform_dir: Path,
    sequences: Sequences,
    catalogue: Catalogue,
    config: HeadConfig,
    evaluation: EvaluationConfig,
    history_length: int,
) -> Queries:
    split = load_split(transform_dir)
    if config.questions == "rolling":
        if split.method != "time":
            raise TrainingError(
                'head.questions = "rolling" needs a time split, received split.method = "leave_one_out": there every '
                'shopper is asked once. Set head.questions to "cut_off".'
            )
        asked = replace(evaluation, rolling_users=config.validation_users, seed=config.seed)
        queries = build_rolling_queries(sequences, catalogue, split, "validation", asked, history_length)
    else:
        queries = build_queries(sequences, catalogue, split, "validation", evaluation, history_length)
    queries = queries.take(np.flatnonzero(queries.truth.lengths > 0))
    if not len(queries):
        raise TrainingError(
            f"{transform_dir}: no shopper has both a history before the validation span and a target event in it, "
            f"received {queries.counts}. Move split.validation_start, widen evaluation.target_types or give more data."
        )
    kept = sample_users(sequences, queries.users, config.validation_users, config.seed)
    queries = queries.take(np.flatnonzero(np.isin(queries.users, kept)))
    if len(queries) <= config.lists:
        return queries
    return queries.take(np.sort(np.random.default_rng(config.seed).permutation(len(queries))[: config.lists]))


def _feature_function(
    head: CandidateHead, ranker: Ranker, catalogue: Catalogue
) -> Callable[[tf.Tensor, dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    table = ranker.item_table()
    facts = ProductFacts(*(tf.constant(values) for values in product_facts(catalogue)))

    @tf.function(autograph=False, reduce_retracing=True)
    def features(rows: tf.Tensor, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return head.features(Candidates(rows, batch, table, facts))

    return features


def _feature_names(head: CandidateHead) -> dict[str, tuple[str, ...]]:
    return {"candidate": head.candidate_names, "shopper": head.shopper_names}


def _batches(lists: np.ndarray, config: HeadConfig) -> Iterator[np.ndarray]:
    """`config.steps` batches of one size, epoch after epoch in an order of its own."""
    rng = np.random.default_rng(config.seed)
    size = min(config.batch_size, len(lists))
    order = np.empty(0, np.int64)
    for _ in range(config.steps if size else 0):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(lists)])
        batch, order = order[:size], order[size:]
        yield batch


def _tried(parts: tuple[Part, ...]) -> dict[str, tuple[Part, ...]]:
    """Name → parts of the heads that compete; each set of parts once."""
    blend = tuple(part for part in parts if part == "retrieval")
    named: dict[str, tuple[Part, ...]] = {RANKER_ALONE: (), BLEND: blend, WHOLE: parts}
    named |= {f"{WHOLE} without {part}": _without(parts, part) for part in parts}
    distinct: dict[str, tuple[Part, ...]] = {}
    for name, own in named.items():
        if own not in distinct.values():
            distinct[name] = own
    return distinct


def _without(parts: tuple[Part, ...], part: Part) -> tuple[Part, ...]:
    return tuple(other for other in parts if other != part)


def _out_of_fold(fit: HeadFit, folds: np.ndarray) -> np.ndarray:
    """Scores of every list by a head fitted to the other folds, float32 [Q, C]."""
    if not fit.head.parts:
        return fit.scores(np.arange(len(folds)))
    scores: list[np.ndarray] = []
    places: list[np.ndarray] = []
    for fold in np.unique(folds):
        fit.fit(np.flatnonzero(folds != fold))
        places.append(np.flatnonzero(folds == fold))
        scores.append(fit.scores(places[-1]))
    return np.concatenate(scores)[np.argsort(np.concatenate(places))]


def _report(
    examples: Examples,
    whole: CandidateHead,
    measured: dict[str, np.ndarray],
    retrieval: np.ndarray,
    kept: str,
    tried: dict[str, tuple[Part, ...]],
) -> dict[str, Any]:
    """What head.json says: figures out of fold, each with its difference from the ranker's order."""
    base = measured[RANKER_ALONE]

    def entry(values: np.ndarray) -> dict[str, float]:
        difference = values - base
        return {
            f"ndcg@{LIST_LENGTH}": float(values.mean()),
            "difference_from_ranker": float(difference.mean()),
            "standard_error": float(difference.std() / np.sqrt(len(difference))),
        }

    means = {tried[name]: float(values.mean()) for name, values in measured.items()}
    gives = {part: means[whole.parts] - means[_without(whole.parts, part)] for part in whole.parts}
    return {
        "kept": kept,
        "parts": list(tried[kept]),
        "features": {"candidate": list(whole.candidate_names), "shopper": list(whole.shopper_names)},
        "shoppers": len(examples),
        "lists_with_a_right_candidate": int(examples.relevant.any(axis=1).sum()),
        "folds": whole.config.folds,
        "attainable": float(list_ndcg(examples.relevant.astype(np.float32), examples).mean()),
        "retrieval": entry(retrieval),
        "out_of_fold": {name: {"parts": list(tried[name])} | entry(values) for name, values in measured.items()},
        # NDCG@10 that is lost where the whole head lacks the part alone.
        "gives": gives,
    }


def _write_scalars(log_dir: Path, report: dict[str, Any]) -> None:
    """Out-of-fold figures for TensorBoard, a run per head that was tried."""
    for name, figures in report["out_of_fold"].items():
        with tf.summary.create_file_writer(str(log_dir / name.replace(" ", "_"))).as_default(step=0):
            tf.summary.scalar(f"validation_ndcg@{LIST_LENGTH}", figures[f"ndcg@{LIST_LENGTH}"])
