"""How much each interaction counts as a target: numbers worked out by hand, and what must not change them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tests.trainer.small_shop import PURCHASE, VIEW, make_sequences
from trainer.config import TargetConfig
from trainer.data import Sequences
from trainer.propensity import Propensities
from trainer.target_weights import load_target_weights, target_weights, training_interactions
from transform.tables import EVENT_TYPES

SEARCH, HOME = 2, 3
INVERSE = TargetConfig(inverse_propensity=True)
# search: 1, 1/2, 1/20; home: 1, 1/4.
PROPENSITIES = Propensities(
    ("", "\x01", "search", "home"),
    np.array([SEARCH, SEARCH, SEARCH, HOME, HOME], np.int32),
    np.array([1, 2, 3, 1, 2], np.int32),
    np.zeros(5, np.int64),
    np.zeros(5, np.int64),
    np.array([1.0, 0.5, 0.05, 1.0, 0.25]),
)


def shop(
    types: tuple[int, ...] = (VIEW, VIEW, PURCHASE, VIEW, VIEW),
    positions: tuple[int, ...] = (0, 0, 0, 0, 0),
    surfaces: tuple[int, ...] = (SEARCH,) * 5,
    propensities: tuple[float, ...] = (np.nan,) * 5,
) -> Sequences:
    """Ann's interactions 0, 1, 2 and bob's 4 are training; ann's 3 is held out."""
    times = (10, 20, 30, 150, 40)
    chosen = [(row + 2, time, kind) for row, (time, kind) in enumerate(zip(times, types, strict=True))]
    return replace(
        make_sequences({"ann": chosen[:4], "bob": chosen[4:]}),
        positions=np.array(positions, np.int32),
        surfaces=np.array(surfaces, np.int32),
        propensities=np.array(propensities, np.float32),
    )


def test_training_interactions_are_those_before_each_shoppers_end() -> None:
    assert training_interactions(shop()).tolist() == [True, True, True, False, True]


def test_as_shipped_every_interaction_counts_the_same() -> None:
    sequences = shop(positions=(1, 2, 3, 1, 2))
    assert target_weights(sequences, TargetConfig(), PROPENSITIES).tolist() == [1.0] * 5


def test_types_weigh_as_configured_and_1_where_they_are_not_named() -> None:
    # 1, 1, 5, 1 in training: mean 2.
    found = target_weights(shop(), TargetConfig(type_weights={"purchase": 5}), None)
    assert found.tolist() == [0.5, 0.5, 2.5, 1.0, 0.5]
    assert found.dtype == np.float32


def test_a_weight_of_nothing_leaves_a_type_out() -> None:
    found = target_weights(shop(), TargetConfig(type_weights={"view": 0}), None)
    assert found.tolist() == [0.0, 0.0, 4.0, 1.0, 0.0]


def test_clicks_where_few_look_count_more_within_their_surface() -> None:
    # search: 1 and 2, mean 1.5; home: 1 and 4, mean 2.5.
    sequences = shop(positions=(1, 2, 1, 2, 2), surfaces=(SEARCH, SEARCH, HOME, SEARCH, HOME))
    found = target_weights(sequences, INVERSE, PROPENSITIES)
    assert found == pytest.approx([1 / 1.5, 2 / 1.5, 1 / 2.5, 1.0, 4 / 2.5])


def test_inverse_propensities_are_clipped() -> None:
    # 20 is clipped to 10: 1, 10, 1, 10, mean 5.5.
    found = target_weights(shop(positions=(1, 3, 1, 1, 3)), INVERSE, PROPENSITIES)
    assert found == pytest.approx([1 / 5.5, 10 / 5.5, 1 / 5.5, 1.0, 10 / 5.5])
    lower = TargetConfig(inverse_propensity=True, max_inverse_propensity=3)
    assert target_weights(shop(positions=(1, 3, 1, 1, 3)), lower, PROPENSITIES) == pytest.approx(
        [0.5, 1.5, 0.5, 1, 1.5]
    )


def test_a_target_whose_position_is_unknown_weighs_1() -> None:
    # Two of search: 1 and 2, mean 1.5. Position 0 and a surface without an estimate are unknown.
    sequences = shop(positions=(1, 2, 0, 0, 2), surfaces=(SEARCH, SEARCH, SEARCH, SEARCH, 0))
    found = target_weights(sequences, INVERSE, PROPENSITIES)
    assert found == pytest.approx([1 / 1.5, 2 / 1.5, 1.0, 1.0, 1.0])


def test_logged_propensities_come_before_estimates_and_are_compared_with_one_another() -> None:
    # Logged: 0.2 and 0.1, so 1 and 2, mean 1.5. Estimated: 1 and 2.
    logged = (0.2, 0.1, np.nan, 0.5, np.nan)
    found = target_weights(shop(positions=(2, 1, 1, 1, 2), propensities=logged), INVERSE, PROPENSITIES)
    assert found == pytest.approx([1 / 1.5, 2 / 1.5, 1 / 1.5, 1.0, 2 / 1.5])


