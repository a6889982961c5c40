"""Writes a simulated shop: the canonical tables and the truth behind them."""

import json
import logging
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transform.simulator.catalogue import items_table, make_products, make_shop
from transform.simulator.config import MAX_SESSIONS_PER_DAY, SimulatorConfig
from transform.simulator.events import Names, event_table
from transform.simulator.sessions import draw_choices, plan_sessions
from transform.simulator.shoppers import Visible, draw_shoppers, user_ids, users_table
from transform.simulator.truth import Oracle, Shop, Shoppers
from transform.tables import EVENTS

ROW_GROUP = 262_144
# Shoppers are simulated in chunks of about so many events: bounds memory.
CHUNK_EVENTS = 1_000_000
# Sessions that measure how many events one leaves.
PILOT_SESSIONS = 16_384

# First entry of a random stream's key, after the seed; the second is the chunk.
_CATALOGUE, _WORDS, _PILOT, _SHOPPERS, _SESSIONS = range(5)

Arrays = TypeVar("Arrays", Shoppers, Visible)

log = logging.getLogger(__name__)


def simulate(output: Path, config: SimulatorConfig) -> None:
    """Writes events, items and users (.parquet), dataset.json and truth.npz to the folder `output`.

    Events are in order of time within each chunk of shoppers (a shop of up to a million events is one chunk).
    The folder appears when it is whole.

    Raises:
        FileExistsError: `output` is there already, and not an empty folder.
        ValueError: more events than so many shoppers can leave in so many days.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} is not empty: remove it, or name another folder for the simulated shop")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write(partial, config)
    partial.rename(output)


def _write(folder: Path, config: SimulatorConfig) -> None:
    rng = np.random.default_rng([config.seed, _CATALOGUE])
    products = make_products(config, rng)
    shop = make_shop(config, products, rng)
    items = items_table(config, products, np.random.default_rng([config.seed, _WORDS]))
    pq.write_table(items, folder / "items.parquet", compression="zstd")
    log.info("simulate: %d products in %d categories", config.products, len(shop.leaf_market))
    events, shoppers, visible = _write_events(folder / "events.parquet", config, shop, products.price)
    ids = user_ids(0, config.shoppers)
    pq.write_table(users_table(ids, visible), folder / "users.parquet", compression="zstd")
    Oracle(products.item_ids, ids, shop, shoppers).save(folder)
    provenance = {
        "name": "simulated shop",
        "format": "simulated",
        "sources": [],
        "rows_read": events,
        "rows_kept": events,
        "dropped": {},
        "rejected": {},
        "simulator": asdict(config),
    }
    (folder / "dataset.json").write_text(json.dumps(provenance, indent=2) + "\n")


def _write_events(path: Path, config: SimulatorConfig, shop: Shop, prices: np.ndarray) -> tuple[int, Shoppers, Visible]:
    """Simulates all shoppers, chunk by chunk; returns the number of events and the shoppers."""
    mean_sessions = _mean_sessions(config, shop, prices)
    chunk = max(1, int(CHUNK_EVENTS * config.shoppers / config.events))
    names, events, groups, begun = Names(0, 0, 0), 0, [], time.monotonic()
    with pq.ParquetWriter(path, EVENTS, compression="zstd") as writer:
        for number, first in enumerate(range(0, config.shoppers, chunk)):
            count = min(chunk, config.shoppers - first)
            shoppers, visible = draw_shoppers(
                count, config, shop, np.random.default_rng([config.seed, _SHOPPERS, number])
            )
            table, names = _simulate_chunk(shop, config, shoppers, visible, mean_sessions, prices, names, number)
            writer.write_table(table, row_group_size=ROW_GROUP)
            groups.append((shoppers, visible))
            events += len(table)
            done = (first + count) / config.shoppers
            left = (time.monotonic() - begun) * (1 - done) / done
            log.info("simulate: %d events of %d shoppers, about %.0f s left", events, first + count, left)
    return events, _joined([group[0] for group in groups]), _joined([group[1] for group in groups])


def _joined(parts: list[Arrays]) -> Arrays:
    """One dataclass of arrays from several of the same kind, rows after rows."""
    kind = type(parts[0])
    return kind(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def _mean_sessions(config: SimulatorConfig, shop: Shop, prices: np.ndarray) -> float:
    """Sessions expected of a shopper so that all leave the events asked for; a pilot measures events per session."""
    pilot_shoppers, visible = draw_shoppers(
        PILOT_SESSIONS, config, shop, np.random.default_rng([config.seed, _SHOPPERS, _PILOT, 0])
    )
    table, names = _simulate_chunk(shop, config, pilot_shoppers, visible, 1.0, prices, Names(0, 0, 0), None)
    mean = config.events / config.shoppers / (len(table) / names.first_session)
    most = MAX_SESSIONS_PER_DAY * config.days
    if mean > most:
        raise ValueError(
            f"simulator: {config.events} events are too many for {config.shoppers} shoppers in {config.days} days: "
            f"each would come {mean:.0f} times, more than {most}; give more shoppers or days, or fewer events"
        )
    return mean


def _simulate_chunk(
    shop: Shop,
    config: SimulatorConfig,
    shoppers: Shoppers,
    visible: Visible,
    mean_sessions: float,
    prices: np.ndarray,
    names: Names,
    number: int | None,
) -> tuple[pa.Table, Names]:
    """Events of one chunk (None: the pilot), and the names for the next one."""
    rng = np.random.default_rng([config.seed, _PILOT] if number is None else [config.seed, _SESSIONS, number])
    sessions = plan_sessions(visible, mean_sessions, config.days, rng)
    choices = draw_choices(shop, shoppers, sessions, rng)
    table = event_table(shop, prices, visible, sessions, choices, names, rng)
    following = Names(
        names.first_shopper + len(visible.activity),
        names.first_session + len(sessions.length),
        names.first_choice + len(choices.item),
    )
    return table, following
