"""The simulated catalogue: products with content, and what of it the choice model needs."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from transform.clock import DAY
from transform.simulator.config import SimulatorConfig
from transform.simulator.pictures import draw_picture
from transform.simulator.truth import NEVER, POPULARITY_EXPONENT, STAY, Shop
from transform.simulator.words import BRAND_HEADS, BRAND_TAILS, LEAVES, STYLES, TIERS, Leaf
from transform.tables import CATEGORY_SEPARATOR, ITEMS

# Of the vectors of styles, tastes, categories and interests: few, so that a taste shows after a few choices.
DIM = 4
# Spread of the logits of a category's market, and length of its vector of interest.
MARKET_SPREAD = 0.5
PRODUCTS_PER_LEAF = 15
SHARE_WITHDRAWN = 0.01
# Products that arrive during the span; the others were there up to a year before it.
SHARE_NEW = 0.2
# A brand's products have its style and its tier most of the time.
SHARE_BRAND_STYLE = 0.75
SHARE_BRAND_TIER = 0.7
# A shop that tags its products does not tag all of them.
SHARE_STYLE_TAG = 0.7
# How much likelier the first complementary category is than the second, and so on.
COMPLEMENT_DECAY = 0.6

_MODEL_NAMES = ("Alba", "Brio", "Cora", "Dune", "Echo", "Faro", "Gaia", "Halo", "Iris", "Juno", "Kite", "Luna", "Mira")


@dataclass(frozen=True, eq=False)
class Products:
    """Content of the products by number, in row order of items.parquet."""

    leaf: np.ndarray  # int [items]
    brand: np.ndarray  # int [items]
    style: np.ndarray  # int [items]
    tier: np.ndarray  # int [items]
    colour: np.ndarray  # int [items], among the style's colours
    material: np.ndarray  # int [items], among the category's materials
    tagged: np.ndarray  # bool [items], has its style as an attribute
    price: np.ndarray  # float32 [items]
    # Days after the start of the span; negative before.
    created_day: np.ndarray  # int [items]
    withdrawn: np.ndarray  # bool [items]
    # 1 = most popular of its category.
    rank: np.ndarray  # int [items]

    @property
    def item_ids(self) -> list[str]:
        return [f"sku-{number}" for number in range(1, len(self.leaf) + 1)]


def used_leaves(products: int) -> tuple[Leaf, ...]:
    """The categories of a shop with so many products."""
    return LEAVES[: max(4, min(len(LEAVES), products // PRODUCTS_PER_LEAF))]


def make_products(config: SimulatorConfig, rng: np.random.Generator) -> Products:
    """Draws the catalogue; within a category brand, style and tier go together, and colours follow the style."""
    n, leaves = config.products, used_leaves(config.products)
    leaf = rng.choice(len(leaves), n, p=rng.dirichlet(np.full(len(leaves), 20.0)))
    # Every category has products, the first of them from the first day on.
    leaf[: len(leaves)] = np.arange(len(leaves))
    brand, style, tier = _brand_style_tier(leaf, leaves, rng)
    middle_price = np.array([entry.price for entry in leaves])[leaf]
    price = middle_price * np.array([entry.factor for entry in TIERS])[tier] * np.exp(rng.normal(0, 0.04, n))
    created_day = np.where(rng.random(n) < SHARE_NEW, rng.integers(1, max(config.days, 2), n), -rng.integers(0, 366, n))
    withdrawn = rng.random(n) < SHARE_WITHDRAWN
    created_day[: len(leaves)] = np.minimum(created_day[: len(leaves)], 0)
    withdrawn[: len(leaves)] = False
    return _oldest_first(
        Products(
            leaf=leaf,
            brand=brand,
            style=style,
            tier=tier,
            colour=rng.choice(3, n, p=[0.5, 0.3, 0.2]),
            material=rng.integers(0, 3, n),
            tagged=rng.random(n) < SHARE_STYLE_TAG,
            price=(np.floor(price) + 0.99).astype(np.float32),
            created_day=created_day,
            withdrawn=withdrawn,
            rank=_rank_within(leaf, rng),
        )
    )


def _brand_style_tier(
    leaf: np.ndarray, leaves: tuple[Leaf, ...], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Brands of a category are drawn by Zipf; each: int64 [items]."""
    brands = int(np.clip(2.5 * len(leaf) ** 0.4, 8, len(BRAND_HEADS) * len(BRAND_TAILS)))
    # A brand sells in one or two of the departments, which are dealt round so that none is without a brand.
    departments = sorted({entry.path.split(CATEGORY_SEPARATOR)[0] for entry in leaves})
    home = np.stack([np.arange(brands) % len(departments), rng.integers(0, len(departments), brands)], axis=1)
    own_style, second_style = (rng.integers(0, len(STYLES), brands) for _ in range(2))
    own_tier = rng.choice(len(TIERS), brands, p=[0.15, 0.25, 0.3, 0.2, 0.1])
    brand = np.zeros(len(leaf), np.int64)
    for number, entry in enumerate(leaves):
        here = np.flatnonzero((home == departments.index(entry.path.split(CATEGORY_SEPARATOR)[0])).any(axis=1))
        share = 1 / np.arange(1.0, len(here) + 1)
        products = leaf == number
        brand[products] = rng.choice(rng.permutation(here), products.sum(), p=share / share.sum())
    style = np.where(rng.random(len(leaf)) < SHARE_BRAND_STYLE, own_style[brand], second_style[brand])
    step = np.where(rng.random(len(leaf)) < SHARE_BRAND_TIER, 0, rng.choice([-1, 1], len(leaf)))
    return brand, style, np.clip(own_tier[brand] + step, 0, len(TIERS) - 1)


