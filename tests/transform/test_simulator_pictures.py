"""Pictures of simulated products."""

import io
from itertools import product

import numpy as np
from PIL import Image

from transform.simulator.pictures import PATTERNS, SHAPES, SIDE, draw_picture
from transform.simulator.words import COLOURS, LEAVES, STYLES, TIERS


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_every_word_of_the_catalogue_can_be_drawn_in_less_than_a_kilobyte() -> None:
    shapes = {leaf.shape for leaf in LEAVES}
    assert shapes == set(SHAPES)
    assert {style.pattern for style in STYLES} == set(PATTERNS)
    assert {colour for style in STYLES for colour in style.colours} == set(COLOURS)
    sizes = [len(draw_picture(shape, "red", pattern, 0)) for shape, pattern in product(SHAPES, PATTERNS)]
    assert max(sizes) < 1_000


def test_the_colour_fills_the_silhouette() -> None:
    picture = pixels(draw_picture("slab", "navy", "plain", 2))
    assert picture.shape == (SIDE, SIDE, 3)
    assert tuple(picture[24, 24]) == COLOURS["navy"]
    assert tuple(picture[2, 2]) != COLOURS["navy"]


def test_shape_colour_pattern_and_tier_are_all_seen() -> None:
    pictures = {
        draw_picture(*look)
        for look in (
            ("mug", "red", "dots", 0),
            ("bowl", "red", "dots", 0),
            ("mug", "blue", "dots", 0),
            ("mug", "red", "grid", 0),
            ("mug", "red", "dots", 1),
        )
    }
    assert len(pictures) == 5


def test_every_tier_has_a_background() -> None:
    corners = {tuple(pixels(draw_picture("mug", "red", "plain", tier))[0, 0]) for tier in range(len(TIERS))}
    assert len(corners) == len(TIERS)
