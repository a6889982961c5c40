"""Orders the catalogue by score: ranks of the truth and top lists, with ties broken the same way every time."""

import numpy as np

from trainer.queries import Lists

# Numbers compared at once while counting what stands before a product; bounds memory to about 64 MiB.
_CHUNK = 1 << 23


def order_keys(scores: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Whole numbers that sort like the ranking: a higher score first, among equals the lower row; 0 = excluded.

    The high 32 bits are the bits of the float32 score, mapped so that they ascend with it (IEEE 754: flip the sign of
    positive numbers, all bits of negative ones); the low 32 bits descend with the row. So no two products tie, and no
    sort needs to be stable.

    Args:
        scores: [B, V].
        excluded: bool [B, V], products that are no candidates.

    Returns:
        uint64 [B, V].

    Raises:
        ValueError: the shapes differ, or a candidate's score is NaN or infinite.
    """
    if scores.shape != excluded.shape:
        raise ValueError(f"scores must have a column per catalogue row {excluded.shape}, received {scores.shape}.")
    # Adding zero turns −0.0 into 0.0: they are equal, their bits are not.
    single = scores.astype(np.float32) + np.float32(0)
    finite = np.isfinite(single)
    if not finite.all() and not (finite | excluded).all():
        query, row = np.argwhere(~finite & ~excluded)[0]
        raise ValueError(
            f"scores must be finite, received {scores[query, row]} for catalogue row {row} in query {query} of the "
            "block. Look for a division by zero or an overflow in the model."
        )
    bits = single.view(np.uint32)
    ascending = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
    keys = (ascending << np.uint64(32)) | np.arange(0xFFFFFFFF, 0xFFFFFFFF - scores.shape[1], -1, dtype=np.uint64)
    keys[excluded] = 0
    return keys


def rank_truth(keys: np.ndarray, truth: Lists) -> np.ndarray:
    """Ranks of the truth: 1 + the candidates that stand before it.

    Args:
        keys: uint64 [B, V] of `order_keys`.
        truth: catalogue rows asked about, of B queries.

    Returns:
        int64 [T], aligned with truth.rows.
    """
    return count_before(keys, truth.owners, keys[truth.owners, truth.rows]) + 1


def count_before(keys: np.ndarray, owners: np.ndarray, own: np.ndarray) -> np.ndarray:
    """How many of the keys [B, C] of its query stand before each of the T products.

    Args:
        keys: uint64 [B, C].
        owners: int64 [T], query of each product.
        own: uint64 [T], the product's key.

    Returns:
        int64 [T].
    """
    before = np.empty(len(owners), np.int64)
    step = max(1, _CHUNK // max(1, keys.shape[1]))
    for start in range(0, len(owners), step):
        part = slice(start, start + step)
        before[part] = np.count_nonzero(keys[owners[part]] > own[part, None], axis=1)
    return before


def top_rows(keys: np.ndarray, k: int) -> np.ndarray:
    """Catalogue rows of the first k of each query, best first: int32 [B, k]; 0 where there are fewer candidates."""
    width = min(k, keys.shape[1])
    best = np.partition(keys, keys.shape[1] - width, axis=1)[:, keys.shape[1] - width :]
    best = np.sort(best, axis=1)[:, ::-1]
    rows = np.where(best == 0, 0, 0xFFFFFFFF - (best & np.uint64(0xFFFFFFFF)))
    return np.pad(rows.astype(np.int32), ((0, 0), (0, k - width)))
