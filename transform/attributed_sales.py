"""What recommendations sold, as far as a shop's log tells: from the events that carry a recommendation's token."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transform.checks import check_events, conform
from transform.clock import DAY
from transform.tables import IMPRESSION, PURCHASE, TYPE_NAMES, embedding_versions, table_files

TOP_SELLERS = 1_000
# A purchase counts for the last recommendation that the shopper followed to the product within so many seconds: long
# enough for who sleeps on it over a weekend, too short for a later errand. A convention; shops differ.
ATTRIBUTION_SECONDS = 7 * DAY
_COLUMNS = ("user_id", "item_id", "type", "timestamp", "quantity", "price", "attribution_token")
_BATCH_ROWS = 131_072
NO_TOKENS = "not in the logs: no impression carries the token of a recommendation (<version>:<request>)"
_NO_CLOCK = "not in the logs: events have no time"


@dataclass(frozen=True)
class VersionSales:
    """Of the recommendations of one embedding version."""

    # Products shown.
    impressions: int
    # Order lines that followed, and what they brought, in the shop's currency.
    purchases: int
    revenue: float
    revenue_per_impression: float


@dataclass(frozen=True)
class FirstShown:
    """Of the products listed since recommendations are logged: how soon they were recommended to anybody."""

    listed: int
    recommended: int
    # From the listing to the first impression, of those that were recommended.
    median_days: float


@dataclass(frozen=True)
class AttributedSales:
    """The three figures; one that the logs do not tell is None and has its reason."""

    versions: dict[str, VersionSales] | None = None
    # Share of the recommended revenue that comes from products outside the best sellers.
    tail_revenue_share: float | None = None
    days_to_first_recommendation: FirstShown | None = None
    # Attributed purchases whose price neither the event nor the catalogue tells; they bring no revenue here.
    unpriced: int = 0
    # Name of the figure → why it is None.
    reasons: dict[str, str] = field(default_factory=dict)


def attributed_sales(events: pa.Table, items: pa.Table, top_sellers: int = TOP_SELLERS) -> AttributedSales:
    """Revenue per recommended impression, its share from the tail, and how soon new products are recommended.

    A purchase belongs to the version of its own token; without one, to that of the shopper's last view, click or cart
    of the same product that carries one, at most ATTRIBUTION_SECONDS before. An impression alone sells nothing.
    Revenue is quantity (1 where absent) × the event's unit price (the catalogue's where absent).

    Args:
        events: canonical, at least the recommendations' events and all purchases; columns that a shop lacks may be
            absent.
        items: canonical; price and created_at may be absent.
        top_sellers: products with most units sold that are not the tail; ties go to the smaller id.
    """
    table = _frame(events)
    shown = table[(table["type"] == TYPE_NAMES[IMPRESSION]) & table["version"].notna()]
    if shown.empty:
        return AttributedSales(reasons=dict.fromkeys(_FIGURES, NO_TOKENS))
    reasons: dict[str, str] = {}
    bought = _priced(table[table["type"] == TYPE_NAMES[PURCHASE]], items)
    won = _attributed(table, bought)
    versions = {
        str(version): _version_sales(int(impressions), won[won["version"] == version])
        for version, impressions in shown["version"].value_counts().sort_index().items()
    }
    tail = _tail_share(bought, won, top_sellers, reasons)
    first = _first_shown(shown, items, reasons)
    return AttributedSales(versions, tail, first, int(won["revenue"].isna().sum()), reasons)


_FIGURES = ("versions", "tail_revenue_share", "days_to_first_recommendation")


def read_attributed_sales(data: Path, max_future_seconds: int) -> AttributedSales:
    """`attributed_sales` of canonical tables on disk; rows that the transform would set aside do not count.

    Only purchases and events with a recommendation's token are held in memory.
    """
    now = int(time.time())
    parts = [check_events(part, now, max_future_seconds)[0] for part in _relevant_events(data)]
    if not parts:
        return AttributedSales(reasons=dict.fromkeys(_FIGURES, NO_TOKENS))
    return attributed_sales(pa.concat_tables(parts), _items(data))


def _relevant_events(data: Path) -> Iterator[pa.Table]:
    """Purchases and events with a recommendation's token, batch by batch; nothing where no event carries a token."""
    for path in table_files(data, "events"):
        file = pq.ParquetFile(path)
        columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
        if "attribution_token" not in columns:
            return
        for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
            table = conform(pa.Table.from_batches([batch]), "events", str(path))
            recommended = pc.is_valid(embedding_versions(table.column("attribution_token")))
            yield table.filter(pc.or_kleene(recommended, pc.equal(table.column("type"), TYPE_NAMES[PURCHASE])))


