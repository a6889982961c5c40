"""The style of products: what is left of their vectors without what their category has in common."""

from dataclasses import dataclass

import numpy as np

from trainer.class_means import class_means
from transform.tables import FIRST, PADDING, category_levels

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
    prefixes = [category_levels(path) for path in paths]
    ids = {prefix: FIRST + number for number, prefix in enumerate(sorted({one for own in prefixes for one in own}))}
    levels = np.full((len(paths), max(map(len, prefixes))), PADDING, np.int32)
    for path, own in enumerate(prefixes):
        levels[path, : len(own)] = [ids[prefix] for prefix in own]
    means = class_means(levels[numbers], vectors[FIRST:], FIRST + len(ids))
    mean_of = np.array([ids[own[-1]] if own else PADDING for own in prefixes], np.int32)
    of_row, category = np.zeros(len(vectors), np.int32), np.full(len(vectors), NO_CATEGORY, np.int32)
    of_row[FIRST:], category[FIRST:] = mean_of[numbers], numbers
    return StyleClasses(means, of_row, category)


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
