"""The simulated shop's fixed words: its category tree, styles, colours, price tiers, syllables of brand names."""

from typing import NamedTuple


class Leaf(NamedTuple):
    """A leaf of the category tree: products in it are substitutes for each other."""

    path: str
    noun: str
    # Silhouette in the picture, a name of pictures.SHAPES.
    shape: str
    # Price in the middle tier, in the shop's currency.
    price: float
    materials: tuple[str, ...]
    # Last parts of the paths of the categories that go with it, the most usual first.
    complements: tuple[str, ...]


class Style(NamedTuple):
    """A named style: the attribute's value, words of the text, colours it likes, the pattern it is drawn with."""

    name: str
    adjectives: tuple[str, ...]
    colours: tuple[str, ...]
    # A name of pictures.PATTERNS.
    pattern: str
    sentence: str


# In order of preference when a small shop has only the first of them, so that neighbours complement each other.
LEAVES: tuple[Leaf, ...] = (
    Leaf("Clothing > Shirts", "shirt", "shirt", 45, ("cotton", "linen", "denim"), ("Trousers", "Knitwear", "Belts")),
    Leaf(
        "Clothing > Trousers", "trousers", "trousers", 60, ("cotton", "wool", "denim"), ("Shirts", "Belts", "Sneakers")
    ),
    Leaf("Shoes > Sneakers", "sneakers", "shoe", 85, ("canvas", "leather", "mesh"), ("Trousers", "Backpacks", "Caps")),
    Leaf("Accessories > Belts", "belt", "band", 30, ("leather", "canvas", "suede"), ("Trousers", "Loafers", "Watches")),
    Leaf(
        "Clothing > Dresses", "dress", "dress", 75, ("cotton", "silk", "viscose"), ("Sandals", "Handbags", "Earrings")
    ),
    Leaf(
        "Shoes > Sandals", "sandals", "shoe", 50, ("leather", "cork", "rubber"), ("Dresses", "Sunglasses", "Handbags")
    ),
    Leaf(
        "Accessories > Handbags",
        "handbag",
        "bag",
        95,
        ("leather", "canvas", "straw"),
        ("Dresses", "Scarves", "Sandals"),
    ),
    Leaf(
        "Accessories > Jewellery > Earrings",
        "earrings",
        "drops",
        35,
        ("silver", "brass", "glass"),
        ("Necklaces", "Dresses"),
    ),
    Leaf(
        "Accessories > Jewellery > Necklaces",
        "necklace",
        "ring",
        40,
        ("silver", "brass", "glass"),
        ("Earrings", "Dresses"),
    ),
    Leaf("Clothing > Knitwear", "jumper", "shirt", 70, ("wool", "cashmere", "cotton"), ("Shirts", "Scarves", "Coats")),
    Leaf("Clothing > Coats", "coat", "dress", 160, ("wool", "cotton", "nylon"), ("Scarves", "Boots", "Knitwear")),
    Leaf("Shoes > Boots", "boots", "boot", 130, ("leather", "suede", "rubber"), ("Coats", "Trousers", "Scarves")),
    Leaf("Accessories > Scarves", "scarf", "band", 28, ("wool", "silk", "cashmere"), ("Coats", "Caps", "Knitwear")),
    Leaf("Accessories > Caps", "cap", "cap", 22, ("cotton", "wool", "nylon"), ("Sunglasses", "Sneakers", "Scarves")),
    Leaf("Accessories > Sunglasses", "sunglasses", "glasses", 55, ("acetate", "steel", "bamboo"), ("Caps", "Sandals")),
    Leaf("Shoes > Loafers", "loafers", "shoe", 90, ("leather", "suede", "canvas"), ("Trousers", "Belts", "Watches")),
    Leaf("Accessories > Watches", "watch", "watch", 140, ("steel", "leather", "brass"), ("Belts", "Loafers", "Shirts")),
    Leaf("Sports > Backpacks", "backpack", "bag", 65, ("nylon", "canvas", "leather"), ("Bottles", "Sneakers")),
    Leaf("Kitchen > Bottles", "bottle", "bottle", 24, ("steel", "glass", "copper"), ("Backpacks", "Mugs", "Yoga mats")),
    Leaf(
        "Sports > Yoga mats", "yoga mat", "slab", 38, ("cork", "rubber", "cotton"), ("Bottles", "Leggings", "Dumbbells")
    ),
    Leaf("Sports > Leggings", "leggings", "trousers", 42, ("nylon", "cotton", "viscose"), ("Yoga mats", "Sneakers")),
    Leaf("Sports > Dumbbells", "dumbbells", "dumbbell", 48, ("steel", "rubber", "brass"), ("Yoga mats", "Bottles")),
    Leaf("Kitchen > Mugs", "mug", "mug", 14, ("stoneware", "porcelain", "glass"), ("Plates", "Kettles", "Teapots")),
    Leaf("Kitchen > Plates", "plate", "disc", 16, ("stoneware", "porcelain", "bamboo"), ("Mugs", "Bowls", "Knives")),
    Leaf("Kitchen > Bowls", "bowl", "bowl", 18, ("stoneware", "porcelain", "wood"), ("Plates", "Mugs", "Tablecloths")),
    Leaf("Kitchen > Kettles", "kettle", "kettle", 58, ("steel", "copper", "glass"), ("Mugs", "Teapots")),
    Leaf("Kitchen > Teapots", "teapot", "kettle", 34, ("stoneware", "porcelain", "glass"), ("Mugs", "Kettles")),
    Leaf("Kitchen > Pans", "pan", "pan", 52, ("steel", "copper", "iron"), ("Knives", "Plates", "Aprons")),
    Leaf("Kitchen > Knives", "kitchen knife", "blade", 44, ("steel", "wood", "copper"), ("Pans", "Plates")),
    Leaf("Kitchen > Aprons", "apron", "dress", 26, ("cotton", "linen", "denim"), ("Pans", "Tablecloths", "Knives")),
    Leaf(
        "Home > Textiles > Tablecloths", "tablecloth", "slab", 36, ("cotton", "linen", "viscose"), ("Plates", "Candles")
    ),
    Leaf("Home > Decoration > Candles", "candle", "candle", 17, ("wax", "glass", "brass"), ("Vases", "Tablecloths")),
    Leaf("Home > Decoration > Vases", "vase", "vase", 32, ("glass", "stoneware", "brass"), ("Candles", "Planters")),
    Leaf(
        "Home > Decoration > Mirrors", "mirror", "disc", 78, ("wood", "brass", "steel"), ("Lamps", "Vases", "Shelves")
    ),
    Leaf("Home > Furniture > Chairs", "chair", "chair", 120, ("wood", "steel", "rattan"), ("Tables", "Cushions")),
    Leaf("Home > Furniture > Tables", "table", "table", 240, ("wood", "steel", "glass"), ("Chairs", "Lamps", "Rugs")),
    Leaf(
        "Home > Furniture > Shelves", "shelf", "shelf", 110, ("wood", "steel", "bamboo"), ("Lamps", "Vases", "Tables")
    ),
    Leaf("Home > Lighting > Lamps", "lamp", "lamp", 88, ("brass", "paper", "steel"), ("Tables", "Shelves", "Cushions")),
    Leaf(
        "Home > Textiles > Cushions",
        "cushion",
        "cushion",
        27,
        ("cotton", "linen", "wool"),
        ("Blankets", "Chairs", "Rugs"),
    ),
    Leaf("Home > Textiles > Blankets", "blanket", "slab", 64, ("wool", "cotton", "cashmere"), ("Cushions", "Candles")),
    Leaf("Home > Textiles > Rugs", "rug", "slab", 150, ("wool", "jute", "cotton"), ("Cushions", "Tables", "Curtains")),
    Leaf("Home > Textiles > Curtains", "curtains", "shelf", 72, ("linen", "cotton", "viscose"), ("Rugs", "Cushions")),
    Leaf("Garden > Planters", "planter", "pot", 29, ("terracotta", "steel", "wood"), ("Garden tools", "Vases")),
    Leaf("Garden > Garden tools", "trowel", "blade", 21, ("steel", "wood", "copper"), ("Planters", "Lanterns")),
    Leaf("Garden > Lanterns", "lantern", "candle", 39, ("steel", "paper", "brass"), ("Planters", "Candles")),
    Leaf("Stationery > Notebooks", "notebook", "book", 13, ("paper", "leather", "linen"), ("Pens", "Desk trays")),
    Leaf("Stationery > Pens", "pen", "blade", 19, ("brass", "steel", "wood"), ("Notebooks", "Desk trays")),
    Leaf(
        "Stationery > Desk trays",
        "desk tray",
        "table",
        31,
        ("wood", "steel", "leather"),
        ("Notebooks", "Pens", "Lamps"),
    ),
)


