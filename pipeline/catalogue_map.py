"""The map of the catalogue on the report: products as points, near if their vectors are; SVG without scripts."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from pipeline.pictures import PictureError, data_uri, thumbnail
from trainer.data import Catalogue
from transform.tables import CATEGORY_SEPARATOR

log = logging.getLogger(__name__)

MAP_FILE = "map.json"
# Colours that people with colour blindness tell apart are few; the smaller categories share one.
_COLOURS = 8
OTHERS, UNKNOWN = "other categories", "no category"
# Pictures that the page carries, about 2 kB each, and their side in pixels.
_PICTURES, _PICTURE_SIDE = 100, 48
# User units of the drawing.
_SIDE, _MARGIN, _RADIUS = 600, 8, 3.2


@dataclass(frozen=True)
class Point:
    """A product on the map: its place in the unit square, what hovering tells, "" where not known."""

    x: float
    y: float
    title: str
    category: str
    picture: str = ""


@dataclass(frozen=True)
class CatalogueMap:
    """The drawing and what its colours mean: (CSS class, category, number of points)."""

    svg: Markup
    legend: list[tuple[str, str, int]]
    products: int


def write_map(path: Path, catalogue: Catalogue, rows: np.ndarray, places: np.ndarray) -> None:
    """Writes the points of the products at `rows`, [M], whose places are float [M, 2]; the first ones with pictures."""
    points, pictures, unreadable = [], 0, 0
    for row, (x, y) in zip(rows, places.tolist(), strict=True):
        picture = ""
        if pictures < _PICTURES and catalogue.images[row]:
            try:
                picture = data_uri(thumbnail(catalogue.images[row], _PICTURE_SIDE))
                pictures += 1
            except PictureError:
                unreadable += 1
        title = catalogue.titles[row] or catalogue.item_ids[row]
        points.append(Point(round(x, 4), round(y, 4), title, catalogue.categories[row], picture))
    if unreadable:
        log.warning("map: %d pictures cannot be read and are left out", unreadable)
    path.write_text(json.dumps([asdict(point) for point in points], ensure_ascii=False), encoding="utf-8")


def draw_map(points: Sequence[Point]) -> CatalogueMap | None:
    """The map; None without points. Hovering a point shows its title and, where it has one, its picture."""
    if not points:
        return None
    groups = [point.category.split(CATEGORY_SEPARATOR)[0] or UNKNOWN for point in points]
    sizes = Counter(groups)
    # The largest first, equal ones by name, so that a map drawn again has the same colours.
    largest = sorted(sizes, key=lambda group: (-sizes[group], group))[:_COLOURS]
    tones = {group: f"hue{number}" for number, group in enumerate(largest)}
    drawn = [_drawn(point, tones.get(group, "other")) for point, group in zip(points, groups, strict=True)]
    # What has a picture comes last, so that no point lies over the picture.
    drawn.sort(key=lambda parts: parts[0])
    svg = Markup('<svg class="map" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="Map of the catalogue">{}</svg>')
    # The layout touches both ends of one side only.
    width, height = (
        _place(max(ends)) + _MARGIN for ends in zip(*((point.x, point.y) for point in points), strict=True)
    )
    legend = [(tones[group], group, sizes[group]) for group in largest]
    rest = len(points) - sum(size for _, _, size in legend)
    if rest:
        legend.append(("other", OTHERS, rest))
    body = Markup("").join(part for _, part in drawn)
    return CatalogueMap(svg.format(width, height, body), legend, len(points))


def _place(share: float) -> float:
    """User units of a place in the unit square."""
    return _MARGIN + share * (_SIDE - 2 * _MARGIN)


def _drawn(point: Point, tone: str) -> tuple[bool, Markup]:
    """Whether the product has a picture, and its point."""
    x, y = _place(point.x), _place(point.y)
    told = " · ".join(part for part in (point.title, point.category) if part)
    dot = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
        tone, x, y, _RADIUS, told
    )
    if not point.picture:
        return False, dot
    # Beside the point, on the side where there is room.
    left, top = (place + 6 if place < _SIDE / 2 else place - 6 - _PICTURE_SIDE for place in (x, y))
    image = Markup('<image href="{}" x="{:.1f}" y="{:.1f}" width="{side}" height="{side}"/>').format(
        point.picture, left, top, side=_PICTURE_SIDE
    )
    return True, Markup('<g class="pictured">{}{}</g>').format(dot, image)
