"""The choice model: the formula, what is sampled from it, and the oracle."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from transform.clock import DAY
from transform.simulator import Oracle, SimulatorConfig, simulate
from transform.simulator.sessions import Sessions, _apart, draw, draw_choices
from transform.simulator.truth import (
    BRAND_STRENGTH,
    CONTINUE,
    MAX_STEPS,
    PRICE_STRENGTH,
    STYLE_STRENGTH,
    Shop,
    Shoppers,
)

CONFIG = SimulatorConfig(products=120, shoppers=3_000, events=60_000, days=40, pictures=False, seed=3)
# A day on which some products have not come yet.
MIDDLE = CONFIG.start + 15 * DAY + 40_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "shop"
    simulate(folder, CONFIG)
    return folder


@pytest.fixture(scope="module")
def oracle(data: Path) -> Oracle:
    return Oracle.load(data)


@pytest.fixture(scope="module")
def chosen(data: Path) -> pd.DataFrame:
    """Clicks and views in order of session and time, one row per choice."""
    events = pq.read_table(data / "events.parquet", columns=["user_id", "item_id", "type", "timestamp", "session"])
    choices = events.to_pandas()
    choices = choices[(choices["type"] == "click") | (choices["type"] == "view")]
    return choices.sort_values(["session", "timestamp"], kind="stable").reset_index(drop=True)


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(logit) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def formula(shop: Shop, shoppers: Shoppers, user: int, seconds: int) -> np.ndarray:
    """The docstring's formula for a fresh session, product by product: float64 [items]."""
    place = (seconds - shop.start) / (30 * DAY)
    knot, share = int(place), place - int(place)
    theta = (1 - share) * shoppers.style[user, knot] + share * shoppers.style[user, knot + 1]
    budget = (1 - share) * shoppers.budget[user, knot] + share * shoppers.budget[user, knot + 1]
    styles = softmax([float(theta @ vector) for vector in shop.style_vectors])
    interest = shoppers.interest[user]
    leaves = softmax(
        [math.log(m) + float(interest @ y) for m, y in zip(shop.leaf_market, shop.leaf_vectors, strict=True)]
    )
    result = np.zeros(len(shop.item_cell))
    for leaf, style in np.ndindex(len(leaves), len(styles)):
        weight = np.zeros(len(shop.item_cell))
        for item, cell in enumerate(shop.item_cell):
            if shop.cell_leaf[cell] != leaf or shop.item_day[item] * DAY > seconds - shop.start:
                continue
            likeness = float(shop.style_vectors[style] @ shop.style_vectors[shop.cell_style[cell]])
            favourite = shop.cell_brand[cell] in shoppers.brands[user]
            weight[item] = shop.item_weight[item] * math.exp(
                STYLE_STRENGTH * likeness
                - PRICE_STRENGTH * abs(float(shop.cell_price[cell]) - budget)
                + BRAND_STRENGTH * favourite
            )
        result += leaves[leaf] * styles[style] * weight / weight.sum()
    return result


def ids(user: int) -> list[str]:
    return [f"shopper-{user + 1}"]


def test_oracle_follows_the_formula(oracle: Oracle) -> None:
    for user in (0, 5):
        expected = formula(oracle.shop, oracle.shoppers, user, MIDDLE)
        actual = oracle.choice_probabilities(ids(user), np.array([MIDDLE]))[0]
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-9)


def test_probabilities_sum_to_one_whatever_is_known(oracle: Oracle, chosen: pd.DataFrame) -> None:
    # More shoppers than are computed at once.
    some = chosen.head(700)
    users, times, last = some["user_id"].tolist(), some["timestamp"].to_numpy(), some["item_id"].tolist()
    for probabilities in (
        oracle.choice_probabilities(users, times),
        oracle.choice_probabilities(users, times, last),
        oracle.session_probabilities(users, times),
    ):
        assert probabilities.shape == (700, 120)
        assert (probabilities >= 0).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_a_product_has_no_probability_before_it_is_there(oracle: Oracle) -> None:
    late = oracle.shop.item_day > 15
    probabilities = oracle.choice_probabilities(ids(0), np.array([MIDDLE]))[0]
    assert 0 < late.sum() < 120
    assert (probabilities[late] == 0).all()
    assert (probabilities[~late] > 0).all()


def sessions_at_middle(shop: Shop, shoppers: Shoppers, user: int, length: np.ndarray) -> np.ndarray:
    """Products chosen in sessions of `length` [S] choices that all start at MIDDLE, one after the other: int64 [C]."""
    sessions = Sessions(
        shopper=np.full(len(length), user),
        start=np.full(len(length), MIDDLE - shop.start),
        length=length,
        offset=np.zeros(length.sum(), np.int64),
    )
    return draw_choices(shop, shoppers, sessions, np.random.default_rng(11)).item


