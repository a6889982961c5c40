"""Resamples shoppers: where means would lie with other shoppers of the same shop (Efron 1979)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

# Resamples multiplied at once; bounds memory to this many numbers per shopper.
_RESAMPLES_AT_ONCE = 50


@dataclass(frozen=True)
class Part:
    """Values of some queries, whose means are asked for."""

    shoppers: np.ndarray  # int64 [n], whose query it is
    values: np.ndarray  # float64 [n, M]; NaN = not defined for the query, left out of that mean


def resampled_means(parts: Sequence[Part], samples: int, seed: int) -> list[np.ndarray]:
    """Means of each part over shoppers drawn with replacement.

    All queries of a shopper are drawn together, since they are not independent. All parts see the same draws from the
    shoppers of all of them: means of the same shoppers vary together, so that the interval of a difference is a paired
    one; means of different shoppers vary independently.

    Args:
        parts: each of at least one query.
        samples: R, resamples.
        seed: of the resamples.

    Returns:
        float64 [R, M] for each part; NaN where a resample has no query for which the value is defined.
    """
    everyone = np.unique(np.concatenate([part.shoppers for part in parts]))
    totals = [_totals(part, everyone) for part in parts]
    means = [np.empty((samples, part.values.shape[1])) for part in parts]
    rng, size = np.random.default_rng(seed), len(everyone)
    for start in range(0, samples, _RESAMPLES_AT_ONCE):
        number = min(_RESAMPLES_AT_ONCE, samples - start)
        draws = [np.bincount(rng.integers(0, size, size), minlength=size) for _ in range(number)]
        weights = np.stack(draws).astype(np.float64)
        for found, (members, sums, counts) in zip(means, totals, strict=True):
            own = weights if len(members) == size else weights[:, members]
            drawn = np.broadcast_to(own @ counts, (number, sums.shape[1]))
            block = found[start : start + number]
            block[:] = np.nan
            np.divide(own @ sums, drawn, out=block, where=drawn > 0)
    return means


def intervals(means: np.ndarray) -> np.ndarray:
    """95 % percentile intervals of resampled means [R, M]: float64 [2, M]; NaN where no resample has a mean."""
    found = np.full((2, means.shape[1]), np.nan)
    defined = ~np.isnan(means)
    whole, partly = defined.all(axis=0), defined.any(axis=0)
    ends = [0.025, 0.975]
    found[:, whole] = np.quantile(means[:, whole], ends, axis=0)
    if (partly & ~whole).any():
        found[:, partly & ~whole] = np.nanquantile(means[:, partly & ~whole], ends, axis=0)
    return found


def bootstrap(
    values: Mapping[str, np.ndarray], shoppers: np.ndarray, samples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the means over queries.

    Args:
        values: name → float64 [Q]; NaN = not defined for the query. Every name sees the same resamples.
        shoppers: int64 [Q], whose query it is.
        samples: resamples.
        seed: of the resamples.

    Returns:
        name → (2.5 % quantile, 97.5 % quantile).
    """
    (means,) = resampled_means([Part(shoppers, np.stack(list(values.values()), axis=1))], samples, seed)
    low, high = intervals(means)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(values)}


def _totals(part: Part, everyone: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Who has a query in the part, int64 [m]; their sums, [m, M]; their queries with a value, [m, M], or [m, 1] if
    every value is defined."""
    members, owners = np.unique(part.shoppers, return_inverse=True)
    grouping = sparse.csr_matrix((np.ones(len(owners)), (owners, np.arange(len(owners)))))
    defined = ~np.isnan(part.values)
    counted = defined if not defined.all() else np.ones((len(owners), 1))
    places = np.asarray(np.searchsorted(everyone, members))
    return places, grouping @ np.nan_to_num(part.values), grouping @ counted.astype(np.float64)
