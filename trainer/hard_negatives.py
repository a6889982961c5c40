"""Hard negatives: products that the model as it stands would retrieve, and that their shoppers never met."""

import logging
import time
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from trainer.config import RetrievalConfig
from trainer.data import Sequences
from trainer.retrieval import RetrievalModel
from trainer.windows import WindowBatch
from transform.tables import FIRST, PADDING

_LOG = logging.getLogger(__name__)
# Scores at once: 64 MiB of them, and 16 MiB of what is left out.
_SCORES_AT_ONCE = 1 << 24

Batch = dict[str, np.ndarray]


class HardNegatives:
    """Mines negatives for the positions that an epoch is about to learn from, with the weights that it starts from.

    Every position's query is searched exactly among all products, as the index would be after a publication at this
    moment (ANCE, Xiong et al. 2021, which refreshes its index asynchronously; here the refresh is the epoch boundary,
    so that weights and seed alone decide what is mined, and a training that was killed mines the same again. ScaNN is
    not used: it starts its clusters at random).

    Hard products are often products that the shopper would have liked. Left out before ranks are counted are

    - what the shopper meets anywhere in the training span, before or after the position, and what nobody meets there;
    - what scores more than `margin` above the position's own target: positive-aware mining, "TopK-MarginPos" of
      NV-Retriever (Moreira et al. 2024), whose margin is −0.05. Scores are cosines, so that a margin, unlike a share
      of the target's score, means the same where that score is negative.

    Of what remains, best first, the ranks [skip, stop) are where the negatives of the position are drawn, evenly and
    without replacement.

    The weights are those that are trained, not their moving average, where there is one: negatives are to be hard for
    the weights whose gradient they make.
    """

    def __init__(self, model: RetrievalModel, sequences: Sequences, config: RetrievalConfig) -> None:
        """Args:
        model: its weights at the time of a call are those that mine.
        sequences: all interactions; only those of the training span are read.
        config: how many, from which ranks, for how many positions.
        """
        self.model = model
        self.sequences = sequences
        self.config = config
        self._unlearned = np.ones(model.products.size, bool)
        self._unlearned[model.products.trained_rows[FIRST:]] = False
        self._queries = tf.function(model.position_queries, autograph=False)
        self._search = tf.function(self._best, autograph=False, reduce_retracing=True)

    def mine(self, steps: Iterable[tuple[WindowBatch, Batch]], number: int, rng: np.random.Generator) -> np.ndarray:
        """Negatives of an epoch's positions.

        Args:
            steps: the epoch's windows with what the model will read of them.
            number: of steps, about: `mined_positions` are divided among so many.
            rng: decides which of the ranks are drawn.

        Returns:
            int32 [steps, P, hard_negatives] catalogue rows; 0 = none, as for all but the first positions of a step
            where there are more than are searched (which positions a step takes first is drawn).
        """
        start = time.monotonic()
        searched = min(self.config.positives, -(-self.config.mined_positions // max(number, 1)))
        table = self.model.item_table()
        candidates = self.model.project_items(table)
        mined = [self._mine_step(batch, inputs, searched, table, candidates, rng) for batch, inputs in steps]
        found = np.stack(mined)
        _LOG.info(
            "hard negatives for %d positions in %.0f s", (found[..., 0] > PADDING).sum(), time.monotonic() - start
        )
        return found

    def _mine_step(
        self,
        batch: WindowBatch,
        inputs: Batch,
        searched: int,
        table: tf.Tensor,
        candidates: tf.Tensor,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Of the first `searched` positions of one step: int32 [P, hard_negatives]."""
        read = {name: values[:searched] for name, values in inputs.items() if not name.startswith("history")}
        read |= {name: inputs[name] for name in inputs if name.startswith("history")}
        queries = self._queries({name: tf.constant(values) for name, values in read.items()}, table)
        positives = inputs["positive_rows"][:searched]
        users = batch.users[inputs["positive_slots"][:searched] // inputs["history_rows"].shape[1]]
        blocks = -(-searched * candidates.shape[0] // _SCORES_AT_ONCE)
        best = [
            self._search(
                tf.gather(queries, part), tf.constant(positives[part]), candidates, tf.constant(self._met(users[part]))
            ).numpy()
            for part in np.array_split(np.arange(searched), blocks)
        ]
        ranked = np.where(positives[:, np.newaxis] >= FIRST, np.concatenate(best), PADDING)
        drawn = draw(ranked, self.config.hard_negatives, rng)
        return np.pad(drawn, [(0, self.config.positives - searched), (0, 0)])

    def _met(self, users: np.ndarray) -> np.ndarray:
        """What shoppers meet in the training span, and what it holds no product of: int64 [B] → bool [B, V]."""
        each, place = np.unique(users, return_inverse=True)
        met = np.zeros((len(each), self.model.products.size), bool)
        met[:] = self._unlearned
        for line, user in zip(met, each, strict=True):
            first = self.sequences.offsets[user]
            line[self.sequences.rows[first : first + self.sequences.train_end[user]]] = True
        return met[place]

    def _best(self, queries: tf.Tensor, positives: tf.Tensor, candidates: tf.Tensor, met: tf.Tensor) -> tf.Tensor:
        """`ranked_negatives` by this configuration."""
        scores = tf.matmul(queries, candidates, transpose_b=True)
        own = tf.gather(scores, positives, batch_dims=1)
        return ranked_negatives(scores, own, met, self.config.hard_negative_ranks, self.config.hard_negative_margin)


def ranked_negatives(
    scores: tf.Tensor, own: tf.Tensor, met: tf.Tensor, ranks: tuple[int, int], margin: float
) -> tf.Tensor:
    """Products that may serve as hard negatives, best first.

    Args:
        scores: [B, V].
        own: [B], score of each position's target.
        met: bool [B, V], products that the shopper meets, the target among them.
        ranks: [skip, stop) among what is left, from 0; `stop` is at most V.
        margin: products that score above `own` + margin are left out.

    Returns:
        int32 [B, stop − skip] catalogue rows, 0 behind the last.
    """
    skip, stop = ranks
    allowed = ~met & (scores <= own[:, tf.newaxis] + margin)
    best, rows = tf.math.top_k(tf.where(allowed, scores, -np.inf), stop)
    return tf.where(best > -np.inf, rows, PADDING)[:, skip:]


def draw(ranked: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """`number` of each line's rows, without replacement: int32 [B, R], 0 = none → int32 [B, number], 0 where there
    are fewer."""
    order = np.where(ranked > PADDING, rng.random(ranked.shape), 2.0).argsort(axis=1, kind="stable")[:, :number]
    drawn = np.take_along_axis(ranked, order, axis=1)
    return np.pad(drawn, [(0, 0), (0, number - drawn.shape[1])])