STYLES: tuple[Style, ...] = (
    Style("minimal", ("minimal", "pared-back", "clean-lined"), ("white", "grey", "black"), "plain", "Nothing to add."),
    Style("classic", ("classic", "timeless", "tailored"), ("navy", "white", "beige"), "pinstripe", "It never dates."),
    Style("sporty", ("sporty", "athletic", "active"), ("blue", "white", "red"), "chevron", "Made to move with you."),
    Style(
        "bohemian",
        ("bohemian", "boho", "free-spirited"),
        ("orange", "purple", "beige"),
        "diamonds",
        "For free spirits.",
    ),
    Style("vintage", ("vintage", "retro", "old-school"), ("brown", "yellow", "green"), "checks", "It has a past."),
    Style(
        "industrial", ("industrial", "raw", "workshop"), ("black", "grey", "brown"), "grid", "Honest and hard-wearing."
    ),
    Style(
        "romantic", ("romantic", "floral", "delicate"), ("pink", "white", "red"), "flowers", "Soft as a love letter."
    ),
    Style("nordic", ("nordic", "scandinavian", "cosy"), ("white", "blue", "grey"), "dots", "Calm for long winters."),
    Style("urban", ("urban", "street", "city"), ("black", "red", "grey"), "diagonals", "At home on the pavement."),
    Style("rustic", ("rustic", "farmhouse", "homespun"), ("green", "brown", "beige"), "hatching", "Close to the land."),
    Style(
        "playful", ("playful", "colourful", "cheerful"), ("yellow", "pink", "blue"), "confetti", "It makes you smile."
    ),
    Style(
        "opulent", ("opulent", "ornate", "glamorous"), ("purple", "navy", "green"), "rings", "An entrance, every time."
    ),
)


COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (240, 240, 236),
    "grey": (140, 144, 150),
    "black": (38, 38, 42),
    "navy": (30, 46, 92),
    "beige": (214, 196, 164),
    "blue": (64, 120, 200),
    "red": (200, 52, 48),
    "orange": (230, 130, 48),
    "purple": (120, 70, 150),
    "brown": (118, 78, 50),
    "yellow": (236, 200, 70),
    "green": (74, 124, 78),
    "pink": (236, 160, 180),
}


class Tier(NamedTuple):
    """A price tier: price over the category's middle price, and what the description says about it."""

    factor: float
    sentence: str


TIERS: tuple[Tier, ...] = (
    Tier(0.5, "A bargain."),
    Tier(0.71, "Good value."),
    Tier(1.0, "A fair price for every day."),
    Tier(1.41, "A better grade, made with care."),
    Tier(2.0, "Premium, made to last a lifetime."),
)

BRAND_HEADS = (
    "Nor",
    "Al",
    "Bel",
    "Cas",
    "Dor",
    "Fen",
    "Gal",
    "Hal",
    "Is",
    "Jun",
    "Kel",
    "Lum",
    "Mar",
    "Ost",
    "Per",
    "Ril",
)
# fmt: off
BRAND_TAILS = (
    "vik", "tera", "lane", "tor", "una", "wick", "mond", "den",
    "ara", "by", "ford", "ello", "ström", "quist", "aro", "sen",
)
# fmt: on

REGIONS = ("north", "east", "south", "west", "capital", "islands")
DEVICES = ("mobile", "desktop", "tablet")
