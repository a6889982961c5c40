"""The style of products: what is left of their vectors without what their category has in common."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from transform.tables import CATEGORY_SEPARATOR, FIRST

# A mean of fewer products would take most of their own style away; their category's parent stands in.
_FEWEST = 5
# Squared length below which a difference is rounding, as in `tf.math.l2_normalize` of the served graph.
SMALLEST_SQUARE = 1e-12
# Category of the reserved rows: nothing is of the same.
NO_CATEGORY = -1


@dataclass(frozen=True)
class StyleClasses:
    """What is subtracted from the vectors of V catalogue rows."""

    means: np.ndarray  # float32 [M, D]; the first is the mean of the whole catalogue
    of_row: np.ndarray  # int32 [V]: which mean
    category: np.ndarray  # int32 [V]: number of the leaf category; products without one share one; NO_CATEGORY

    def styles(self, vectors: np.ndarray) -> np.ndarray:
        """Style of every row, float32 [V, D], of norm 1: (vector − mean of its category) ÷ its length.

        Class-mean subtraction: what is near in the remaining space is alike in what does not tell the category. A
        product that is its category's mean has no style, a vector of zeros.

        Args:
            vectors: float32 [V, D].
        """
        rest = vectors - self.means[self.of_row]
        squares = np.square(rest).sum(axis=1, keepdims=True)
        return (rest / np.sqrt(np.maximum(squares, SMALLEST_SQUARE))).astype(np.float32)


def style_classes(vectors: np.ndarray, categories: np.ndarray) -> StyleClasses | None:
    """Means by category, each over all products at or below it.

    A category with fewer than 5 products has its parent's mean, or that of the first level above with enough; a
    product without a category that of the whole catalogue.

    Args:
        vectors: float32 [V, D], as the index compares them.
        categories: object [V], paths, "" = absent.

    Returns:
        None where no product has a category.
    """
    paths, numbers = np.unique(categories[FIRST:].astype(str), return_inverse=True)
    if not any(paths):
        return None
    sums = np.zeros((len(paths), vectors.shape[1]), np.float64)
    np.add.at(sums, numbers, vectors[FIRST:])
    counts = np.bincount(numbers, minlength=len(paths))
    total: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(vectors.shape[1]))
    products: dict[str, int] = defaultdict(int)
    for path, summed, count in zip(paths, sums, counts, strict=True):
        for prefix in _prefixes(path):
            total[prefix] += summed
            products[prefix] += count
    means, place = [sums.sum(axis=0) / counts.sum()], {"": 0}
    for prefix in sorted(products):
        if products[prefix] >= _FEWEST:
            place[prefix] = len(means)
            means.append(total[prefix] / products[prefix])
    mean_of = np.array([place[next(p for p in (*_prefixes(path), "") if p in place)] for path in paths], np.int32)
    of_row, category = np.zeros(len(vectors), np.int32), np.full(len(vectors), NO_CATEGORY, np.int32)
    of_row[FIRST:], category[FIRST:] = mean_of[numbers], numbers
    return StyleClasses(np.stack(means).astype(np.float32), of_row, category)


def popular_in_any_other(popular: np.ndarray, category: np.ndarray, enough: int) -> np.ndarray:
    """The start of a list of products that holds `enough` outside of any one category, if the whole list does.

    Of the first 2 · enough products, at most half are of any category but the most frequent one, so that enough
    others remain; for the most frequent one, the first `enough` of other categories are added. At most 3 · enough rows.

    Args:
        popular: int32 [n] catalogue rows, best first.
        category: int32 [V], each row's.
        enough: products needed.
    """
    if not len(popular):
        return popular
    first = category[popular[: 2 * enough]]
    numbers, counts = np.unique(first, return_counts=True)
    others = np.flatnonzero(category[popular] != numbers[counts.argmax()])[:enough]
    kept = np.zeros(len(popular), bool)
    kept[: 2 * enough] = True
    kept[others] = True
    return popular[kept]


def _prefixes(path: str) -> list[str]:
    """A path and those above it, longest first: "a > b" → ["a > b", "a"]."""
    levels = path.split(CATEGORY_SEPARATOR) if path else []
    return [CATEGORY_SEPARATOR.join(levels[:depth]) for depth in range(len(levels), 0, -1)]