def test_logged_propensities_alone_are_enough() -> None:
    found = target_weights(shop(propensities=(0.2, 0.1, 0.1, 0.1, 0.2)), INVERSE, None)
    assert found == pytest.approx([1 / 1.5, 2 / 1.5, 2 / 1.5, 1.0, 1 / 1.5])


def test_types_and_positions_multiply() -> None:
    # Inverse propensities 1, 2, 1, 2 of mean 1.5; types 1, 1, 3, 1: (1 + 2 + 3 + 2) ÷ 4 = 2 before dividing by 1.5.
    config = replace(INVERSE, type_weights={"purchase": 3})
    found = target_weights(shop(positions=(1, 2, 1, 1, 2)), config, PROPENSITIES)
    assert found == pytest.approx([0.5, 1.0, 1.5, 1.0, 1.0])


def test_counts_of_the_transform_are_read_only_where_they_are_asked_for(tmp_path: Path) -> None:
    sequences = shop(positions=(1, 2, 1, 1, 2))
    assert load_target_weights(tmp_path, sequences, TargetConfig()).tolist() == [1.0] * 5
    with pytest.raises(FileNotFoundError, match=r"no position_counts.arrow in .*: run `tandem transform` again"):
        load_target_weights(tmp_path, sequences, INVERSE)


def test_a_shop_without_any_propensity_is_refused() -> None:
    message = "inverse_propensity: no training interaction has a propensity"
    with pytest.raises(ValueError, match=message):
        target_weights(shop(positions=(0, 0, 0, 1, 0)), INVERSE, PROPENSITIES)
    with pytest.raises(ValueError, match=message):
        target_weights(shop(positions=(1, 1, 1, 1, 1)), INVERSE, None)


def test_types_that_leave_no_target_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no training interaction is of a type with a weight above 0, received \{'vi"):
        target_weights(shop(types=(VIEW,) * 5), TargetConfig(type_weights={"view": 0}), None)


@pytest.mark.parametrize("name", ["impression", "search", "buy"])
def test_only_types_that_enter_histories_have_weights(name: str) -> None:
    with pytest.raises(ValidationError, match="must be one of view, click, add_to_cart, purchase"):
        TypeAdapter(TargetConfig).validate_python({"type_weights": {name: 2}})


@pytest.mark.parametrize("wrong", [{"type_weights": {"view": -1}}, {"max_inverse_propensity": 0.5}])
def test_weights_and_limits_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to"):
        TypeAdapter(TargetConfig).validate_python(wrong)


INTERACTIONS = st.lists(
    st.tuples(
        st.integers(0, 299),
        st.sampled_from(sorted(EVENT_TYPES.values())[1:]),
        st.integers(0, 4),
        st.sampled_from([0, SEARCH, HOME]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), INTERACTIONS, min_size=1), st.randoms(use_true_random=False)
)
def test_weights_have_mean_1_and_do_not_depend_on_the_order_of_shoppers(
    shoppers: dict[str, list[tuple[int, int, int, int]]], random: object
) -> None:
    config = TargetConfig(type_weights={"purchase": 4, "click": 0.5}, inverse_propensity=True)
    weights = {}
    for _ in range(2):
        own = {user: sorted(chosen) for user, chosen in shoppers.items()}
        rows = [entry for chosen in own.values() for entry in chosen]
        sequences = replace(
            make_sequences({user: [(2, time, kind) for time, kind, *_ in chosen] for user, chosen in own.items()}),
            positions=np.array([entry[2] for entry in rows], np.int32),
            surfaces=np.array([entry[3] for entry in rows], np.int32),
        )
        training = training_interactions(sequences)
        known = training & ~np.isnan(PROPENSITIES.of(sequences.surfaces, sequences.positions))
        if not known.any():
            return
        found = target_weights(sequences, config, PROPENSITIES)
        assert found[training].mean() == pytest.approx(1.0, rel=1e-5)
        of_user = dict(zip(own, np.split(found, sequences.offsets[1:-1]), strict=True))
        weights = weights or of_user
        assert all(of_user[user] == pytest.approx(weights[user], rel=1e-5) for user in own)
        names = list(shoppers)
        random.shuffle(names)  # type: ignore[attr-defined]
        shoppers = {user: shoppers[user] for user in names}


def test_weighted_clicks_tell_relevance_where_raw_clicks_tell_positions() -> None:
    # Two products shown 1,000 times each and equally relevant; one always stood first, the other second, where half of
    # the shoppers look: 400 and 200 clicks.
    clicks = [(2, 1, VIEW)] * 400 + [(3, 1, VIEW)] * 200
    sequences = replace(
        make_sequences({"ann": clicks}),
        positions=np.repeat(np.array([1, 2], np.int32), [400, 200]),
        surfaces=np.full(600, SEARCH, np.int32),
    )
    weights = target_weights(sequences, INVERSE, PROPENSITIES)
    assert weights[sequences.rows == 2].sum() == pytest.approx(weights[sequences.rows == 3].sum(), rel=1e-5)
