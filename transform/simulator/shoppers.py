"""The simulated shoppers: hidden tastes that drift, how often they come, and what the shop knows of them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from transform.simulator.catalogue import DIM
from transform.simulator.config import SimulatorConfig
from transform.simulator.truth import KNOT_DAYS, Shop, Shoppers
from transform.simulator.words import DEVICES, REGIONS
from transform.tables import USERS

# Standard deviations: of the logits of styles, of the logits of categories, of the log price level.
STYLE_SPREAD = 4.0
INTEREST_SPREAD = 2.0
BUDGET_SPREAD = 0.5
# Correlation of a taste with itself one knot (30 days) later.
STYLE_MEMORY = 0.93
BUDGET_MEMORY = 0.97
FAVOURITE_BRANDS = 3
# Of the log of the sessions expected of a shopper: the tail of activity.
ACTIVITY_SPREAD = 1.0
DEVICE_SHARES = (0.6, 0.32, 0.08)
REGION_SHARES = (0.22, 0.2, 0.2, 0.18, 0.15, 0.05)


@dataclass(frozen=True, eq=False)
class Visible:
    """What is not hidden of shoppers: circumstances and how much they come."""

    device: np.ndarray  # int8 [shoppers], the usual one, number in DEVICES
    region: np.ndarray  # int8 [shoppers], number in REGIONS
    # Relative to the mean shopper.
    activity: np.ndarray  # float64 [shoppers], mean 1


def draw_shoppers(
    count: int, config: SimulatorConfig, shop: Shop, rng: np.random.Generator
) -> tuple[Shoppers, Visible]:
    """Draws shoppers independently of each other and of the catalogue's size."""
    # One knot beyond the last day at least, so that every time lies between two.
    knots = config.days // KNOT_DAYS + 2
    brands = int(shop.cell_brand.max()) + 1
    shoppers = Shoppers(
        style=STYLE_SPREAD * _walk(rng.standard_normal((count, knots, DIM), np.float32), STYLE_MEMORY),
        budget=BUDGET_SPREAD * _walk(rng.standard_normal((count, knots), np.float32), BUDGET_MEMORY),
        interest=INTEREST_SPREAD * rng.standard_normal((count, DIM), np.float32),
        brands=rng.integers(0, brands, (count, FAVOURITE_BRANDS)).astype(np.int16),
    )
    # The mean of a log-normal is exp(spread² / 2).
    activity = np.exp(rng.normal(0, ACTIVITY_SPREAD, count) - ACTIVITY_SPREAD**2 / 2)
    visible = Visible(
        device=rng.choice(len(DEVICES), count, p=DEVICE_SHARES).astype(np.int8),
        region=rng.choice(len(REGIONS), count, p=REGION_SHARES).astype(np.int8),
        activity=activity,
    )
    return shoppers, visible


def _walk(noise: np.ndarray, memory: float) -> np.ndarray:
    """Stationary autoregressive walk along axis 1 with unit variance, from unit normal noise of the same shape."""
    walk = noise.copy()
    for knot in range(1, noise.shape[1]):
        walk[:, knot] = memory * walk[:, knot - 1] + np.sqrt(1 - memory**2) * noise[:, knot]
    return walk.astype(np.float32)


def user_ids(first: int, count: int) -> list[str]:
    """Ids of shoppers by number, counted from 0."""
    return [f"shopper-{number}" for number in range(first + 1, first + count + 1)]


def users_table(ids: list[str], visible: Visible) -> pa.Table:
    """The canonical users table: what a shop would know, no taste."""
    attributes = [
        [f"region={REGIONS[region]}", f"usual_device={DEVICES[device]}"]
        for region, device in zip(visible.region.tolist(), visible.device.tolist(), strict=True)
    ]
    return pa.table([pa.array(ids), pa.array(attributes, USERS.field("attributes").type)], schema=USERS)
