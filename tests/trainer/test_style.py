"""Styles: what is left of vectors without their category's mean."""

import numpy as np
import pytest

from trainer.style import NO_CATEGORY, popular_in_any_other, style_classes


def catalogue_of(*paths: str) -> np.ndarray:
    return np.array(["", "", *paths], dtype=object)


def vectors_of(*vectors: tuple[float, ...]) -> np.ndarray:
    nothing = (0.0,) * len(vectors[0])
    return np.array([nothing, nothing, *vectors], np.float32)


def test_style_is_what_the_category_s_mean_leaves() -> None:
    # Five chairs around (3, 0), five lamps around (0, 3): the same five styles.
    steps = [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (0.0, 0.0)]
    chairs, lamps = ([(x + dx, y + dy) for dx, dy in steps] for x, y in ((3.0, 0.0), (0.0, 3.0)))
    vectors = vectors_of(*chairs, *lamps)
    classes = style_classes(vectors, catalogue_of(*["Home > Chairs"] * 5, *["Home > Lamps"] * 5))
    assert classes is not None
    styles = classes.styles(vectors)
    np.testing.assert_allclose(styles[2:7], steps, atol=1e-6)
    np.testing.assert_allclose(styles[7:12], steps, atol=1e-6)


def test_category_of_fewer_than_five_has_its_parent_s_mean() -> None:
    # Four rugs at (0, 4) and six chairs at (5, 0) below Home: its mean is (30 / 10, 16 / 10) = (3, 1.6).
    vectors = vectors_of(*[(0.0, 4.0)] * 4, *[(5.0, 0.0)] * 6)
    classes = style_classes(vectors, catalogue_of(*["Home > Rugs"] * 4, *["Home > Chairs"] * 6))
    assert classes is not None
    np.testing.assert_allclose(classes.means[classes.of_row[2]], (3.0, 1.6), rtol=1e-6)
    np.testing.assert_allclose(classes.means[classes.of_row[6]], (5.0, 0.0), rtol=1e-6)


def test_product_without_a_category_has_the_mean_of_the_whole_catalogue() -> None:
    vectors = vectors_of(*[(1.0, 0.0)] * 5, (4.0, 6.0))
    classes = style_classes(vectors, catalogue_of(*["Chairs"] * 5, ""))
    assert classes is not None
    assert classes.of_row[7] == 0
    np.testing.assert_allclose(classes.means[0], (9.0 / 6, 1.0), rtol=1e-6)


def test_products_without_a_category_share_a_number_and_reserved_rows_none() -> None:
    classes = style_classes(np.ones((6, 2), np.float32), catalogue_of("a", "", "", "b"))
    assert classes is not None
    assert classes.category[:2].tolist() == [NO_CATEGORY] * 2
    assert classes.category[3] == classes.category[4]
    assert len(set(classes.category[[2, 3, 5]])) == 3


def test_catalogue_without_categories_has_no_styles() -> None:
    assert style_classes(np.ones((5, 2), np.float32), catalogue_of("", "", "")) is None


def test_product_that_is_its_category_s_mean_has_no_style() -> None:
    vectors = np.ones((7, 3), np.float32)
    classes = style_classes(vectors, catalogue_of(*["a"] * 5))
    assert classes is not None
    np.testing.assert_array_equal(classes.styles(vectors)[2:], 0)


def test_popular_products_of_other_categories_are_added() -> None:
    # Rows 0 to 5 are of category 0: of three others, 6, 7 and 8 are the most popular.
    category = np.array([0, 0, 0, 0, 0, 0, 1, 2, 1, 1])
    assert popular_in_any_other(np.arange(10), category, 3).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("seed", range(20))
def test_enough_popular_products_are_outside_of_any_category(seed: int) -> None:
    rng = np.random.default_rng(seed)
    category = rng.choice(4, 60, p=[0.7, 0.15, 0.1, 0.05])
    enough = int(rng.integers(1, 25))
    kept = popular_in_any_other(rng.permutation(60), category, enough)
    assert len(kept) <= 3 * enough
    for number in range(4):
        assert (category[kept] != number).sum() >= min(enough, (category != number).sum())