def _rank_within(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random rank of each member within its group, from 1: int64 [N] → int64 [N]."""
    order = np.lexsort((rng.random(len(group)), group))
    starts = np.searchsorted(group[order], group[order])
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - starts + 1
    return rank


def _oldest_first(products: Products) -> Products:
    """Numbers follow the day of creation, as a shop's numbers do."""
    order = np.argsort(products.created_day, kind="stable")
    return Products(**{name: values[order] for name, values in vars(products).items()})


def make_shop(config: SimulatorConfig, products: Products, rng: np.random.Generator) -> Shop:
    """What the choice model needs of the catalogue, and the vectors of styles and categories."""
    keys, item_cell = np.unique(
        np.stack([products.leaf, products.style, products.tier, products.brand], axis=1), axis=0, return_inverse=True
    )
    leaves = used_leaves(config.products)
    style_vectors = rng.normal(size=(len(STYLES), DIM))
    return Shop(
        start=config.start,
        days=config.days,
        item_cell=item_cell.astype(np.int32),
        item_weight=products.rank**-POPULARITY_EXPONENT,
        item_day=np.where(products.withdrawn, NEVER, np.maximum(products.created_day, 0)).astype(np.int32),
        cell_leaf=keys[:, 0].astype(np.int32),
        cell_style=keys[:, 1].astype(np.int32),
        cell_brand=keys[:, 3].astype(np.int32),
        cell_price=np.log([entry.factor for entry in TIERS]).astype(np.float32)[keys[:, 2]],
        style_vectors=(style_vectors / np.linalg.norm(style_vectors, axis=1, keepdims=True)).astype(np.float32),
        leaf_vectors=(rng.normal(size=(len(leaves), DIM)) / np.sqrt(DIM)).astype(np.float32),
        leaf_market=np.exp(rng.normal(0, MARKET_SPREAD, len(leaves))),
        transitions=_transitions(leaves),
    )


def _transitions(leaves: tuple[Leaf, ...]) -> np.ndarray:
    """P(next category | category): float64 [leaves, leaves]; a category without complements in the shop stays."""
    number = {entry.path.split(CATEGORY_SEPARATOR)[-1]: row for row, entry in enumerate(leaves)}
    cross = np.zeros((len(leaves), len(leaves)))
    for row, entry in enumerate(leaves):
        present = [number[name] for name in entry.complements if name in number] or [row]
        cross[row, present] = COMPLEMENT_DECAY ** np.arange(len(present))
    cross /= cross.sum(axis=1, keepdims=True)
    return STAY * np.eye(len(leaves)) + (1 - STAY) * cross


def items_table(config: SimulatorConfig, products: Products, rng: np.random.Generator) -> pa.Table:
    """The canonical items table; `rng` chooses words only."""
    leaves = used_leaves(config.products)
    word = rng.integers(0, len(_MODEL_NAMES), (len(products.leaf), 3)).tolist()
    numbers = zip(
        *(
            getattr(products, name).tolist()
            for name in ("leaf", "brand", "style", "tier", "colour", "material", "tagged")
        ),
        word,
        strict=True,
    )
    rows = [_content(leaves, *row) for row in numbers]
    columns: dict[str, list | np.ndarray] = {name: [row[name] for row in rows] for name in rows[0]}
    if config.pictures:
        columns["image"] = [
            draw_picture(leaves[leaf].shape, STYLES[style].colours[colour], STYLES[style].pattern, tier)
            for leaf, style, colour, tier in zip(
                *(getattr(products, name).tolist() for name in ("leaf", "style", "colour", "tier")), strict=True
            )
        ]
    columns |= {
        "item_id": products.item_ids,
        "price": products.price,
        "created_at": config.start + products.created_day * DAY,
        "available": ~products.withdrawn,
    }
    schema = pa.schema([column for column in ITEMS if column.name in columns])
    return pa.table([pa.array(columns[column.name], column.type) for column in schema], schema=schema)


def _content(
    leaves: tuple[Leaf, ...],
    leaf_number: int,
    brand_number: int,
    style_number: int,
    tier: int,
    colour_number: int,
    material_number: int,
    tagged: bool,
    word: tuple[int, int, int],
) -> dict[str, str | list[str]]:
    """Category, brand, title, description and attributes of one product in words."""
    leaf, style = leaves[leaf_number], STYLES[style_number]
    brand = (
        BRAND_HEADS[brand_number % len(BRAND_HEADS)]
        + BRAND_TAILS[(brand_number + brand_number // len(BRAND_HEADS)) % len(BRAND_TAILS)]
    )
    colour, material = style.colours[colour_number], leaf.materials[material_number]
    adjective = style.adjectives[word[0] % len(style.adjectives)]
    titles = (
        f"{brand} {_MODEL_NAMES[word[1]]} {adjective} {material} {leaf.noun} in {colour}",
        f"{brand} {adjective} {leaf.noun} {_MODEL_NAMES[word[1]]}, {colour} {material}",
        f"{colour.capitalize()} {material} {leaf.noun} {_MODEL_NAMES[word[1]]} by {brand}, {adjective}",
    )
    with_what = leaf.complements[word[1] % len(leaf.complements)].lower()
    attributes = [f"colour={colour}", f"material={material}"]
    return {
        "title": titles[word[2] % len(titles)],
        "description": f"{adjective.capitalize()} {leaf.noun} of {material}, in {colour}. {style.sentence} "
        f"{TIERS[tier].sentence} Goes well with {with_what}.",
        "category": leaf.path,
        "brand": brand,
        "attributes": [*attributes, f"style={style.name}"] if tagged else attributes,
    }


def queries() -> list[str]:
    """What shoppers type, by style and category: index style · len(LEAVES) + category."""
    return [f"{style.name} {leaf.path.split(CATEGORY_SEPARATOR)[-1].lower()}" for style in STYLES for leaf in LEAVES]
