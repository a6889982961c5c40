import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transform.checks import DataError
from transform.import_movielens import import_movielens, movie_items

FLAGS = 19


def flags(*set_flags: int) -> str:
    return "|".join("1" if genre in set_flags else "0" for genre in range(FLAGS))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two movies of MovieLens-100K: the flags 5 and 8 are Comedy and Drama."""
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    (folder / "u.data").write_text("196\t1\t3\t881250949\n186\t2\t5\t891717742\n")
    movies = [
        f"1|Café (1995)|01-Jan-1995||http://x|{flags(5, 8)}",
        f"2|unknown||||{flags(0)}",
        f"3|M|||http://m|{flags(8)}",
    ]
    (folder / "u.item").write_bytes(("\n".join(movies) + "\n").encode("latin-1"))
    (folder / "u.user").write_text("196|49|M|writer|55105\n186|39|F|executive|00000\n")
    return folder


@pytest.fixture
def million(tmp_path: Path) -> Path:
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "ratings.dat").write_text("1::10::5::978300760\n2::10::1::978302109\n")
    (folder / "movies.dat").write_bytes(
        "10::Misérables, Les (1995)::Drama|Musical\n11::Heat (1995)::Drama\n".encode("latin-1")
    )
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    return folder


def table(out: Path, name: str) -> list[dict]:
    return pq.read_table(out / f"{name}.parquet").to_pylist()


def test_100k_ratings_are_views_that_keep_the_rating(small: Path, tmp_path: Path) -> None:
    report = import_movielens(small, tmp_path / "out")
    assert report["name"] == "MovieLens-100K"
    assert table(tmp_path / "out", "events") == [
        {"user_id": "196", "item_id": "1", "type": "view", "timestamp": 881250949, "attributes": ["rating=3"]},
        {"user_id": "186", "item_id": "2", "type": "view", "timestamp": 891717742, "attributes": ["rating=5"]},
    ]


def test_100k_catalogue(small: Path, tmp_path: Path) -> None:
    import_movielens(small, tmp_path / "out")
    assert table(tmp_path / "out", "items") == [
        {
            "item_id": "1",
            "title": "Café",
            "category": "Comedy",
            "attributes": ["genre=Comedy", "genre=Drama", "year=1995"],
        },
        {"item_id": "2", "title": "unknown", "category": None, "attributes": []},
        {"item_id": "3", "title": "M", "category": "Drama", "attributes": ["genre=Drama"]},
    ]


def test_100k_users(small: Path, tmp_path: Path) -> None:
    import_movielens(small, tmp_path / "out")
    assert table(tmp_path / "out", "users")[0] == {
        "user_id": "196",
        "attributes": ["age=49", "gender=M", "occupation=writer", "zip_code=55105"],
    }


def test_1m_is_read(million: Path, tmp_path: Path) -> None:
    report = import_movielens(million, tmp_path / "out")
    assert (report["name"], report["rows_kept"]) == ("MovieLens-1M", 2)
    assert table(tmp_path / "out", "events")[1]["attributes"] == ["rating=1"]
    assert table(tmp_path / "out", "items")[0]["title"] == "Misérables, Les"
    assert table(tmp_path / "out", "users")[1]["attributes"][0] == "gender=M"


def test_users_are_optional(million: Path, tmp_path: Path) -> None:
    (million / "users.dat").unlink()
    import_movielens(million, tmp_path / "out")
    assert not (tmp_path / "out" / "users.parquet").exists()


def test_category_is_the_rarest_genre() -> None:
    movies = pa.table({"item_id": ["1", "2"], "title": ["A", "B (x)"], "genres": ["Drama|War", "Drama"]})
    assert movie_items(movies).column("category").to_pylist() == ["War", "Drama"]


def test_bad_lines_go_to_the_dead_letter(million: Path, tmp_path: Path) -> None:
    (million / "ratings.dat").write_text(
        "1::10::5::978300760\n1::10::5\n1::10::6::978300760\n1::10::5::x\n::10::5::9\n"
    )
    report = import_movielens(million, tmp_path / "out", max_bad_share=0.9)
    lines = (tmp_path / "out" / "dead_letter" / "import.jsonl").read_text().splitlines()
    assert [(entry["line"], entry["reason"].split(":")[0]) for entry in map(json.loads, lines)] == [
        (2, "row"),
        (3, "rating"),
        (4, "timestamp"),
        (5, "user_id"),
    ]
    assert report["rows_read"] == 5


def test_folder_without_a_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "movies.dat").write_text("")
    with pytest.raises(DataError, match=r"expected u\.data and u\.item .* or ratings\.dat .* it has \['movies\.dat'\]"):
        import_movielens(tmp_path, tmp_path / "out")


def test_missing_catalogue_is_refused(million: Path, tmp_path: Path) -> None:
    (million / "movies.dat").unlink()
    with pytest.raises(DataError, match=r"movies\.dat is missing beside ratings\.dat"):
        import_movielens(million, tmp_path / "out")


def test_empty_ratings_are_refused(million: Path, tmp_path: Path) -> None:
    (million / "ratings.dat").write_text("")
    with pytest.raises(DataError, match=r"ratings\.dat: the file is empty"):
        import_movielens(million, tmp_path / "out")
    assert not (tmp_path / "out").exists()