def goodness_of_fit(items: np.ndarray, probabilities: np.ndarray) -> float:
    """p-value of Pearson's test; products expected fewer than five times are taken together."""
    expected = probabilities.astype(np.float64) / probabilities.sum() * len(items)
    observed = np.bincount(items, minlength=len(probabilities))
    assert observed[expected == 0].sum() == 0
    rare = expected < 5
    groups = [(observed[~rare], expected[~rare])]
    if expected[rare].sum() >= 5:
        groups.append((observed[rare].sum(keepdims=True), expected[rare].sum(keepdims=True)))
    parts = [np.concatenate(column) for column in zip(*groups, strict=True)]
    # What is left of the expectation when too few are rare.
    return stats.chisquare(parts[0], parts[1] * parts[0].sum() / parts[1].sum()).pvalue


def test_first_choices_have_the_frequencies_of_the_oracle(oracle: Oracle) -> None:
    items = sessions_at_middle(oracle.shop, oracle.shoppers, 2, np.ones(60_000, np.int64))
    assert goodness_of_fit(items, oracle.choice_probabilities(ids(2), np.array([MIDDLE]))[0]) > 0.001


def test_the_test_of_frequencies_would_notice_another_shopper(oracle: Oracle) -> None:
    items = sessions_at_middle(oracle.shop, oracle.shoppers, 2, np.ones(60_000, np.int64))
    assert goodness_of_fit(items, oracle.choice_probabilities(ids(3), np.array([MIDDLE]))[0]) < 1e-6


def test_second_choices_have_the_frequencies_of_the_oracle_given_the_first(oracle: Oracle) -> None:
    items = sessions_at_middle(oracle.shop, oracle.shoppers, 2, np.full(200_000, 2)).reshape(-1, 2)
    # Not the commonest first choice alone: one that hardly tells the style, too.
    for first in np.argsort(-np.bincount(items[:, 0]))[[0, 6]]:
        second = items[items[:, 0] == first, 1]
        probabilities = oracle.choice_probabilities(ids(2), np.array([MIDDLE]), [oracle.item_ids[first]])[0]
        assert len(second) > 2_000
        assert goodness_of_fit(second, probabilities) > 0.001


def test_the_written_events_have_the_frequencies_of_the_oracle(oracle: Oracle, chosen: pd.DataFrame) -> None:
    first = chosen.drop_duplicates("session")
    # The session starts 40 s before its first choice.
    probabilities = oracle.choice_probabilities(first["user_id"].tolist(), first["timestamp"].to_numpy() - 40)
    row = {item: number for number, item in enumerate(oracle.item_ids)}
    observed = np.bincount([row[item] for item in first["item_id"]], minlength=len(row))
    expected, variance = probabilities.sum(axis=0), (probabilities * (1 - probabilities)).sum(axis=0)
    common = expected > 20
    z = (observed - expected)[common] / np.sqrt(variance[common])
    assert common.sum() > 50
    # Sum of squared, slightly negatively correlated standard scores.
    assert stats.chi2.sf((z**2).sum(), common.sum()) > 0.001


def test_all_choices_of_sessions_have_the_frequencies_of_session_probabilities(oracle: Oracle) -> None:
    length = np.minimum(np.random.default_rng(4).geometric(1 - CONTINUE, 60_000), MAX_STEPS)
    items = sessions_at_middle(oracle.shop, oracle.shoppers, 2, length)
    observed = np.bincount(items, minlength=120) / len(items)
    expected = oracle.session_probabilities(ids(2), np.array([MIDDLE]))[0]
    # Choices of one session depend on each other: a standard deviation is about 0.003 for a category.
    np.testing.assert_allclose(observed, expected, atol=0.01)
    first = oracle.choice_probabilities(ids(2), np.array([MIDDLE]))[0]
    assert np.abs(observed - expected).sum() < 0.3 * np.abs(observed - first).sum()


def test_style_is_carried_across_categories(oracle: Oracle, chosen: pd.DataFrame) -> None:
    row = {item: number for number, item in enumerate(oracle.item_ids)}
    cell = oracle.shop.item_cell[[row[item] for item in chosen["item_id"]]]
    style, leaf = oracle.shop.cell_style[cell], oracle.shop.cell_leaf[cell]
    same_session = chosen["session"].eq(chosen["session"].shift(-1)).to_numpy()[:-1]
    crossed = same_session & (leaf[:-1] != leaf[1:])
    assert crossed.sum() > 500
    carried = (style[:-1] == style[1:])[crossed].mean()
    shuffled = np.random.default_rng(0).permutation(style[1:][crossed])
    by_chance = (style[:-1][crossed] == shuffled).mean()
    assert carried > 2 * by_chance


