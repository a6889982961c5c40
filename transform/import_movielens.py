"""The adapter `movielens`: MovieLens-100K and MovieLens-1M as GroupLens publishes them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transform.checks import DataError
from transform.import_columns import (
    TimeFormat,
    attributes,
    first_reasons,
    out_of_range,
    parse_numbers,
    parse_times,
)
from transform.import_sources import SourceBatch, line_batches, split_lines
from transform.import_tables import CanonicalWriter

# Both sets are in Latin-1, whatever the tool that reads them expects.
_ENCODING = "latin-1"
_YEAR = r"^(?P<title>.*?)\s*\((?P<year>\d{4})\)$"
_RATINGS = ("user_id", "item_id", "rating", "timestamp")
# The flags at the end of a line of u.item, in the order of the published u.genre. The first says "no genre known".
_GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)


@dataclass(frozen=True)
class _Edition:
    """File names, delimiter and columns of one published set."""

    name: str
    ratings: str
    ratings_delimiter: str
    movies: str
    users: str
    delimiter: str
    movie_columns: tuple[str, ...]
    user_columns: tuple[str, ...]


_EDITIONS = (
    _Edition(
        name="MovieLens-100K",
        ratings="u.data",
        ratings_delimiter="\t",
        movies="u.item",
        users="u.user",
        delimiter="|",
        movie_columns=("item_id", "title", "release_date", "video_release_date", "url", *_GENRES),
        user_columns=("user_id", "age", "gender", "occupation", "zip_code"),
    ),
    _Edition(
        name="MovieLens-1M",
        ratings="ratings.dat",
        ratings_delimiter="::",
        movies="movies.dat",
        users="users.dat",
        delimiter="::",
        movie_columns=("item_id", "title", "genres"),
        user_columns=("user_id", "gender", "age", "occupation", "zip_code"),
    ),
)


def import_movielens(source: Path, out: Path, *, max_bad_share: float = 0.01, now: int | None = None) -> dict[str, Any]:
    """Writes the canonical tables of the folder `source`; returns what dataset.json holds.

    Every rating, low or high, is a `view` with the attribute "rating=4": that somebody watched is the signal, as in
    the papers on this data. See `movie_items` for the catalogue; users keep their published columns as attributes.
    The release date, its address on the web and the video date (empty throughout) of 100K are left out.
    See CanonicalWriter for `out`, `max_bad_share` and `now`.

    Raises:
        DataError: the folder is neither set, a file is missing, or too many rows are bad; nothing is written then.
    """
    edition = _edition(source)
    ratings, movies, users = source / edition.ratings, source / edition.movies, source / edition.users
    sources = [file for file in (ratings, movies, users) if file.is_file()]
    with CanonicalWriter(out, edition.name, "movielens", sources, max_bad_share, now) as writer:
        for batch in _rows(writer, "events", ratings, edition.ratings_delimiter, _RATINGS):
            _write_ratings(writer, ratings, batch)
        table, lines = _whole(_rows(writer, "items", movies, edition.delimiter, edition.movie_columns))
        writer.items(movie_items(table), movies, lines)
        if users in sources:
            table, lines = _whole(_rows(writer, "users", users, edition.delimiter, edition.user_columns))
            known = attributes({name: table.column(name) for name in edition.user_columns[1:]})
            writer.users(pa.table({"user_id": table.column("user_id"), "attributes": known}), users, lines)
    return writer.report


def _edition(source: Path) -> _Edition:
    if not source.is_dir():
        raise DataError(f"SRC {source} must be the folder of a MovieLens set, and is not a folder.")
    for edition in _EDITIONS:
        if (source / edition.ratings).is_file():
            if not (source / edition.movies).is_file():
                raise DataError(f"SRC {source}: {edition.movies} is missing beside {edition.ratings}.")
            return edition
    expected = " or ".join(f"{e.ratings} and {e.movies} ({e.name})" for e in _EDITIONS)
    raise DataError(
        f"SRC {source}: expected {expected}; it has {sorted(entry.name for entry in source.iterdir())}. "
        'A file of "user item" lines is imported with the format `sequences`.'
    )


def _rows(
    writer: CanonicalWriter, table: str, file: Path, delimiter: str, columns: Sequence[str]
) -> Iterator[SourceBatch]:
    for numbers, lines in line_batches(file, _ENCODING):
        batch = split_lines(numbers, lines, delimiter, columns)
        writer.reject_malformed(table, file, batch.malformed)
        yield batch


def _whole(batches: Iterator[SourceBatch]) -> tuple[pa.Table, np.ndarray]:
    found = list(batches)
    table = pa.concat_tables([batch.columns for batch in found]).combine_chunks()
    return table, np.concatenate([batch.lines for batch in found])


def _write_ratings(writer: CanonicalWriter, file: Path, batch: SourceBatch) -> None:
    rating = out_of_range(parse_numbers("rating", batch.columns.column("rating"), pa.int32()), "rating", 1, 5)
    times = parse_times("timestamp", batch.columns.column("timestamp"), TimeFormat())
    reasons = first_reasons((rating, times))
    writer.reject_unparsed("events", file, batch, reasons)
    good = np.setdiff1d(np.arange(len(batch.lines)), list(reasons))
    columns: Mapping[str, pa.Array] = {
        "user_id": batch.columns.column("user_id"),
        "item_id": batch.columns.column("item_id"),
        "type": pa.array(["view"] * len(batch.lines)),
        "timestamp": times.values,
        "attributes": attributes({"rating": rating.values}),
    }
    writer.events(pa.table(columns).take(pa.array(good)), file, batch.lines[good])


def movie_items(movies: pa.Table) -> pa.Table:
    """The items table of published movies: "Toy Story (1995)" is the title "Toy Story" and the attribute "year=1995".

    Every genre is an attribute "genre=Comedy". Genres are a set, listed in alphabetical order, so the first would
    only tell which name is early in the alphabet; the category is the genre that is rarest in the catalogue, because
    it says most about the movie (Drama and War: War). It is one level deep: genres have no tree.

    `movies`: columns item_id, title and either genres ("Drama|War") or one flag "0" or "1" per genre.
    """
    parts = pc.extract_regex(movies.column("title").combine_chunks(), _YEAR)
    title = pc.coalesce(pc.struct_field(parts, [0]), movies.column("title").combine_chunks())
    genres = _genres(movies)
    count = Counter(genre for entry in genres for genre in entry)
    category = [min(entry, key=lambda genre: (count[genre], genre), default=None) for entry in genres]
    named = {"genre": pa.array(genres, pa.list_(pa.string())), "year": pc.struct_field(parts, [1])}
    return pa.table(
        {
            "item_id": movies.column("item_id"),
            "title": title,
            "category": pa.array(category, pa.string()),
            "attributes": attributes(named),
        }
    )


def _genres(movies: pa.Table) -> list[list[str]]:
    if "genres" in movies.column_names:
        return [[genre for genre in text.split("|") if genre] for text in movies.column("genres").to_pylist()]
    flags = {genre: movies.column(genre).to_pylist() for genre in _GENRES[1:]}
    return [[genre for genre, flag in flags.items() if flag[row] == "1"] for row in range(movies.num_rows)]
