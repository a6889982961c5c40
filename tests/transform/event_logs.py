"""Generated event logs: small, with ties in time, copies, empty values and any of the optional columns."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tests.transform.small_tables import event, write
from transform.clock import DAY
from transform.tables import EVENTS

Row = dict[str, Any]

# Before, between and at the cuts of `small_tables.config`: validation from day 8, test from day 9.
SECONDS = (0, 1, 2, 1_700, 1_801, 4_000, 8 * DAY - 1, 8 * DAY, 8 * DAY + 1, 9 * DAY - 1, 9 * DAY, 9 * DAY + 60)
_OPTIONAL: dict[str, tuple[Any, ...]] = {
    "session": (None, None, "s1", "s2", ""),
    "order": (None, None, None, "o1", "o2", ""),
    "device": (None, "mobile", "desktop", ""),
    "region": (None, "north", "ü"),
    "quantity": (None, 1, 2),
    "price": (None, 0.5, 3.25),
    "surface": (None, "home", "search", ""),
    "position": (None, None, 1, 2),
    "attribution_token": (None, "v1:a", "v1:b"),
    "attributes": (None, [], ["list=top"]),
}
_TYPES = ("view", "view", "click", "impression", "search", "add_to_cart", "purchase")


@st.composite
def logs(draw: st.DrawFn, max_events: int = 25, distinct_times: bool = False) -> list[Row]:
    """Events in the order of their source.

    Args:
        distinct_times: no two events of a shopper at one time, so that their order in the source tells nothing.
    """
    present = draw(st.sets(st.sampled_from(sorted(_OPTIONAL))))
    more = {name: st.sampled_from(_OPTIONAL[name]) for name in sorted(present)}
    one = st.builds(
        event,
        st.sampled_from(("ann", "bob", "é", "Zoë")),
        st.sampled_from(("x", "y", "z", "a-very-long-id")),
        st.integers(0, 10 * DAY - 1) if distinct_times else st.sampled_from(SECONDS),
        st.sampled_from(_TYPES),
        **more,
    )
    alone = (lambda row: (row["user_id"], row["timestamp"])) if distinct_times else None
    rows = draw(st.lists(one, min_size=1, max_size=max_events, unique_by=alone))
    for place in draw(st.sets(st.integers(0, len(rows) - 1), max_size=2)):
        rows.append(dict(rows[place]))
    return rows


def busy_days(count: int, shoppers: int = 60, items: int = 40) -> list[Row]:
    """Ten days of a shop, evenly spread."""
    random = np.random.default_rng(6)
    seconds = np.sort(random.integers(0, 10 * DAY, count)).tolist()
    types = random.choice(["view", "view", "impression", "purchase"], count).tolist()
    users, products = random.integers(shoppers, size=count).tolist(), random.integers(items, size=count).tolist()
    return [
        event(f"shopper-{user}", f"sku-{item}", second, type, device="mobile", price=float(item))
        for user, item, second, type in zip(users, products, seconds, types, strict=True)
    ]


def with_every_span(rows: list[Row]) -> list[Row]:
    """`rows` and a shopper who clicks in each span, without whom the transform refuses some logs."""
    names = rows[0].keys() - {"user_id", "item_id", "timestamp", "type"}
    absent = dict.fromkeys(sorted(names))
    return [*rows, *(event("anchor", "x", seconds, "click", **absent) for seconds in (5, 8 * DAY + 5, 9 * DAY + 5))]


def write_files(folder: Path, rows: list[Row], files: int, row_group_size: int) -> Path:
    """The events `rows` in order, over several files and row groups in `folder`/events; returns `folder`."""
    (folder / "events").mkdir(parents=True)
    schema = pa.schema([field for field in EVENTS if field.name in rows[0]])
    table = pa.Table.from_pylist(rows, schema=schema)
    size = -(-len(rows) // files)
    for place, start in enumerate(range(0, len(rows), size)):
        file = folder / "events" / f"part-{place:03d}.parquet"
        pq.write_table(table.slice(start, size), file, row_group_size=row_group_size)
    return folder


def write_busy_shop(folder: Path, events: int) -> Path:
    """`busy_days` over two files, several row groups and the products' titles in `folder`, which it returns."""
    write(folder, "items", [{"item_id": f"sku-{item}", "title": f"Thing {item}"} for item in range(40)])
    return write_files(folder, busy_days(events), files=2, row_group_size=500)
