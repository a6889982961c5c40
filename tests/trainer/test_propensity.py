"""How likely each position is looked at: answers worked out by hand, and laws recovered from simulated logs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.worlds import write_position_counts
from trainer.propensity import PositionCounts, Propensities, estimate_propensities, load_position_counts
from transform.interactions import Rules, build_bucket
from transform.simulator import SimulatorConfig, simulate
from transform.simulator.events import LIST_LENGTH, POSITION_DECAY
from transform.tables import EVENT_TYPES, FIRST, IMPRESSION, RESERVED_LINES
from transform.tables import SEARCH as SEARCHED

SEARCH, HOME = 2, 3
NAMES = (*RESERVED_LINES, "search", "home")
Entry = tuple[int, int, int, int, int]


def counts_of(*entries: Entry) -> PositionCounts:
    """Entries of surface, position, row, impressions and clicks."""
    surfaces, positions, rows, impressions, clicks = np.array(entries, np.int64).reshape(-1, 5).T
    narrow = (column.astype(np.int32) for column in (surfaces, positions, rows))
    return PositionCounts(NAMES, *narrow, impressions, clicks)


def test_a_product_is_compared_with_itself_at_other_positions() -> None:
    # Product 2 is clicked in 0.1 of its impressions at the first place and in 0.05 at the second, product 3, which is
    # better and mostly stands first, in 0.4 and 0.2. Click-through would say 410 / 1100 against 70 / 1100: 0.17. The
    # prior of a click each is worth less than a thousandth here.
    estimate = estimate_propensities(
        counts_of(
            (SEARCH, 1, 2, 100_000, 10_000),
            (SEARCH, 2, 2, 1_000_000, 50_000),
            (SEARCH, 1, 3, 1_000_000, 400_000),
            (SEARCH, 2, 3, 100_000, 20_000),
        )
    )
    assert estimate.positions.tolist() == [1, 2]
    assert estimate.values == pytest.approx([1.0, 0.5], rel=1e-3)
    assert estimate.impressions.tolist() == [1_100_000, 1_100_000]
    assert estimate.clicks.tolist() == [410_000, 70_000]


def test_the_prior_is_one_click_at_each_position() -> None:
    # One product shown equally often at both places and clicked 3 and 1 times, and the prior's 1 and 1: 4 against 2.
    estimate = estimate_propensities(counts_of((SEARCH, 1, 2, 10, 3), (SEARCH, 2, 2, 10, 1)))
    assert estimate.values == pytest.approx([1.0, 0.5], rel=1e-4)


def test_a_later_position_is_never_looked_at_more() -> None:
    # Places 2 and 3 have 19 and 79 clicks (20 and 80 with the prior): their mean in logarithms, weighted by clicks.
    entries = [(SEARCH, place, 2, 1_000, clicks) for place, clicks in ((1, 199), (2, 19), (3, 79))]
    pooled = np.exp((20 * np.log(20) + 80 * np.log(80)) / 100) / 200
    assert estimate_propensities(counts_of(*entries)).values == pytest.approx([1.0, pooled, pooled], rel=1e-4)


def test_surfaces_are_estimated_apart() -> None:
    estimate = estimate_propensities(
        counts_of((SEARCH, 1, 2, 10, 9), (SEARCH, 2, 2, 10, 4), (HOME, 1, 2, 10, 7), (HOME, 2, 2, 10, 7))
    )
    assert estimate.of(np.array([SEARCH, HOME]), np.array([2, 2])) == pytest.approx([0.5, 1.0], rel=1e-4)


def test_what_was_never_shown_has_the_propensity_of_the_position_before() -> None:
    estimate = estimate_propensities(counts_of((SEARCH, 2, 2, 10, 9), (SEARCH, 4, 2, 10, 4), (SEARCH, 9, 2, 0, 5)))
    assert estimate.positions.tolist() == [2, 4]
    found = estimate.of(np.full(6, SEARCH), np.array([1, 2, 3, 4, 5, 9]))
    assert found == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.5, 0.5], rel=1e-4)


def test_position_0_and_surfaces_without_clicks_are_unknown() -> None:
    estimate = estimate_propensities(counts_of((SEARCH, 1, 2, 10, 9), (HOME, 1, 2, 10, 0)))
    assert np.isnan(estimate.of(np.array([SEARCH, HOME, 0, 1]), np.array([0, 1, 1, 1]))).all()


def test_a_shop_without_positions_has_no_estimate() -> None:
    estimate = estimate_propensities(counts_of())
    assert estimate.table() == []
    assert np.isnan(estimate.of(np.array([SEARCH]), np.array([1]))).all()


ENTRIES = st.lists(
    st.builds(
        lambda key, impressions, share: (*key, impressions, int(impressions * share)),
        st.tuples(st.sampled_from([0, SEARCH, HOME]), st.integers(1, 12), st.integers(2, 6)),
        st.integers(0, 10_000),
        st.floats(0, 1),
    ),
    max_size=30,
    unique_by=lambda entry: entry[:3],
)


@settings(max_examples=40)
@given(ENTRIES, st.randoms(use_true_random=False))
def test_propensities_are_bounded_and_do_not_depend_on_the_order_of_entries(
    entries: list[Entry], random: object
) -> None:
    estimate = estimate_propensities(counts_of(*entries))
    assert ((estimate.values > 0) & (estimate.values <= 1)).all()
    for surface in np.unique(estimate.surfaces):
        own = estimate.values[estimate.surfaces == surface]
        assert own[0] == 1
        assert (np.diff(own) <= 0).all()
    random.shuffle(entries)  # type: ignore[attr-defined]
    assert estimate_propensities(counts_of(*entries)).values == pytest.approx(estimate.values, rel=1e-3)


# --- laws


def drawn_log(rng: np.random.Generator, examination: np.ndarray, noise: float, products: int = 400) -> PositionCounts:
    """20,000 lists of products sorted by relevance with noise, clicked where looked at and relevant."""
    relevance = np.minimum(0.6, 0.08 * np.exp(rng.standard_normal(products)))
    shown = rng.integers(products, size=(20_000, len(examination)))
    score = np.log(relevance[shown]) + noise * rng.standard_normal(shown.shape)
    shown = np.take_along_axis(shown, np.argsort(-score, axis=1), axis=1)
    clicked = rng.random(shown.shape) < relevance[shown] * examination
    key = (np.arange(len(examination)) * products + shown).ravel()
    size = products * len(examination)
    impressions, clicks = np.bincount(key, minlength=size), np.bincount(key, clicked.ravel(), size)
    place, row = np.divmod(np.arange(size), products)
    return counts_of(*zip(np.full(size, SEARCH), place + 1, row + 2, impressions, clicks.astype(int), strict=True))


def log_error(estimate: Propensities, examination: np.ndarray) -> float:
    """Largest error of the logarithm."""
    return float(np.abs(np.log(estimate.values / examination)).max())


def click_through(counts: PositionCounts) -> np.ndarray:
    totals = [np.bincount(counts.positions, counted)[1:] for counted in (counts.clicks, counts.impressions)]
    return totals[0] / totals[1]


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_a_power_law_is_recovered_although_better_products_stand_first(power: float) -> None:
    examination = np.arange(1, 11.0) ** -power
    counts = drawn_log(np.random.default_rng(5), examination, noise=1.0)
    confounded = click_through(counts)
    assert np.log(confounded[0] / confounded[-1] * examination[-1]) > 1.0
    assert log_error(estimate_propensities(counts), examination) < 0.2


def test_a_sample_of_the_impressions_gives_the_same_law() -> None:
    examination = np.arange(1, 11.0) ** -1.0
    rng = np.random.default_rng(6)
    counts = drawn_log(rng, examination, noise=1.0)
    sampled = replace(counts, impressions=rng.binomial(counts.impressions, 0.15))
    assert log_error(estimate_propensities(sampled), examination) < 0.3


def simulated_counts(folder: Path) -> PositionCounts:
    """What a simulated shop's log says, all of it training."""
    size = SimulatorConfig(products=1_000, shoppers=1_000, events=60_000, days=30, pictures=False)
    simulate(folder / "shop", size)
    events = pq.read_table(folder / "shop" / "events.parquet").combine_chunks()
    numbers = pa.array([EVENT_TYPES[name] for name in events["type"].to_pylist()], pa.int8())
    events = events.set_column(events.column_names.index("type"), "type", numbers)
    events = events.append_column("row", pa.array(np.arange(len(events))))
    history = frozenset(EVENT_TYPES.values()) - {IMPRESSION, SEARCHED}
    counts = build_bucket(events, Rules(True, 1_800, history, (size.end, size.end + 1))).positions
    names = sorted(counts["surface"].unique().to_pylist())
    columns = [np.array([FIRST + names.index(name) for name in counts["surface"].to_pylist()], np.int32)]
    columns += [counts["position"].to_numpy(), counts["item_id"].combine_chunks().indices.to_numpy()]
    columns += [counts[name].to_numpy() for name in ("impressions", "clicks")]
    return PositionCounts((*RESERVED_LINES, *names), *columns)


