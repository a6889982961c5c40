"""The map of the catalogue: points, colours, titles and pictures, in one drawing without scripts."""

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pipeline.catalogue_map import OTHERS, Point, draw_map, write_map
from tests.pipeline.measured_run import HOSTILE
from tests.trainer.small_shop import make_catalogue


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(buffer, format="PNG")
    return buffer.getvalue()


def points(*categories: str) -> list[Point]:
    return [Point(0.5, 0.5, f"t{place}", category) for place, category in enumerate(categories)]


def test_points_are_written_with_what_is_known_of_them(tmp_path: Path) -> None:
    titles, categories = np.full((2, 5), "", dtype=object)
    titles[3], categories[3] = "Pot", "Kitchen > Pots"
    catalogue = replace(make_catalogue(5), titles=titles, categories=categories)
    catalogue.images[3] = picture()
    write_map(tmp_path / "map.json", catalogue, np.array([3, 2]), np.array([[0.25, 1.0], [0.12345, 0.0]]))
    pot, other = json.loads((tmp_path / "map.json").read_text())
    assert pot.pop("picture").startswith("data:image/png;base64,")
    assert pot == {"x": 0.25, "y": 1.0, "title": "Pot", "category": "Kitchen > Pots"}
    assert other == asdict(Point(0.1235, 0.0, "p2", ""))


def test_pictures_are_bounded_in_number_and_unreadable_ones_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.catalogue_map._PICTURES", 2)
    catalogue = make_catalogue(7)
    catalogue.images[2:] = [b"no picture", *[picture()] * 4]
    write_map(tmp_path / "map.json", catalogue, np.arange(2, 7), np.zeros((5, 2)))
    written = json.loads((tmp_path / "map.json").read_text())
    assert [bool(point["picture"]) for point in written] == [False, True, True, False, False]


def test_colours_go_to_the_largest_top_categories() -> None:
    many = [f"c{number} > leaf" for number in range(10)]
    drawn = draw_map(points(*many, "c9 > other leaf", ""))
    assert drawn is not None
    assert drawn.legend[0] == ("hue0", "c9", 2)
    assert [name for _, name, _ in drawn.legend[1:8]] == ["c0", "c1", "c2", "c3", "c4", "c5", "c6"]
    assert drawn.legend[8] == ("other", OTHERS, 3)
    assert sum(number for _, _, number in drawn.legend) == drawn.products == 12


def test_each_point_tells_its_title_and_category_to_who_hovers() -> None:
    drawn = draw_map([Point(0.0, 1.0, HOSTILE, "Kitchen > Pots")])
    assert drawn is not None
    (circle,) = ElementTree.fromstring(str(drawn.svg))
    assert (circle.get("cx"), circle.get("cy")) == ("8.0", "592.0")
    assert circle[0].text == f"{HOSTILE} · Kitchen > Pots"


def test_pictures_stand_beside_their_points_and_above_all_others() -> None:
    drawn = draw_map([Point(1.0, 0.0, "a", "", "data:image/png;base64,AA=="), *points("b")])
    assert drawn is not None
    plain, pictured = ElementTree.fromstring(str(drawn.svg))
    assert plain.tag == "circle"
    dot, image = pictured
    # Right above: the picture is left of the point and below it, inside the drawing.
    assert (dot.get("cx"), image.get("x"), image.get("y")) == ("592.0", "538.0", "14.0")


def test_the_drawing_ends_where_the_points_do() -> None:
    drawn = draw_map([Point(0.0, 0.0, "a", ""), Point(1.0, 0.5, "b", "")])
    assert drawn is not None
    # 8 units on every side of 584 by 292.
    assert ElementTree.fromstring(str(drawn.svg)).get("viewBox") == "0 0 600 308"


def test_nothing_to_draw_is_no_map() -> None:
    assert draw_map([]) is None
