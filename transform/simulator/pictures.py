"""Small pictures of simulated products: the category's silhouette in the colour, filled with the style's pattern."""

import io
from collections.abc import Callable
from functools import cache

from PIL import Image, ImageDraw

from transform.simulator.words import COLOURS

# Pixels on each side.
SIDE = 48

Box = tuple[float, float, float, float]
# Polygons as x, y pairs and ellipses as boxes, on a grid of 48 x 48; the second ellipse is cut out of the first.
_POLYGONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "shirt": ((16, 8, 32, 8, 44, 18, 38, 24, 34, 20, 34, 42, 14, 42, 14, 20, 10, 24, 4, 18),),
    "trousers": ((14, 6, 34, 6, 37, 44, 27, 44, 24, 18, 21, 44, 11, 44),),
    "dress": ((18, 5, 30, 5, 30, 18, 40, 44, 8, 44, 18, 18),),
    "shoe": ((6, 18, 16, 16, 24, 26, 42, 30, 44, 38, 6, 38),),
    "boot": ((12, 6, 26, 6, 26, 28, 42, 32, 42, 42, 12, 42),),
    "band": ((4, 20, 44, 20, 44, 28, 4, 28), (34, 16, 42, 16, 42, 32, 34, 32)),
    "bag": ((8, 18, 40, 18, 44, 44, 4, 44), (16, 18, 16, 6, 32, 6, 32, 18, 28, 18, 28, 10, 20, 10, 20, 18)),
    "drops": ((10, 10, 18, 30, 10, 40, 4, 30), (38, 10, 44, 30, 38, 40, 30, 30)),
    "cap": ((8, 28, 12, 14, 30, 12, 36, 28, 46, 32, 44, 36, 8, 32),),
    "glasses": ((2, 18, 22, 18, 20, 32, 6, 32), (26, 18, 46, 18, 42, 32, 28, 32), (20, 20, 28, 20, 28, 23, 20, 23)),
    "bottle": ((19, 4, 29, 4, 29, 14, 34, 20, 34, 44, 14, 44, 14, 20, 19, 14),),
    "slab": ((4, 12, 44, 12, 44, 38, 4, 38),),
    "dumbbell": ((4, 14, 12, 14, 12, 34, 4, 34), (36, 14, 44, 14, 44, 34, 36, 34), (12, 21, 36, 21, 36, 27, 12, 27)),
    "mug": ((8, 12, 32, 12, 32, 40, 8, 40), (32, 17, 42, 17, 42, 34, 32, 34, 32, 30, 38, 30, 38, 21, 32, 21)),
    "bowl": ((4, 18, 44, 18, 34, 38, 14, 38),),
    "kettle": ((14, 16, 32, 16, 38, 42, 8, 42), (36, 24, 46, 14, 46, 20, 38, 32), (18, 8, 28, 8, 28, 14, 18, 14)),
    "pan": ((2, 20, 30, 20, 28, 34, 4, 34), (30, 22, 46, 20, 46, 25, 30, 27)),
    "blade": ((4, 40, 30, 8, 36, 14, 14, 40), (30, 8, 40, 2, 44, 8, 36, 14)),
    "candle": ((16, 18, 32, 18, 32, 44, 16, 44), (24, 4, 28, 12, 24, 17, 20, 12)),
    "vase": ((18, 4, 30, 4, 27, 14, 36, 28, 30, 44, 18, 44, 12, 28, 21, 14),),
    "chair": ((12, 4, 17, 4, 17, 24, 36, 24, 36, 44, 31, 44, 31, 30, 17, 30, 17, 44, 12, 44),),
    "table": ((4, 16, 44, 16, 44, 22, 40, 22, 40, 42, 35, 42, 35, 22, 13, 22, 13, 42, 8, 42, 8, 22, 4, 22),),
    "shelf": ((8, 6, 40, 6, 40, 44, 35, 44, 35, 32, 13, 32, 13, 44, 8, 44),),
    "lamp": ((16, 6, 32, 6, 40, 24, 8, 24), (22, 24, 26, 24, 26, 40, 34, 44, 14, 44, 22, 40)),
    "cushion": ((6, 6, 24, 10, 42, 6, 38, 24, 42, 42, 24, 38, 6, 42, 10, 24),),
    "pot": ((6, 12, 42, 12, 42, 20, 38, 20, 34, 42, 14, 42, 10, 20, 6, 20),),
    "book": ((8, 6, 24, 10, 40, 6, 40, 40, 24, 44, 8, 40),),
    "watch": ((19, 2, 29, 2, 29, 46, 19, 46),),
}
_ELLIPSES: dict[str, tuple[Box, ...]] = {
    "ring": ((6, 6, 42, 42), (11, 9, 37, 35)),
    "disc": ((4, 4, 44, 44), (18, 18, 30, 30)),
    "watch": ((11, 11, 37, 37), (19, 19, 29, 29)),
}
SHAPES = tuple(sorted({*_POLYGONS, *_ELLIPSES}))