def test_tastes_drift_but_stay_related(oracle: Oracle) -> None:
    first, last = oracle.shoppers.style[:, 0].ravel(), oracle.shoppers.style[:, -1].ravel()
    assert 0.7 < np.corrcoef(first, last)[0, 1] < 0.99
    assert 0.85 < np.corrcoef(oracle.shoppers.budget[:, 0], oracle.shoppers.budget[:, -1])[0, 1] < 0.999


def ndcg(scores: np.ndarray, truth: list[set[int]], cutoff: int = 10) -> float:
    """Mean NDCG@cutoff of scores [B, items] against sets of rows."""
    gains = []
    for row, items in zip(np.argsort(-scores, axis=1, kind="stable")[:, :cutoff], truth, strict=True):
        ideal = sum(1 / math.log2(place + 2) for place in range(min(len(items), cutoff)))
        gains.append(sum(1 / math.log2(place + 2) for place, item in enumerate(row) if item in items) / ideal)
    return float(np.mean(gains))


def test_oracle_ranks_the_future_better_than_popularity(oracle: Oracle, chosen: pd.DataFrame) -> None:
    cut = CONFIG.start + 36 * DAY
    row = {item: number for number, item in enumerate(oracle.item_ids)}
    past, future = chosen[chosen["timestamp"] < cut], chosen[chosen["timestamp"] >= cut]
    truth = future.groupby("user_id")["item_id"].agg(lambda items: {row[item] for item in items})
    popularity = np.bincount([row[item] for item in past["item_id"]], minlength=len(row))
    when = np.full(len(truth), cut)
    best = ndcg(oracle.session_probabilities(truth.index.tolist(), when), truth.tolist())
    # A shop of 120 products in eight categories: everyone's ten favourites are a good guess already.
    assert best > 1.7 * ndcg(np.tile(popularity, (len(truth), 1)), truth.tolist())


def test_truth_survives_being_saved(oracle: Oracle, tmp_path: Path) -> None:
    oracle.save(tmp_path)
    again = Oracle.load(tmp_path)
    assert again.item_ids == oracle.item_ids
    np.testing.assert_array_equal(
        again.choice_probabilities(ids(1), np.array([MIDDLE])), oracle.choice_probabilities(ids(1), np.array([MIDDLE]))
    )


def test_a_folder_without_truth_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"truth\.npz: only a shop made by `tandem simulate` has one"):
        Oracle.load(tmp_path)


def test_impossible_questions_are_refused(oracle: Oracle) -> None:
    now = np.array([MIDDLE])
    with pytest.raises(ValueError, match="shopper 'nobody' is not in the truth, which knows 3000 shoppers"):
        oracle.choice_probabilities(["nobody"], now)
    with pytest.raises(ValueError, match="product 'nothing' is not in the truth, which knows 120 products"):
        oracle.choice_probabilities(ids(0), now, ["nothing"])
    with pytest.raises(ValueError, match=r"timestamp must have shape \(1,\) as user_ids, received shape \(2,\)"):
        oracle.choice_probabilities(ids(0), np.array([MIDDLE, MIDDLE]))
    with pytest.raises(ValueError, match=f"at or after the shop's start, {CONFIG.start}, received 5"):
        oracle.choice_probabilities(ids(0), np.array([5]))
    late = oracle.item_ids[int(np.argmax(oracle.shop.item_day))]
    with pytest.raises(ValueError, match=f"product '{late}' was not available at {MIDDLE}"):
        oracle.choice_probabilities(ids(0), now, [late])


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 10_000), st.integers(1, 5_000)), min_size=1, max_size=30))
def test_sessions_of_a_shopper_are_moved_apart_and_never_earlier(visits: list[tuple[int, int, int]]) -> None:
    visits = sorted(visits)
    shopper, start, needed = (np.array(column, np.int64) for column in zip(*visits, strict=True))
    moved = _apart(shopper, start, needed)
    assert (moved >= start).all()
    same = shopper[1:] == shopper[:-1]
    assert (moved[1:] >= moved[:-1] + needed[:-1])[same].all()
    # Nobody moves for another shopper, nor farther than needed.
    free = ~same | (start[1:] >= moved[:-1] + needed[:-1])
    assert (moved[1:][free] == start[1:][free]).all()
    assert (moved[1:][~free] == (moved[:-1] + needed[:-1])[~free]).all()


def test_what_has_no_weight_is_never_drawn() -> None:
    weights = np.tile([0.0, 3.0, 0.0, 1.0, 0.0], (20_000, 1))
    drawn = np.bincount(draw(weights, np.random.default_rng(0)), minlength=5)
    assert drawn[[0, 2, 4]].sum() == 0
    # 15,000 expected; four standard deviations of a binomial of 3/4 are 245.
    assert abs(drawn[1] - 15_000) < 245
