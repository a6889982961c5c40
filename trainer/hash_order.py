"""A chance order of names that is the same in every process and on every machine: what samples are drawn by."""

import hashlib
from collections.abc import Iterable

import numpy as np


def hash_order(names: Iterable[str], seed: int) -> np.ndarray:
    """Places of the names, int64 [n], in the order of a keyed hash; of equal names the first stays first.

    Whether one of two names comes before the other depends on nothing else in the data, so that the first ones of a
    grown catalogue are mostly those of the smaller one.
    """
    key = str(seed).encode()
    hashes = [hashlib.blake2b(name.encode(), digest_size=8, key=key).digest() for name in names]
    return np.argsort(np.array(hashes, "S8"), kind="stable")