# Is the pixel x, y part of the pattern?
_PATTERN_RULES: dict[str, Callable[[int, int], bool]] = {
    "plain": lambda x, y: False,
    "pinstripe": lambda x, y: x % 6 == 0,
    "chevron": lambda x, y: (y + abs(x % 12 - 6)) % 8 < 3,
    "diamonds": lambda x, y: abs(x % 12 - 6) + abs(y % 12 - 6) < 4,
    "checks": lambda x, y: (x // 5 + y // 5) % 2 == 0,
    "grid": lambda x, y: x % 8 < 2 or y % 8 < 2,
    "flowers": lambda x, y: 2 <= (x % 10 - 5) ** 2 + (y % 10 - 5) ** 2 <= 9,
    "dots": lambda x, y: (x % 8 - 4) ** 2 + (y % 8 - 4) ** 2 <= 4,
    "diagonals": lambda x, y: (x + y) % 10 < 4,
    "hatching": lambda x, y: (x - y) % 5 == 0 or (x + y) % 5 == 0,
    "confetti": lambda x, y: (x * 7 + y * 13) % 17 < 3,
    "rings": lambda x, y: 16 <= (x % 16 - 8) ** 2 + (y % 16 - 8) ** 2 <= 36,
}
PATTERNS = tuple(sorted(_PATTERN_RULES))

# Behind products of the five price tiers, from a bargain to premium.
_BACKGROUNDS = ((220, 216, 200), (196, 208, 222), (200, 218, 196), (226, 206, 186), (196, 180, 158))


@cache
def draw_picture(shape: str, colour: str, pattern: str, tier: int) -> bytes:
    """PNG of SIDE x SIDE pixels, below 1,000 bytes.

    Args:
        shape: one of SHAPES.
        colour: a key of words.COLOURS.
        pattern: one of PATTERNS.
        tier: number of the price tier, 0 to 4; it colours the background.
    """
    base = COLOURS[colour]
    # Darker on light colours and lighter on dark ones.
    change = -70 if sum(base) > 300 else 80
    accent = tuple(min(255, max(0, part + change)) for part in base)
    picture = Image.new("P", (SIDE, SIDE), 0)
    picture.putpalette([*_BACKGROUNDS[tier], *base, *accent])
    silhouette = _silhouette(shape)
    picture.paste(1, mask=silhouette)
    picture.paste(2, mask=Image.composite(_pattern(pattern), Image.new("1", (SIDE, SIDE), 0), silhouette))
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=False, bits=2)
    return content.getvalue()


@cache
def _silhouette(shape: str) -> Image.Image:
    mask = Image.new("1", (SIDE, SIDE), 0)
    draw = ImageDraw.Draw(mask)
    for polygon in _POLYGONS.get(shape, ()):
        draw.polygon(polygon, fill=1)
    for number, box in enumerate(_ELLIPSES.get(shape, ())):
        draw.ellipse(box, fill=1 - number % 2)
    return mask


@cache
def _pattern(pattern: str) -> Image.Image:
    mask = Image.new("1", (SIDE, SIDE), 0)
    mask.putdata([_PATTERN_RULES[pattern](x, y) for y in range(SIDE) for x in range(SIDE)])
    return mask
