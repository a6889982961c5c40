"""What recommendations sold, on logs that can be worked out by hand."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transform.attributed_sales import (
    ATTRIBUTION_SECONDS,
    NO_TOKENS,
    FirstShown,
    VersionSales,
    attributed_sales,
    read_attributed_sales,
)
from transform.clock import DAY
from transform.tables import EVENTS, ITEMS, embedding_versions

START = 1_700_000_000
ITEM_ROWS = [
    {"item_id": "old", "price": 10.0, "created_at": START - 100 * DAY},
    {"item_id": "pot", "price": 20.0, "created_at": START + 1 * DAY},
    {"item_id": "pan", "price": None, "created_at": START + 2 * DAY},
    {"item_id": "lid", "price": 5.0, "created_at": START + 3 * DAY},
]


def event(user: str, item: str, kind: str, days: float, token: str | None = None, **more: Any) -> dict[str, Any]:
    row = {"user_id": user, "item_id": item, "type": kind, "timestamp": START + int(days * DAY)}
    return {**row, "attribution_token": token, **more}


def items(rows: list[dict[str, Any]] = ITEM_ROWS) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=ITEMS)


def events(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=EVENTS)


# Version a shows four products and sells two pots at 18 after a click; version b shows two, and its token comes back
# with the purchase of an old one, whose price only the catalogue tells.
LOG = [
    event("ann", "old", "impression", 0, "a:1"),
    event("ann", "pot", "impression", 2, "a:2"),
    event("ann", "lid", "impression", 4, "a:3"),
    event("bob", "pot", "impression", 4, "a:4"),
    event("ann", "pot", "click", 2.1, "a:2"),
    event("ann", "pot", "purchase", 5, quantity=2, price=18.0),
    event("bob", "pot", "purchase", 5, price=20.0),
    event("cy", "old", "impression", 6, "b:1"),
    event("cy", "lid", "impression", 6, "b:1"),
    event("cy", "old", "purchase", 6.1, "b:1"),
    event("cy", "pan", "purchase", 6.1, price=100.0, quantity=5),
]


def test_version_is_the_part_of_the_token_before_the_first_colon() -> None:
    tokens = pa.chunked_array([["v1:request", "list-3", None, ":x"], ["2024-05:a:b", "v:"]])
    assert embedding_versions(tokens).to_pylist() == ["v1", None, None, None, "2024-05", None]


def test_revenue_per_impression_by_version() -> None:
    found = attributed_sales(events(*LOG), items())
    # Bob was shown the pot and never followed it: his purchase is nobody's.
    assert found.versions == {
        "a": VersionSales(impressions=4, purchases=1, revenue=36.0, revenue_per_impression=9.0),
        "b": VersionSales(impressions=2, purchases=1, revenue=10.0, revenue_per_impression=5.0),
    }
    assert found.unpriced == 0


def test_share_of_recommended_revenue_outside_the_best_sellers() -> None:
    # Units sold: pan 5, pot 3, old 1. Beyond the first two only the old one is left: 10 of 46.
    assert attributed_sales(events(*LOG), items(), top_sellers=2).tail_revenue_share == pytest.approx(10 / 46)
    assert attributed_sales(events(*LOG), items(), top_sellers=1).tail_revenue_share == pytest.approx(1.0)
    none = attributed_sales(events(*LOG), items(), top_sellers=3)
    assert none.tail_revenue_share is None
    assert none.reasons["tail_revenue_share"] == "only 3 products were sold, none is outside the first 3"


def test_time_from_listing_to_first_recommendation() -> None:
    # Of the three listed since the log began, the pot waited one day, the lid one, and the pan was never recommended.
    found = attributed_sales(events(*LOG), items())
    assert found.days_to_first_recommendation == FirstShown(listed=3, recommended=2, median_days=1.0)


@pytest.mark.parametrize(("seconds", "versions"), [(ATTRIBUTION_SECONDS, 1), (ATTRIBUTION_SECONDS + 1, 0)])
def test_a_recommendation_followed_too_long_ago_sold_nothing(seconds: int, versions: int) -> None:
    bought = event("ann", "pot", "purchase", 0, price=1.0)
    bought["timestamp"] += seconds
    log = [event("ann", "pot", "impression", 0, "a:1"), event("ann", "pot", "view", 0, "a:1"), bought]
    assert attributed_sales(events(*log), items()).versions["a"].purchases == versions


def test_the_last_recommendation_followed_before_the_purchase_counts() -> None:
    log = [
        event("ann", "pot", "impression", 0, "a:1"),
        event("ann", "pot", "impression", 1, "b:1"),
        event("ann", "pot", "click", 0.1, "a:1"),
        event("ann", "pot", "add_to_cart", 1.1, "b:1"),
        event("ann", "pot", "click", 3, "a:2"),
        event("bob", "pot", "click", 1.5, "a:3"),
        event("ann", "pot", "purchase", 2),
    ]
    found = attributed_sales(events(*log), items()).versions
    assert (found["a"].revenue, found["b"].revenue) == (0.0, 20.0)


def test_purchase_without_any_price_is_counted_apart() -> None:
    log = [event("ann", "pan", "impression", 0, "a:1"), event("ann", "pan", "purchase", 1, "a:1")]
    found = attributed_sales(events(*log), items())
    assert found.unpriced == 1
    assert found.versions["a"].revenue == 0.0
    assert found.reasons["tail_revenue_share"] == "no purchase with a price followed a recommendation"


def test_lists_of_the_shop_itself_are_no_recommendations() -> None:
    log = [event("ann", "pot", "impression", 0, "list-7"), event("ann", "pot", "purchase", 1, "list-7", price=3.0)]
    found = attributed_sales(events(*log), items())
    assert found.versions is None
    assert set(found.reasons.values()) == {NO_TOKENS}
    assert len(found.reasons) == 3


def test_log_without_a_clock_still_tells_revenue_by_the_purchases_own_token() -> None:
    log = events(event("ann", "pot", "impression", 0, "a:1"), event("ann", "pot", "purchase", 1, "a:1", price=3.0))
    found = attributed_sales(log.drop(["timestamp", "quantity"]), items())
    assert found.versions["a"].revenue_per_impression == 3.0
    assert found.reasons["days_to_first_recommendation"] == "not in the logs: events have no time"


def test_catalogue_without_listing_times_says_so() -> None:
    found = attributed_sales(events(*LOG), items().drop(["created_at", "price"]))
    assert "does not tell when products were listed" in found.reasons["days_to_first_recommendation"]
    assert found.unpriced == 1


def test_tables_on_disk_give_the_same_and_bad_rows_do_not_count(tmp_path: Path) -> None:
    bad = event("ann", "pot", "purchase", 2.2, "a:2", price=-1000.0)
    ordinary = [event("dee", "pot", "view", 1), event("dee", "pot", "impression", 1, "list-1")]
    pq.write_table(events(*LOG, bad, *ordinary), tmp_path / "events.parquet", row_group_size=3)
    pq.write_table(items(), tmp_path / "items.parquet")
    assert read_attributed_sales(tmp_path, 0) == attributed_sales(events(*LOG), items())


def test_tables_without_tokens_are_not_read_further(tmp_path: Path) -> None:
    pq.write_table(events(*LOG).drop(["attribution_token"]), tmp_path / "events.parquet")
    assert read_attributed_sales(tmp_path, 0).reasons["versions"] == NO_TOKENS
