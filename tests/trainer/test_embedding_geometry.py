"""Isotropy, cosines and neighbours of vectors, by hand and against NumPy's and scikit-learn's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from trainer.embedding_geometry import (
    category_agreement,
    isotropy,
    mean_pairwise_cosine,
    measure_geometry,
    nearest_neighbours,
)


def on_circle(*degrees: float) -> np.ndarray:
    """Unit vectors [N, 2] at these angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def ids(count: int) -> np.ndarray:
    return np.array([f"p{number}" for number in range(count)], dtype=object)


def test_isotropy_of_a_cross() -> None:
    # Centred already; σ² are 2 · 3² and 2 · 1²: σ_min / σ_max = 1 / 3.
    assert isotropy(np.array([[3, 0], [-3, 0], [0, 1], [0, -1]], float)) == pytest.approx(1 / 3)


def test_vectors_on_a_line_leave_a_direction_unused() -> None:
    assert isotropy(np.array([[0, 1], [1, 1], [5, 1]], float)) == pytest.approx(0.0, abs=1e-7)


def test_isotropy_of_equal_vectors_is_not_defined() -> None:
    assert isotropy(np.ones((5, 3))) is None


@given(st.integers(0, 10_000), st.integers(2, 8), st.floats(0.1, 100))
@settings(max_examples=30)
def test_isotropy_is_numpys_and_minds_no_turn_shift_or_scale(seed: int, dim: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(40, dim)) * rng.uniform(0.2, 2, dim)
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    singular = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)
    assert isotropy(vectors) == pytest.approx(singular[-1] / singular[0])
    assert isotropy(scale * vectors @ turn + 7) == pytest.approx(singular[-1] / singular[0])


def test_isotropy_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(1).normal(size=(100, 4))
    whole = isotropy(vectors)
    monkeypatch.setattr("trainer.embedding_geometry._LARGEST_ROWS", 28)
    assert isotropy(vectors) == pytest.approx(whole)


@pytest.mark.parametrize("size", [2, 5, 6])
def test_few_products_make_every_pair_once(size: int) -> None:
    vectors = np.random.default_rng(size).normal(size=(size, 3))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = (unit @ unit.T)[np.triu_indices(size, k=1)].mean()
    assert mean_pairwise_cosine(vectors, np.arange(size)[::-1]) == pytest.approx(expected)


def test_mean_cosine_of_a_right_angle_and_its_opposite() -> None:
    # 0°, 90°, 270°: cosines 0, 0 and −1.
    assert mean_pairwise_cosine(5 * on_circle(0, 90, 270), np.arange(3)) == pytest.approx(-1 / 3)


def test_sampled_pairs_come_near_the_mean_of_all() -> None:
    unit = np.random.default_rng(3).normal(0.3, 1, size=(3_000, 8))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    # Σ_{i ≠ j} u_i · u_j = |Σ u|² − N.
    exact = (np.square(unit.sum(axis=0)).sum() - 3_000) / (3_000 * 2_999)
    assert mean_pairwise_cosine(unit, np.random.default_rng(4).permutation(3_000)) == pytest.approx(exact, abs=0.01)


def test_neighbours_are_those_of_scikit_learn_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(5).normal(size=(60, 6))
    theirs = NearestNeighbors(n_neighbors=4, metric="cosine").fit(vectors).kneighbors(vectors)[1][:, 1:]
    np.testing.assert_array_equal(nearest_neighbours(vectors, np.arange(60), 3), theirs)
    monkeypatch.setattr("trainer.embedding_geometry._LARGEST_SCORES", 7 * 60)
    np.testing.assert_array_equal(nearest_neighbours(vectors, np.arange(60), 3), theirs)


def test_a_product_is_never_its_own_neighbour_however_many_copies_it_has() -> None:
    vectors = np.concatenate([np.repeat(on_circle(0), 5, axis=0), on_circle(90, 100)])
    found = nearest_neighbours(vectors, np.arange(7), 2)
    assert not (found == np.arange(7)[:, None]).any()
    assert (found[:5] < 5).all()


def test_category_agreement_by_hand() -> None:
    # Nearest of 0° is 10° (same), of 10° is 0°, of 90° is 100° (another), of 100° is 90°, of 200° is 100° (same).
    vectors = on_circle(0, 10, 90, 100, 200)
    categories = np.array(["a", "a", "b", "c", "c"], dtype=object)
    found = category_agreement(vectors, categories, neighbours=1)
    assert found.share == pytest.approx(3 / 5)
    # Others of the own category: 1, 1, 0, 1, 1 of four.
    assert found.chance == pytest.approx(4 / 5 / 4)
    assert found.attainable == pytest.approx(4 / 5)
    assert (found.products, found.queries) == (5, 5)


def test_only_the_first_products_are_asked_among_all() -> None:
    found = category_agreement(on_circle(0, 10, 90, 100), np.array(["a", "b", "b", "b"], dtype=object), 1, 1)
    assert (found.queries, found.share, found.chance) == (1, 0.0, 0.0)


def test_products_without_a_category_are_left_out() -> None:
    # Without the one at 5°, the neighbours of 0° and 10° are each other.
    categories = np.array(["a", "", "a", "b", "b"], dtype=object)
    found = measure_geometry(on_circle(0, 5, 10, 90, 100), ids(5), categories)
    assert found.category_agreement.products == 4
    # Three neighbours each, one of the own category.
    assert found.category_agreement.share == pytest.approx(1 / 3)


def test_figures_do_not_depend_on_the_order_of_the_catalogue() -> None:
    rng = np.random.default_rng(6)
    vectors, names = rng.normal(size=(300, 4)), ids(300)
    categories = np.array(["ab"[number % 2] for number in range(300)], dtype=object)
    other = rng.permutation(300)
    one = measure_geometry(vectors, names, categories)
    two = measure_geometry(vectors[other], names[other], categories[other])
    assert one.mean_cosine == pytest.approx(two.mean_cosine)
    assert one.isotropy == pytest.approx(two.isotropy)
    assert one.category_agreement == two.category_agreement


def test_what_cannot_be_measured_says_why() -> None:
    one = measure_geometry(np.ones((1, 3)), ids(1), np.array(["a"], dtype=object))
    assert (one.isotropy, one.mean_cosine, one.category_agreement) == (None, None, None)
    assert one.reasons == {
        "isotropy": "1 products cannot fill 3 dimensions",
        "mean_cosine": "pairs need two products, there are 1",
        "category_agreement": "the catalogue does not tell at least two categories",
    }
    same = measure_geometry(np.ones((4, 3)), ids(4), np.full(4, "", dtype=object))
    assert same.reasons["isotropy"] == "all vectors are the same"
    assert same.mean_cosine == pytest.approx(1.0)