def test_the_simulators_law_is_recovered(tmp_path: Path) -> None:
    estimate = estimate_propensities(simulated_counts(tmp_path))
    assert estimate.surface_names[FIRST:] == ("category", "home", "search", "similar")
    # Clicks fall on positions in proportion to the law; a place whose product stands in the list already is not logged,
    # so that what was shown is looked at a little more than the law says, the further down the more.
    law = POSITION_DECAY ** np.arange(LIST_LENGTH)
    for surface in np.unique(estimate.surfaces):
        own = estimate.surfaces == surface
        assert estimate.positions[own].tolist() == list(range(1, LIST_LENGTH + 1))
        logged = estimate.impressions[own] / estimate.impressions[own][0]
        found = estimate.values[own]
        assert np.corrcoef(np.log(found), np.log(law))[0, 1] > 0.97
        # From about 300 (home) to 1,600 (category) clicks at the first position, a tenth of it at the last.
        assert np.abs(np.log(found / (law / logged))).max() < 0.5


# --- files


def test_counts_are_read_with_the_ids_of_their_surfaces(tmp_path: Path) -> None:
    places = [("home", 1, 2, 8, 5), ("search", 2, 3, 7, 0), (None, 1, 2, 9, 1)]
    names = ("surface", "position", "row", "impressions", "clicks")
    write_position_counts(tmp_path, [dict(zip(names, place, strict=True)) for place in places], ["search", "home"])
    counts = load_position_counts(tmp_path)
    assert counts.surface_names == NAMES
    found = (counts.surfaces, counts.positions, counts.rows, counts.impressions, counts.clicks)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == [
        (HOME, 1, 2, 8, 5),
        (SEARCH, 2, 3, 7, 0),
        (0, 1, 2, 9, 1),
    ]
    told = {"position": 1, "clicks": 5, "impressions": 8, "propensity": 1.0}
    assert estimate_propensities(counts).table() == [
        {**told, "surface": None, "clicks": 1, "impressions": 9},
        {**told, "surface": "home"},
    ]


def test_a_transform_without_counts_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no position_counts.arrow in .*: run `tandem transform` again"):
        load_position_counts(tmp_path)


def test_empty_counts_are_no_position(tmp_path: Path) -> None:
    write_position_counts(tmp_path, [], [])
    assert len(load_position_counts(tmp_path).positions) == 0