def _items(data: Path) -> pa.Table:
    parts = []
    for path in table_files(data, "items"):
        names = pq.read_schema(path).names
        columns = [name for name in ("item_id", "price", "created_at") if name in names]
        parts.append(conform(pq.read_table(path, columns=columns), "items", str(path)))
    return pa.concat_tables(parts)


def _frame(events: pa.Table) -> pd.DataFrame:
    """The events with their versions; `timestamp` is NaN, `quantity` 1 and `price` NaN where the shop has none."""
    present = [name for name in _COLUMNS if name in events.column_names]
    frame = events.select(present).to_pandas()
    for name in {"timestamp", "price", "quantity"} - set(present):
        frame[name] = np.nan
    frame["quantity"] = frame["quantity"].fillna(1)
    has_tokens = "attribution_token" in present
    frame["version"] = embedding_versions(events.column("attribution_token")).to_pandas() if has_tokens else None
    return frame


def _priced(bought: pd.DataFrame, items: pa.Table) -> pd.DataFrame:
    """The purchases with their revenue, NaN where no price is known."""
    if "price" in items.column_names:
        listed = pd.Series(items.column("price").to_numpy(), index=items.column("item_id").to_pylist())
        price = bought["price"].fillna(bought["item_id"].map(listed[~listed.index.duplicated()]))
    else:
        price = bought["price"]
    return bought.assign(revenue=price.astype(float) * bought["quantity"])


def _attributed(table: pd.DataFrame, bought: pd.DataFrame) -> pd.DataFrame:
    """The purchases that belong to a version, with it."""
    own = bought[bought["version"].notna()]
    others = bought[bought["version"].isna()].drop(columns="version")
    passive = (TYPE_NAMES[IMPRESSION], TYPE_NAMES[PURCHASE])
    followed = table[table["version"].notna() & ~table["type"].isin(passive)]
    keys = ["user_id", "item_id"]
    found = pd.merge_asof(
        others.dropna(subset=["timestamp"]).sort_values("timestamp", kind="stable"),
        followed.dropna(subset=["timestamp"]).sort_values("timestamp", kind="stable")[["timestamp", *keys, "version"]],
        on="timestamp",
        by=keys,
        tolerance=ATTRIBUTION_SECONDS,
    )
    return pd.concat([own, found[found["version"].notna()]])


def _version_sales(impressions: int, won: pd.DataFrame) -> VersionSales:
    revenue = float(won["revenue"].sum())
    return VersionSales(impressions, len(won), revenue, revenue / impressions)


def _tail_share(bought: pd.DataFrame, won: pd.DataFrame, top: int, reasons: dict[str, str]) -> float | None:
    units = bought.groupby("item_id")["quantity"].sum().reset_index()
    best = units.sort_values(["quantity", "item_id"], ascending=[False, True])["item_id"][:top]
    total = float(won["revenue"].sum())
    if total <= 0:
        reasons["tail_revenue_share"] = "no purchase with a price followed a recommendation"
    elif len(units) <= top:
        reasons["tail_revenue_share"] = f"only {len(units):,} products were sold, none is outside the first {top:,}"
    else:
        return float(won.loc[~won["item_id"].isin(best), "revenue"].sum()) / total
    return None


def _first_shown(shown: pd.DataFrame, items: pa.Table, reasons: dict[str, str]) -> FirstShown | None:
    """Products listed before the first recommended impression are left out: it is not known what came before it."""
    name = "days_to_first_recommendation"
    if shown["timestamp"].isna().all():
        reasons[name] = _NO_CLOCK
        return None
    if "created_at" not in items.column_names:
        reasons[name] = "not in the logs: the catalogue does not tell when products were listed"
        return None
    created = pd.Series(items.column("created_at").to_pandas().to_numpy(), index=items.column("item_id").to_pylist())
    first, last = shown["timestamp"].min(), shown["timestamp"].max()
    listed = created[(created >= first) & (created <= last)]
    waited = (shown.groupby("item_id")["timestamp"].min().reindex(listed.index) - listed).dropna()
    if waited.empty:
        reasons[name] = f"none of {len(listed):,} products listed since the first recommendation was recommended yet"
        return None
    # Shown before the day that the catalogue gives as that of its listing: at once.
    return FirstShown(len(listed), len(waited), float(waited.clip(lower=0).median()) / DAY)
