"""Thirty-odd ways in which a new day of data is wrong: each is named by the guard; clean days raise no alarm.

A simulated shop's first days are transformed, validated and taken as the last blessed run. Then one more day arrives.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transform.baseline import PROFILE
from transform.beam_transform import run_transform
from transform.checks import DataError
from transform.clock import DAY, HOUR
from transform.config import TransformConfig, ValidateConfig
from transform.simulator import SimulatorConfig, simulate
from transform.tables import EVENTS, ITEMS
from transform.validation import run_validation

# Newcomers make a simulated shop grow faster and faster: only the calm first days are used.
SHOP = SimulatorConfig(products=200, shoppers=9_000, events=170_000, days=60, pictures=False, seed=4)
BLESSED_DAYS = 24
FIRST_NEW = SHOP.start + BLESSED_DAYS * DAY


@dataclass
class Tables:
    """A delivery, to be spoilt in place."""

    events: pd.DataFrame  # of the new day
    items: pd.DataFrame
    before: pd.DataFrame  # events of the days before
    after: pd.DataFrame  # events of the day after

    def choose(self, types: tuple[str, ...]) -> pd.Series:
        """Bool [events]: events of the new day that are of these types."""
        return self.events["type"].isin(types)


@dataclass(frozen=True)
class Shop:
    """What was delivered in all, and the folder with the blessed run."""

    events: pd.DataFrame
    items: pd.DataFrame
    folder: Path

    def day(self, day: int) -> Tables:
        """The delivery of one day after `before`."""
        number = (self.events["timestamp"] - SHOP.start) // DAY
        return Tables(
            self.events[number == day].copy(),
            self.items.copy(),
            self.events[number < day],
            self.events[number == day + 1],
        )

    def deliver(self, tables: Tables, out: Path) -> None:
        """The transform and the guards over everything delivered so far."""
        data, transformed = out / "data", out / "transform"
        data.mkdir(parents=True)
        transformed.mkdir()
        events = pd.concat([tables.before, tables.events]) if len(tables.before) else tables.events
        write(data / "events.parquet", events, EVENTS)
        write(data / "items.parquet", tables.items, ITEMS)
        run_transform(data, transformed, TransformConfig(buckets=1))
        baseline = self.folder / "validate" / PROFILE
        run_validation(
            transformed,
            self.folder / "schema",
            out / "validate",
            ValidateConfig(),
            out / "logs",
            baseline if baseline.is_dir() else None,
        )


def write(file: Path, frame: pd.DataFrame, schema: pa.Schema) -> None:
    """Writes a canonical table, and columns that are none as they are."""
    fields = [schema.field(name) if name in schema.names else pa.field(name, pa.string()) for name in frame]
    pq.write_table(pa.Table.from_pandas(frame, pa.schema(fields), preserve_index=False), file)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    simulate(folder / "simulated", SHOP)
    read = {name: pq.read_table(folder / "simulated" / f"{name}.parquet").to_pandas() for name in ("events", "items")}
    shop = Shop(read["events"], read["items"], folder)
    first = shop.day(BLESSED_DAYS)
    first.events = first.events.iloc[:0]
    shop.deliver(first, folder)
    return shop


Fault = Callable[[Tables], None]


def rename_a_column(tables: Tables) -> None:
    tables.events.rename(columns={"device": "platform"}, inplace=True)
    tables.before = tables.before.rename(columns={"device": "platform"})


def prices_in_cents(tables: Tables) -> None:
    tables.events["price"] *= 100


def another_time_zone(tables: Tables) -> None:
    # Two days, so that the second is whole.
    tables.events = pd.concat([tables.events, tables.after])
    tables.events["timestamp"] += 6 * HOUR


def rows_twice(tables: Tables) -> None:
    tables.events = pd.concat([tables.events, tables.events])


def yesterday_again(tables: Tables) -> None:
    yesterday = tables.before[tables.before["timestamp"] >= FIRST_NEW - DAY].copy()
    yesterday["timestamp"] += DAY
    tables.events = yesterday


def a_category_vanishes(tables: Tables) -> None:
    leaf = tables.items.set_index("item_id")["category"]
    of_event = tables.events["item_id"].map(leaf)
    tables.events = tables.events[of_event != of_event.value_counts().index[0]]


def popularity_upside_down(tables: Tables) -> None:
    ranked = tables.before["item_id"].value_counts().index
    mapping = dict(zip(ranked, ranked[::-1], strict=True))
    tables.events["item_id"] = tables.events["item_id"].map(lambda item: mapping.get(item, item))


def products_get_new_ids(tables: Tables) -> None:
    for name in ("events", "before", "items"):
        frame = getattr(tables, name).copy()
        frame["item_id"] = frame["item_id"].str.replace("sku-", "product/", regex=False)
        setattr(tables, name, frame)


def shoppers_get_new_ids(tables: Tables) -> None:
    tables.events["user_id"] = "anonymous-" + tables.events["user_id"]


def bots(tables: Tables) -> None:
    clicks = tables.events[tables.choose(("click",))].sample(len(tables.events) // 4, replace=True, random_state=1)
    clicks["user_id"] = np.where(np.arange(len(clicks)) % 2, "bot-1", "bot-2")
    clicks["session"] = clicks["user_id"]
    clicks["timestamp"] = FIRST_NEW + np.linspace(0, DAY - 1, len(clicks)).astype(int)
    tables.events = pd.concat([tables.events, clicks])


def no_region(tables: Tables) -> None:
    tables.events["region"] = None


def half_a_day(tables: Tables) -> None:
    tables.events = tables.events[tables.events["timestamp"] < FIRST_NEW + DAY // 2]


def a_third_of_the_events(tables: Tables) -> None:
    users = pd.util.hash_array(tables.events["user_id"].to_numpy())
    tables.events = tables.events[users % 3 == 0]


def a_type_is_renamed(tables: Tables) -> None:
    tables.events["type"] = tables.events["type"].replace("click", "select_item")


def a_rare_type_is_renamed(tables: Tables) -> None:
    tables.events["type"] = tables.events["type"].replace("add_to_cart", "add_to_basket")


def no_purchases(tables: Tables) -> None:
    tables.events = tables.events[~tables.choose(("purchase",))]


def negative_prices(tables: Tables) -> None:
    tables.events["price"] *= -1


def free_products(tables: Tables) -> None:
    tables.events["price"] *= 0


def another_currency_in_one_region(tables: Tables) -> None:
    tables.events.loc[tables.events["region"] == "north", "price"] *= 110


def milliseconds(tables: Tables) -> None:
    tables.events["timestamp"] *= 1000


def one_shopper_has_all(tables: Tables) -> None:
    tables.events["user_id"] = "guest"


def nothing_is_available(tables: Tables) -> None:
    tables.items["available"] = False


def no_titles(tables: Tables) -> None:
    tables.items["title"] = ""


def truncated_ids(tables: Tables) -> None:
    tables.events["item_id"] = tables.events["item_id"].str[:-1] + "~"


def shuffled_ids(tables: Tables) -> None:
    ids = tables.items["item_id"].to_numpy()
    mapping = dict(zip(ids, np.random.default_rng(3).permutation(ids), strict=True))
    tables.events["item_id"] = tables.events["item_id"].map(mapping)


def upper_case_devices(tables: Tables) -> None:
    tables.events["device"] = tables.events["device"].str.upper()


def positions_from_two(tables: Tables) -> None:
    tables.events["position"] += 1


def a_thousand_pieces(tables: Tables) -> None:
    tables.events["quantity"] *= 1000


def broken_encoding(tables: Tables) -> None:
    tables.items["category"] = tables.items["category"].str.replace("e", "Ã©", regex=False)


def last_year(tables: Tables) -> None:
    tables.events["timestamp"] -= 366 * DAY


def next_year(tables: Tables) -> None:
    tables.events["timestamp"] += 366 * DAY


def no_impressions(tables: Tables) -> None:
    tables.events = tables.events[~tables.choose(("impression",))]


def one_session(tables: Tables) -> None:
    tables.events["session"] = "session"


def one_price(tables: Tables) -> None:
    tables.events.loc[tables.events["price"].notna(), "price"] = 9.99


def half_a_catalogue(tables: Tables) -> None:
    tables.items = tables.items.iloc[::2]


# fault: dataset, feature, rule that the sentence names.
NEW_DAY = "day 2024-03-25"
GUARDED: dict[Fault, tuple[str, str, str]] = {
    prices_in_cents: (NEW_DAY, "price", "DRIFT_HIGH"),
    another_time_zone: ("day 2024-03-26", "hour", "HOURS_SHIFTED"),
    rows_twice: (NEW_DAY, "(all columns)", "DUPLICATES_HIGH"),
    yesterday_again: (NEW_DAY, "(all columns)", "REPEATED_DAY"),
    a_category_vanishes: (NEW_DAY, "category", "VANISHED"),
    popularity_upside_down: (NEW_DAY, "popularity", "DRIFT_HIGH"),
    products_get_new_ids: ("products", "item_id", "IDS_REPLACED"),
    shoppers_get_new_ids: (NEW_DAY, "user_id", "RETURNING_LOW"),
    bots: (NEW_DAY, "user_id", "HEAVY_SHOPPERS_HIGH"),
    no_region: (NEW_DAY, "region", "MISSING_HIGH"),
    half_a_day: (NEW_DAY, "hour", "HOURS_EMPTY"),
    a_third_of_the_events: (NEW_DAY, "all events", "VOLUME_LOW"),
    a_rare_type_is_renamed: ("new rows", "type", "REJECTED_HIGH"),
    no_purchases: (NEW_DAY, "purchase", "VANISHED"),
    negative_prices: ("new rows", "price", "REJECTED_HIGH"),
    free_products: (NEW_DAY, "price", "DRIFT_HIGH"),
    another_currency_in_one_region: (f"{NEW_DAY}, region=north", "price", "DRIFT_HIGH"),
    one_shopper_has_all: (NEW_DAY, "user_id", "ONE_SHOPPER_HIGH"),
    nothing_is_available: ("products", "available", "DRIFT_HIGH"),
    no_titles: ("products", "title", "MISSING_HIGH"),
    truncated_ids: (NEW_DAY, "known", "DRIFT_HIGH"),
    shuffled_ids: (NEW_DAY, "popularity", "DRIFT_HIGH"),
    upper_case_devices: (NEW_DAY, "device", "NEW_VALUES"),
    positions_from_two: (NEW_DAY, "position", "VANISHED"),
    a_thousand_pieces: (NEW_DAY, "quantity", "DRIFT_HIGH"),
    broken_encoding: ("products", "category", "NEW_VALUES"),
    last_year: ("day 2023-03-25", "timestamp", "DAY_OUT_OF_PLACE"),
    next_year: ("day 2025-03-26", "timestamp", "DAY_OUT_OF_PLACE"),
    no_impressions: (NEW_DAY, "impression", "VANISHED"),
    one_session: (NEW_DAY, "session", "SHARED_SESSIONS_HIGH"),
    one_price: (NEW_DAY, "price", "DRIFT_HIGH"),
    half_a_catalogue: ("products", "item_id", "CATALOGUE_SMALL"),
}
# What the transform refuses before there is anything to guard.
REFUSED: dict[Fault, str] = {
    rename_a_column: r"column 'platform' is not one of the table 'events'",
    a_type_is_renamed: r"type: must be one of .*, received 'select_item'",
    milliseconds: r"timestamp: must be in seconds since 1970-01-01, received \d+. It looks like milliseconds",
}
QUICK = (half_a_day,)


def check_fault(fault: Fault, shop: Shop, tmp_path: Path) -> None:
    """The sentence of the guard names dataset, feature and rule."""
    dataset, feature, rule = GUARDED[fault]
    tables = shop.day(BLESSED_DAYS)
    fault(tables)
    with pytest.raises(DataError) as caught:
        shop.deliver(tables, tmp_path)
    assert f"{dataset}, feature {feature!r}, rule {rule}: " in str(caught.value)


@pytest.mark.parametrize("fault", QUICK)
def test_a_common_fault_is_named(fault: Fault, shop: Shop, tmp_path: Path) -> None:
    check_fault(fault, shop, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [fault for fault in GUARDED if fault not in QUICK])
def test_a_fault_is_named(fault: Fault, shop: Shop, tmp_path: Path) -> None:
    check_fault(fault, shop, tmp_path)


@pytest.mark.parametrize("fault", REFUSED)
def test_a_fault_is_refused_at_the_door(fault: Fault, shop: Shop, tmp_path: Path) -> None:
    tables = shop.day(BLESSED_DAYS)
    fault(tables)
    with pytest.raises(DataError, match=REFUSED[fault]):
        shop.deliver(tables, tmp_path)


def check_clean(day: int, shop: Shop, tmp_path: Path) -> None:
    """No finding at all, not even one that warns."""
    shop.deliver(shop.day(day), tmp_path)
    assert json.loads((tmp_path / "validate" / "anomalies.json").read_text()) == []


def test_a_clean_day_raises_no_alarm(shop: Shop, tmp_path: Path) -> None:
    check_clean(BLESSED_DAYS, shop, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("day", range(BLESSED_DAYS + 1, BLESSED_DAYS + 10))
def test_clean_days_raise_no_alarm(day: int, shop: Shop, tmp_path: Path) -> None:
    check_clean(day, shop, tmp_path)


def test_thirty_faults_are_in_the_catalogue() -> None:
    assert len(GUARDED) + len(REFUSED) >= 30
