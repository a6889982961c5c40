"""The simulated shop's known truth, as the scorer that no model can beat: aligned with the catalogue's rows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.data import load_catalogue
from transform.simulator import Oracle
from transform.simulator.truth import TRUTH_FILE


class CatalogueOracle:
    """Expected choice probabilities of the simulated shoppers, in catalogue rows."""

    def __init__(self, oracle: Oracle, item_ids: Sequence[str]) -> None:
        self._oracle = oracle
        self._size = len(item_ids)
        row_of = {item: row for row, item in enumerate(item_ids)}
        self._rows = np.array([row_of[item] for item in oracle.item_ids], np.int64)

    def scores(self, user_ids: np.ndarray, context_timestamps: np.ndarray) -> np.ndarray:
        """float64 [B, V]: the probability of each product as a choice in a session at a time (seconds, int64 [B]).

        Of a whole session, not of its first choice alone: what is evaluated is everything a shopper does later.
        """
        scores = np.zeros((len(user_ids), self._size))
        scores[:, self._rows] = self._oracle.session_probabilities(user_ids.tolist(), context_timestamps)
        return scores


def load_oracle(data: Path, transform_dir: Path) -> CatalogueOracle | None:
    """The truth that lies beside simulated tables; None where the data are a real shop's."""
    if not (data / TRUTH_FILE).is_file():
        return None
    return CatalogueOracle(Oracle.load(data), list(load_catalogue(transform_dir).item_ids))
