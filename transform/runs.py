"""Runs of equal values in columns whose rows are in order."""

import numpy as np


def places_in_runs(groups: np.ndarray) -> np.ndarray:
    """0, 1, 2 … within each run of equal values, int64."""
    return np.arange(len(groups)) - run_starts(groups)[run_numbers(groups)]


def changes(*columns: np.ndarray) -> np.ndarray:
    """Bool [rows]: the row differs from the one before in any column; the first row does."""
    changed = np.ones(len(columns[0]), bool)
    if len(changed):
        changed[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return changed


def run_numbers(*columns: np.ndarray) -> np.ndarray:
    """0, 0, 1 …: the number of each row's run of equal values, int64."""
    return np.cumsum(changes(*columns)) - 1


def run_starts(*columns: np.ndarray) -> np.ndarray:
    """Position of the first row of each run of equal values, int64 [runs]."""
    return np.flatnonzero(changes(*columns))
