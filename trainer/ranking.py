"""Orders the catalogue by score: ranks of the truth and top lists, with ties broken the same way every time."""

import numpy as np

from trainer.queries import Lists

# Keys made or compared at once: 512 KiB and 2 MiB, about a core's caches (six and four times as fast as 64 MiB).
_MADE_AT_ONCE = 1 << 16
_COMPARED_AT_ONCE = 1 << 18
# Products of truth per query from which finding the best of a list costs less than comparing each with everything.
_WORTH_CUTTING = 4
_ROW_BITS = np.uint64(31)
_LAST_ROW = (1 << 31) - 1
_SIGN = np.int32(-(1 << 31))
_RETRIEVED = np.uint64(1 << 63)


def order_keys(scores: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Whole numbers that sort like the ranking: a higher score first, among equals the lower row; 0 = excluded.

    Bits 31 to 62 are those of the float32 score, mapped so that they ascend with it (IEEE 754: flip the sign of
    positive numbers, all bits of negative ones); bits 0 to 30 descend with the row; bit 63 is free. So no two products
    tie, no sort needs to be stable, and ranks and lists cannot disagree.

    Args:
        scores: [B, V].
        excluded: bool [B, V], products that are no candidates.

    Returns:
        uint64 [B, V].

    Raises:
        ValueError: the shapes differ, or a candidate's score is NaN or infinite.
    """
    if scores.shape != excluded.shape:
        raise ValueError(f"scores must be [queries, catalogue rows] = {excluded.shape}, received {scores.shape}.")
    rows = np.arange(_LAST_ROW, _LAST_ROW - scores.shape[1], -1, dtype=np.uint64)
    keys = np.empty(scores.shape, np.uint64)
    step = max(1, _MADE_AT_ONCE // scores.shape[1])
    for start in range(0, len(scores), step):
        part = slice(start, start + step)
        # Adding zero turns −0.0 into 0.0: they are equal, their bits are not.
        single = scores[part].astype(np.float32) + np.float32(0)
        _check_finite(single, excluded[part], start)
        keys[part] = _ascending(single)
        keys[part] <<= _ROW_BITS
        keys[part] |= rows
        np.copyto(keys[part], 0, where=excluded[part])
    return keys


def _check_finite(scores: np.ndarray, excluded: np.ndarray, first: int) -> None:
    """Raises ValueError for a candidate's score that is NaN or infinite; `first` is the block's place of row 0."""
    finite = np.isfinite(scores)
    if finite.all() or (finite | excluded).all():
        return
    query, row = np.argwhere(~finite & ~excluded)[0]
    raise ValueError(
        f"scores must be finite, received {scores[query, row]} for catalogue row {row} in query {first + query} of the "
        "block. Look for a division by zero or an overflow in the model."
    )


def _ascending(scores: np.ndarray) -> np.ndarray:
    """uint32 that ascend with the float32 `scores`, which are overwritten."""
    bits = scores.view(np.int32)
    # All ones for negative numbers, zeros for positive ones; then the sign itself in both.
    flipped = bits >> 31
    flipped |= _SIGN
    bits ^= flipped
    return bits.view(np.uint32)


def two_stage_keys(retrieval: np.ndarray, ranker: np.ndarray, own: np.ndarray, candidates: int) -> np.ndarray:
    """Keys of both stages together: the candidates in the ranker's order, then the rest.

    Candidates are the shopper's own products and the best of the retrieval, `candidates` in all. What is no candidate
    keeps the retrieval's order; in service it would not be answered at all.

    Args:
        retrieval: uint64 [B, V] of `order_keys`.
        ranker: uint64 [B, V] of `order_keys`, the same products excluded.
        own: bool [B, V], products that are candidates whatever the retrieval says (`Queries.own_products`).
        candidates: C, what stage one hands to stage two.
    """
    chosen = np.where(own & (retrieval > 0), retrieval | _RETRIEVED, retrieval)
    width = min(candidates, chosen.shape[1])
    last = np.partition(chosen, -width, axis=1)[:, -width, None]
    return np.where((chosen >= last) & (chosen > 0), ranker | _RETRIEVED, retrieval)


def candidate_rows(retrieval: np.ndarray, own: np.ndarray, candidates: int) -> np.ndarray:
    """The candidates of `two_stage_keys`.

    Args:
        retrieval: uint64 [B, V] of `order_keys`.
        own: bool [B, V], products that are candidates whatever the retrieval says.
        candidates: C.

    Returns:
        int32 [B, C] catalogue rows, own products first; 0 where there are fewer.
    """
    return top_rows(np.where(own & (retrieval > 0), retrieval | _RETRIEVED, retrieval), candidates)


def reordered_keys(retrieval: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Keys of both stages together, as `two_stage_keys`, where stage two has scored the candidates alone.

    Args:
        retrieval: uint64 [B, V] of `order_keys`.
        rows: int32 [B, C] of `candidate_rows`; 0 = none.
        scores: [B, C] of stage two.
    """
    descending = np.uint64(_LAST_ROW) - rows.astype(np.uint64)
    own = (order_keys(scores, rows == 0) >> _ROW_BITS << _ROW_BITS) | descending | _RETRIEVED
    keys = retrieval.copy()
    np.put_along_axis(keys, rows, np.where(rows == 0, np.uint64(0), own), axis=1)
    return keys


def rank_truth(keys: np.ndarray, truth: Lists, limit: int | None = None) -> np.ndarray:
    """Ranks of the truth: 1 + the candidates that stand before it.

    Args:
        keys: uint64 [B, V] of `order_keys` or `two_stage_keys`.
        truth: catalogue rows asked about, of B queries.
        limit: ranks above it are given as limit + 1, which is faster where queries have many products of truth.

    Returns:
        int64 [T], aligned with truth.rows.
    """
    owners = truth.owners
    own = keys[owners, truth.rows, None]
    limit = keys.shape[1] if limit is None else limit
    if limit < keys.shape[1] and len(owners) > _WORTH_CUTTING * len(keys):
        keys = np.partition(keys, -limit, axis=1)[:, -limit:]
    before = np.empty(len(owners), np.int64)
    step = max(1, _COMPARED_AT_ONCE // keys.shape[1])
    for start in range(0, len(owners), step):
        part = slice(start, start + step)
        before[part] = np.count_nonzero(keys[owners[part]] > own[part], axis=1)
    return np.minimum(before, limit) + 1


def top_rows(keys: np.ndarray, k: int) -> np.ndarray:
    """Catalogue rows of the first k of each query, best first: int32 [B, k]; 0 where there are fewer candidates."""
    width = min(k, keys.shape[1])
    best = np.sort(np.partition(keys, -width, axis=1)[:, -width:], axis=1)[:, ::-1]
    rows = np.where(best == 0, 0, _LAST_ROW - (best & np.uint64(_LAST_ROW)).astype(np.int64))
    return np.pad(rows.astype(np.int32), ((0, 0), (0, k - width)))
