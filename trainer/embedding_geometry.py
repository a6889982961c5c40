"""The geometry of product vectors: how evenly they fill their space, and whether neighbours are of one kind."""

from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from trainer.hash_order import hash_order
from trainer.index import BruteForceIndex
from transform.tables import FIRST

NEIGHBOURS = 10
_PAIRS = 10_000
# Products whose neighbours are looked up: comparing all with all costs their square.
_QUERIES = 10_000
# Numbers held at once: 64 MiB of float64 rows, 256 MiB of float32 scores.
_LARGEST_ROWS, _LARGEST_SCORES = 1 << 23, 1 << 26
_SEED = 1


@dataclass(frozen=True)
class CategoryAgreement:
    """Whether the nearest neighbours of products are of their leaf category, among products that have one."""

    products: int
    # Of them, those whose neighbours were looked up.
    queries: int
    # Mean share of the neighbours that are of the query's category.
    share: float
    # What neighbours drawn at random would have, and what the sizes of the categories allow at most.
    chance: float
    attainable: float


@dataclass(frozen=True)
class Geometry:
    """What was measured of N vectors; a figure that is not defined is None and has its reason."""

    products: int
    dim: int
    isotropy: float | None
    mean_cosine: float | None
    category_agreement: CategoryAgreement | None
    # Name of the figure → why it is None.
    reasons: dict[str, str] = field(default_factory=dict)


def measure_geometry(vectors: np.ndarray, item_ids: np.ndarray, categories: np.ndarray) -> Geometry:
    """Every figure of one set of vectors.

    Args:
        vectors: float32 [N, dim], as the model compares them.
        item_ids: [N] strings, each once; samples are drawn by their hashes.
        categories: [N] strings, the whole path to the leaf, "" = not known.
    """
    size, dim = vectors.shape
    order = hash_order(item_ids, _SEED)
    reasons: dict[str, str] = {}
    isotropic = isotropy(vectors) if size > dim else None
    if isotropic is None:
        small = f"{size} products cannot fill {dim} dimensions"
        reasons["isotropy"] = "all vectors are the same" if size > dim else small
    mean = mean_pairwise_cosine(vectors, order) if size > 1 else None
    if mean is None:
        reasons["mean_cosine"] = f"pairs need two products, there are {size}"
    known = order[categories[order] != ""]
    told = len(np.unique(categories[known])) > 1
    agreement = category_agreement(vectors[known], categories[known]) if told else None
    if agreement is None:
        reasons["category_agreement"] = "the catalogue does not tell at least two categories"
    return Geometry(size, dim, isotropic, mean, agreement, reasons)


def isotropy(vectors: np.ndarray) -> float | None:
    """σ_min / σ_max of the centred vectors: 1 = spread alike in every direction, 0 = some direction is not used.

    σ are the singular values of the matrix [N, dim] whose rows are the vectors minus their mean; they are the square
    roots of the eigenvalues of its Gram matrix [dim, dim], which is added up block by block. It does not change if
    all vectors are turned, shifted or scaled together.

    Args:
        vectors: [N, dim], N > dim (fewer span fewer directions).

    Returns:
        None where all vectors are the same.
    """
    dim = vectors.shape[1]
    centre = vectors.mean(axis=0, dtype=np.float64)
    gram = np.zeros((dim, dim))
    step = max(1, _LARGEST_ROWS // dim)
    for start in range(0, len(vectors), step):
        centred = vectors[start : start + step] - centre
        gram += centred.T @ centred
    eigenvalues = np.maximum(np.linalg.eigvalsh(gram), 0.0)
    return float(np.sqrt(eigenvalues[0] / eigenvalues[-1])) if eigenvalues[-1] > 0 else None


def mean_pairwise_cosine(vectors: np.ndarray, order: np.ndarray, pairs: int = _PAIRS) -> float:
    """Mean cosine of `pairs` different pairs of different products, or of all pairs where there are fewer.

    The products stand in a circle in a chance order; the first N pairs are those of neighbours, the next N those with
    one between, and so on. Every product is in as many pairs as every other, but for one round.

    Args:
        vectors: [N, dim], N ≥ 2.
        order: int64 [N], a chance order of the rows.
        pairs: how many.
    """
    size = len(vectors)
    number = np.arange(min(pairs, size * (size - 1) // 2))
    first, second = order[number % size], order[(number + 1 + number // size) % size]
    return float(np.einsum("pd,pd->p", _normalised(vectors[first]), _normalised(vectors[second])).mean())


def category_agreement(
    vectors: np.ndarray, categories: np.ndarray, queries: int = _QUERIES, neighbours: int = NEIGHBOURS
) -> CategoryAgreement:
    """How many of the nearest products are of the same category, asked of the first `queries` products.

    Args:
        vectors: [N, dim] in a chance order, N ≥ 2.
        categories: [N] strings.
        queries: how many products are asked.
        neighbours: k, nearest by cosine; fewer where there are fewer others.
    """
    size = len(vectors)
    asked, count = np.arange(min(queries, size)), min(neighbours, size - 1)
    _, codes, sizes = np.unique(categories, return_inverse=True, return_counts=True)
    found = nearest_neighbours(vectors, asked, count)
    # Others of the query's own category.
    own = sizes[codes[asked]] - 1
    return CategoryAgreement(
        products=size,
        queries=len(asked),
        share=float((codes[found] == codes[asked, None]).mean()),
        chance=float((own / (size - 1)).mean()),
        attainable=float((np.minimum(own, count) / count).mean()),
    )


def nearest_neighbours(vectors: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """The nearest other rows by cosine, exact, best first: int64 [Q, count].

    Args:
        vectors: [N, dim], N > count.
        queries: int64 [Q] rows.
        count: of neighbours.
    """
    unit = _normalised(vectors).astype(np.float32)
    index = BruteForceIndex(count + 1).index(unit, np.arange(FIRST, FIRST + len(unit), dtype=np.int32))
    found = []
    step = max(1, _LARGEST_SCORES // len(unit))
    for start in range(0, len(queries), step):
        rows = queries[start : start + step]
        places = index(tf.constant(unit[rows]))[1].numpy().astype(np.int64) - FIRST
        # A product with many copies may not be among its own nearest: then the farthest goes.
        other = places != rows[:, None]
        other[other.all(axis=1), -1] = False
        found.append(places[other].reshape(len(rows), count))
    return np.concatenate(found)


def _normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows of norm 1; a row of zeros stays one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
