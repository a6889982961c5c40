"""The tables that the simulator writes."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transform.checks import check_events, check_items
from transform.clock import DAY
from transform.simulator import SimulatorConfig, simulate
from transform.simulator.catalogue import used_leaves
from transform.tables import EVENTS, ITEMS, USERS

SMALL = SimulatorConfig(products=300, shoppers=800, events=20_000, days=30, seed=7)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "shop"
    simulate(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def events(data: Path) -> pd.DataFrame:
    return pq.read_table(data / "events.parquet").to_pandas()


@pytest.fixture(scope="module")
def items(data: Path) -> pd.DataFrame:
    return pq.read_table(data / "items.parquet").to_pandas().set_index("item_id")


@pytest.fixture(scope="module")
def interactions(events: pd.DataFrame) -> pd.DataFrame:
    return events[(events["type"] != "impression") & (events["type"] != "search")]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_same_configuration_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "again", SMALL)
    assert contents(tmp_path / "again") == contents(data)


def test_another_seed_gives_another_shop(data: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "other", SimulatorConfig(products=300, shoppers=800, events=20_000, days=30, seed=8))
    ours, other = contents(data), contents(tmp_path / "other")
    assert [name for name in ours if ours[name] == other[name]] == []


def test_writes_tables_provenance_and_truth_and_leaves_nothing_else(data: Path) -> None:
    assert sorted(contents(data)) == ["dataset.json", "events.parquet", "items.parquet", "truth.npz", "users.parquet"]
    assert [path.name for path in data.parent.iterdir()] == ["shop"]


@pytest.mark.parametrize(("table", "schema"), [("events", EVENTS), ("items", ITEMS), ("users", USERS)])
def test_tables_have_the_canonical_schema(data: Path, table: str, schema: pa.Schema) -> None:
    assert pq.read_schema(data / f"{table}.parquet").equals(schema)


def test_every_row_passes_the_checks_of_imported_rows(data: Path) -> None:
    for table, check in (
        ("events", lambda rows: check_events(rows, int(time.time()), 0)),
        ("items", check_items),
    ):
        good, bad = check(pq.read_table(data / f"{table}.parquet"))
        assert (len(bad), len(good) > 0) == (0, True)


def test_counts_are_near_what_was_asked(data: Path, events: pd.DataFrame, items: pd.DataFrame) -> None:
    assert len(items) == 300
    assert pq.read_metadata(data / "users.parquet").num_rows == 800
    # A standard deviation of activity is 1.3 of its mean: 4.6 % of the mean of 800 shoppers.
    assert len(events) == pytest.approx(20_000, rel=0.15)
    assert json.loads((data / "dataset.json").read_text())["rows_kept"] == len(events)


def test_impressions_are_about_two_fifths(events: pd.DataFrame) -> None:
    assert (events["type"] == "impression").mean() == pytest.approx(0.4, abs=0.06)


def test_activity_is_heavy_tailed_and_some_come_once(interactions: pd.DataFrame) -> None:
    per_shopper = interactions.groupby("user_id").size().sort_values(ascending=False)
    assert per_shopper.iloc[: len(per_shopper) // 10].sum() > 0.25 * per_shopper.sum()
    assert 0.1 < (interactions.groupby("user_id")["session"].nunique() == 1).mean() < 0.6


def test_events_lie_within_the_span_in_order(events: pd.DataFrame) -> None:
    assert events["timestamp"].min() >= SMALL.start
    assert events["timestamp"].max() < SMALL.end
    assert events["timestamp"].is_monotonic_increasing


def test_no_event_on_a_product_before_it_is_there_or_after_it_was_withdrawn(
    events: pd.DataFrame, items: pd.DataFrame
) -> None:
    shown = events.dropna(subset="item_id")
    product = items.loc[shown["item_id"]]
    assert (shown["timestamp"].to_numpy() >= product["created_at"].to_numpy()).all()
    assert product["available"].all()


def test_products_arrive_during_the_span(items: pd.DataFrame) -> None:
    assert 0.1 < (items["created_at"] > SMALL.start).mean() < 0.3


def test_searches_have_a_query_and_no_product(events: pd.DataFrame) -> None:
    searches = events["type"] == "search"
    assert searches.any()
    assert events.loc[searches, "item_id"].isna().all()
    assert events.loc[searches, "attributes"].str[0].str.startswith("query=").all()
    assert events.loc[~searches, "item_id"].notna().all()


def test_no_row_is_there_twice(events: pd.DataFrame) -> None:
    # An add to the cart is told from another by its time, a place in a list by its token and position.
    assert not events.drop(columns="attributes").duplicated().any()


def test_a_logged_list_holds_the_click_at_its_position_and_no_product_twice(events: pd.DataFrame) -> None:
    lists = events[events["type"] == "impression"]
    assert not lists.duplicated(["attribution_token", "item_id"]).any()
    assert not lists.duplicated(["attribution_token", "position"]).any()
    clicks = events[(events["type"] == "click") & events["attribution_token"].notna()]
    shown = clicks.merge(lists, on=["attribution_token", "item_id", "position", "surface", "session"])
    assert len(clicks) > 100
    assert len(shown) == len(clicks)
    assert (shown["timestamp_y"] < shown["timestamp_x"]).all()


def test_some_lists_have_no_click(events: pd.DataFrame) -> None:
    tokens = events.groupby("attribution_token")["type"].agg(set)
    assert (tokens == {"impression"}).sum() > 20


def test_first_positions_are_clicked_most(events: pd.DataFrame) -> None:
    clicks = events.loc[events["type"] == "click", "position"].value_counts()
    assert clicks[1] > 2 * clicks[6]


def test_an_order_has_one_time_and_sums_the_cart_of_its_session(events: pd.DataFrame) -> None:
    orders = events[events["type"] == "purchase"]
    assert orders.groupby("order")["timestamp"].nunique().eq(1).all()
    assert not orders.duplicated(["order", "item_id"]).any()
    assert (orders.groupby("order").size() > 1).any()
    carts = events[events["type"] == "add_to_cart"].groupby(["session", "item_id"])["quantity"].sum()
    bought = orders.set_index(["session", "item_id"])["quantity"]
    pd.testing.assert_series_equal(carts.loc[bought.index], bought, check_dtype=False)


def test_prices_are_those_of_the_catalogue(events: pd.DataFrame, items: pd.DataFrame) -> None:
    priced = events.dropna(subset="price")
    assert set(priced["type"]) == {"add_to_cart", "purchase"}
    np.testing.assert_array_equal(priced["price"], items.loc[priced["item_id"], "price"])


def test_sessions_are_told_apart_by_half_an_hour_of_silence(events: pd.DataFrame) -> None:
    ordered = events.sort_values(["user_id", "timestamp"], kind="stable")
    same_shopper = ordered["user_id"].eq(ordered["user_id"].shift())[1:]
    gap, same_session = ordered["timestamp"].diff()[1:], ordered["session"].eq(ordered["session"].shift())[1:]
    assert gap[same_session].max() < 1_800
    assert gap[same_shopper & ~same_session].min() > 1_800


def test_title_and_description_reflect_the_attributes(items: pd.DataFrame) -> None:
    for product in items.head(50).itertuples():
        values = dict(attribute.split("=") for attribute in product.attributes)
        text = f"{product.title} {product.description}".lower()
        assert {values["colour"], values["material"], product.brand.lower()} <= set(
            text.replace(",", " ").replace(".", " ").split()
        )


def test_categories_have_levels(items: pd.DataFrame) -> None:
    leaves = used_leaves(SMALL.products)
    assert set(items["category"]) == {leaf.path for leaf in leaves}
    assert {path.count(" > ") for path in items["category"]} == {1, 2}


def test_popularity_is_heavy_tailed(interactions: pd.DataFrame) -> None:
    counts = interactions["item_id"].value_counts()
    assert counts.head(30).sum() > 0.3 * counts.sum()


def test_no_picture_when_pictures_are_off(tmp_path: Path) -> None:
    simulate(tmp_path / "shop", SimulatorConfig(products=60, shoppers=50, events=500, days=5, pictures=False))
    assert "image" not in pq.read_schema(tmp_path / "shop" / "items.parquet").names


def test_shoppers_are_numbered_on_from_chunk_to_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transform.simulator.writer.CHUNK_EVENTS", 2_000)
    config = SimulatorConfig(products=60, shoppers=400, events=8_000, days=20, pictures=False)
    simulate(tmp_path / "shop", config)
    events = pq.read_table(tmp_path / "shop" / "events.parquet").to_pandas()
    # On average more than one session each, so nearly everyone came.
    assert len(set(events["user_id"]) & {f"shopper-{number}" for number in range(1, 401)}) > 390
    assert events["user_id"].nunique() <= 400
    assert events.groupby("session")["user_id"].nunique().eq(1).all()
    assert events.dropna(subset="attribution_token").groupby("attribution_token")["session"].nunique().eq(1).all()
    assert pq.ParquetFile(tmp_path / "shop" / "events.parquet").num_row_groups == 4


def test_fewer_sessions_than_shoppers_leave_some_away(tmp_path: Path) -> None:
    simulate(tmp_path / "shop", SimulatorConfig(products=60, shoppers=2_000, events=2_000, days=20, pictures=False))
    events = pq.read_table(tmp_path / "shop" / "events.parquet").to_pandas()
    assert events["user_id"].nunique() < 500
    assert len(events) == pytest.approx(2_000, rel=0.35)


def test_an_output_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match=r"shop is not empty: remove it, or name another folder"):
        simulate(tmp_path / "shop", SMALL)
    assert (tmp_path / "shop" / "mine.txt").read_text() == "keep"


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".shop.partial").mkdir()
    (tmp_path / ".shop.partial" / "events.parquet").write_bytes(b"half")
    simulate(tmp_path / "shop", SimulatorConfig(products=60, shoppers=50, events=500, days=5, pictures=False))
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]
    assert pq.read_metadata(tmp_path / "shop" / "events.parquet").num_rows > 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"products": 3}, "products must be at least 40, received 3"),
        ({"shoppers": 0}, "shoppers must be at least 1, received 0"),
        ({"days": 0}, "days must be at least 1, received 0"),
        ({"days": 100_000}, "plus 100000 days is in the future; give an earlier start or fewer days"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulatorConfig(**sizes)


def test_more_events_than_shoppers_can_leave_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1000000 events are too many for 10 shoppers in 5 days: each would come"):
        simulate(tmp_path / "shop", SimulatorConfig(products=60, shoppers=10, events=1_000_000, days=5))
    assert not (tmp_path / "shop").exists()


def test_span_of_the_default_shop_lies_in_the_past() -> None:
    assert SimulatorConfig().end == 1_709_251_200 + 60 * DAY < time.time()
