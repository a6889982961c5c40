"""How a shop's own columns become the canonical ones: the map that `tandem import table` reads."""

import datetime
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from transform.checks import DataError, nearest
from transform.import_sources import FileFormat, ReadOptions
from transform.tables import EVENTS, ITEMS

TimestampUnit = Literal["s", "ms", "us", "ns"]
Pick = Literal["most_frequent", "first", "last"]
_TEXT_CONDITIONS = ("matches", "is_in", "empty")
_NUMBER_CONDITIONS = ("below", "at_most", "above", "at_least")
_TIME_CONDITIONS = ("before", "since")
# Product fields that can be taken from events.
DERIVABLE = ("title", "description", "category", "brand", "price")
CONDITIONS = _TEXT_CONDITIONS + _NUMBER_CONDITIONS + _TIME_CONDITIONS


@dataclass(frozen=True)
class DropRule:
    """Rows left out on purpose, counted under `name`. The rules are tried in order; the first that fits counts.

    Attributes:
        column: a canonical name, or else a column of the source.
        condition: `matches` (an RE2 expression found in the text), `is_in` (one of these texts), `empty` (true);
            `below`, `at_most`, `above`, `at_least` (a number); `before`, `since` (a time in seconds; in YAML also an
            ISO date, in UTC), for the column "timestamp".
    """

    name: str
    column: str
    condition: str
    value: Any


@dataclass(frozen=True)
class DerivedField:
    """A product's field taken from its kept events: `column` is a canonical event column or else one of the source.

    `most_frequent` counts filled values (ties: the smaller text); `first` and `last` are by time, or by order where
    there are no times.
    """

    column: str
    pick: Pick


@dataclass(frozen=True)
class ItemsMap:
    """The catalogue: from a file of its own (`columns`: canonical → source) or from the events (`from_events`)."""

    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # What separates the levels of a category in the source.
    category_separator: str = ">"
    # Source column with several values in one text → what separates them; each becomes an attribute.
    split: Mapping[str, str] = field(default_factory=dict)
    from_events: Mapping[str, DerivedField] = field(default_factory=dict)


@dataclass(frozen=True)
class TableMap:
    """How to read a shop's event table.

    A source column with a canonical name maps to it by itself. Columns that no key names are kept as attributes.
    """

    name: str = "table"
    # Canonical column → its names in the source: the first that a file has.
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Canonical column → the one value of all rows, for example type: purchase.
    constants: Mapping[str, str] = field(default_factory=dict)
    # Canonical column → {value in the source: value here}, for example type: {transaction: purchase}.
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    # Source columns that are not kept as attributes.
    ignore: tuple[str, ...] = ()
    # Canonical columns whose letters' case means nothing.
    uppercase: tuple[str, ...] = ()
    # Canonical id columns that a spreadsheet made numbers of: "17850.0" is "17850".
    integer: tuple[str, ...] = ()
    # Texts that mean "no value", besides the empty one.
    missing: tuple[str, ...] = ("NULL", "\\N", "NaN", "nan")
    # strptime format; None: ISO 8601, or a number in `timestamp_unit`.
    timestamp_format: str | None = None
    timestamp_unit: TimestampUnit = "s"
    # Of times without an offset. Of an hour that occurs twice it is the later; in one that is skipped, an hour on.
    timezone: str = "UTC"
    drop: tuple[DropRule, ...] = ()
    # keep_later: of several files, rows dated at or after the start of a later file are dropped from the earlier one.
    overlap: Literal["keep_all", "keep_later"] = "keep_all"
    file_format: FileFormat | None = None
    delimiter: str | None = None
    encoding: str = "utf-8"
    # Column names of a CSV or TSV without a header line.
    header: tuple[str, ...] | None = None
    items: ItemsMap = field(default_factory=ItemsMap)

    def read_options(self) -> ReadOptions:
        """How the event files are read."""
        return ReadOptions(self.file_format, self.delimiter, self.encoding, self.header)


# What `--map name=value` can set besides columns.
_SCALAR_OPTIONS = (
    "name",
    "timestamp_format",
    "timestamp_unit",
    "timezone",
    "overlap",
    "file_format",
    "delimiter",
    "encoding",
)
_CHOICES: dict[str, tuple[str, ...]] = {
    "timestamp_unit": get_args(TimestampUnit),
    "overlap": ("keep_all", "keep_later"),
    "file_format": get_args(FileFormat),
}


def load_table_map(path: Path) -> TableMap:
    """Reads a map from a YAML file.

    Raises:
        DataError: the file isn't there, isn't YAML, or has an unknown key or value (with the nearest known one).
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"map file {path}: cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"map file {path}: not YAML: {error}") from error
    return table_map_from(loaded if loaded is not None else {}, f"map file {path}")


def table_map_from(loaded: Any, where: str) -> TableMap:
    """Checks a map as YAML gives it; `where` opens every error."""
    section = _section(loaded, where, [entry.name for entry in fields(TableMap)])
    columns = _columns(section.get("columns", {}), f"{where}: columns", EVENTS.names)
    constants = _texts(section.get("constants", {}), f"{where}: constants", EVENTS.names)
    values = {
        column: _texts(renamed, f"{where}: values: {column}", None)
        for column, renamed in _section(section.get("values", {}), f"{where}: values", EVENTS.names).items()
    }
    lists: dict[str, Any] = {
        name: _list(section[name], f"{where}: {name}", known)
        for name, known in (
            ("ignore", None),
            ("uppercase", EVENTS.names),
            ("integer", EVENTS.names),
            ("missing", None),
            ("header", None),
        )
        if section.get(name) is not None
    }
    scalars: dict[str, Any] = {
        name: _scalar(name, section[name], where) for name in _SCALAR_OPTIONS if section.get(name) is not None
    }
    drop = tuple(
        _drop_rule(name, rule, f"{where}: drop: {name}")
        for name, rule in _section(section.get("drop", {}), f"{where}: drop", None).items()
    )
    items = _items_map(section.get("items", {}), f"{where}: items")
    return _consistent(
        TableMap(columns=columns, constants=constants, values=values, drop=drop, items=items, **lists, **scalars), where
    )


def with_pairs(mapping: TableMap, pairs: Sequence[str]) -> TableMap:
    """`mapping` with `--map` pairs on top.

    `user_id=CustomerID` maps a column, `type==purchase` (two equals signs) sets a constant, `item.title=Name` maps a
    column of the items file, `timestamp_unit=ms` sets an option.

    Raises:
        DataError: a pair has no equals sign or names nothing known.
    """
    for pair in pairs:
        mapping = _with_pair(mapping, pair)
    return _consistent(mapping, "--map")


def _with_pair(mapping: TableMap, pair: str) -> TableMap:
    key, equals, value = pair.partition("=")
    key = key.strip()
    if not equals or not value:
        raise DataError(f"--map must be canonical=source, for example user_id=CustomerID, received {pair!r}.")
    if key.startswith("item."):
        columns = _columns({key.removeprefix("item."): value}, "--map item.", ITEMS.names)
        return replace(mapping, items=replace(mapping.items, columns={**mapping.items.columns, **columns}))
    if key in _SCALAR_OPTIONS:
        option: dict[str, Any] = {key: _scalar(key, value, "--map")}
        return replace(mapping, **option)
    if key not in EVENTS.names:
        known = [*EVENTS.names, *_SCALAR_OPTIONS]
        raise DataError(f"--map {pair}: {key!r} is unknown; known are {', '.join(known)}.{nearest(key, known)}")
    without = {column: names for column, names in mapping.columns.items() if column != key}
    constants = {column: constant for column, constant in mapping.constants.items() if column != key}
    if value.startswith("="):
        return replace(mapping, columns=without, constants={**constants, key: value[1:]})
    return replace(mapping, columns={**without, key: (value,)}, constants=constants)


def _section(loaded: Any, where: str, known: Sequence[str] | None) -> dict[str, Any]:
    """A mapping with text keys, all of them known (None: any)."""
    if not isinstance(loaded, dict):
        raise DataError(f"{where}: must be a mapping of names to values, received {loaded!r}.")
    for key in loaded:
        if not isinstance(key, str):
            raise DataError(f"{where}: names must be text, received {key!r}. Put quotes around it.")
        if known is not None and key not in known:
            raise DataError(f"{where}: unknown key {key!r}; known are {', '.join(known)}.{nearest(key, known)}")
    return loaded


def _columns(loaded: Any, where: str, known: Sequence[str]) -> dict[str, tuple[str, ...]]:
    section = _section(loaded, where, known)
    return {
        column: (names,) if isinstance(names, str) else _list(names, f"{where}: {column}", None)
        for column, names in section.items()
    }


def _texts(loaded: Any, where: str, known: Sequence[str] | None) -> dict[str, str]:
    section = _section(loaded, where, known)
    for name, value in section.items():
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise DataError(f"{where}: {name} must be a text or a number, received {value!r}.")
    return {name: str(value) for name, value in section.items()}


def _list(loaded: Any, where: str, known: Sequence[str] | None) -> tuple[str, ...]:
    if not isinstance(loaded, list | tuple) or not loaded or not all(isinstance(entry, str) for entry in loaded):
        raise DataError(f"{where}: must be a list of texts, received {loaded!r}.")
    for entry in loaded:
        if known is not None and entry not in known:
            raise DataError(f"{where}: unknown {entry!r}; known are {', '.join(known)}.{nearest(entry, known)}")
    return tuple(loaded)


def _scalar(name: str, value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} must be a text, received {value!r}.")
    choices = _CHOICES.get(name)
    if choices and value not in choices:
        raise DataError(f"{where}: {name} must be one of {', '.join(choices)}, received {value!r}.")
    if name == "timestamp_format":
        try:
            pd.to_datetime([datetime.datetime.now(datetime.UTC).strftime(value)], format=value)
        except ValueError as error:
            raise DataError(f"{where}: timestamp_format can't be {value!r}: {error}.") from error
    if name == "timezone":
        try:
            zoneinfo.ZoneInfo(value)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise DataError(f"{where}: timezone must be a name as 'Europe/London', received {value!r}.") from error
    return value


def _drop_rule(name: str, loaded: Any, where: str) -> DropRule:
    section = _section(loaded, where, ["column", *CONDITIONS])
    conditions = [key for key in section if key != "column"]
    if "column" not in section or len(conditions) != 1:
        raise DataError(f"{where}: must have `column` and one of {', '.join(CONDITIONS)}, received {loaded!r}.")
    condition = conditions[0]
    value = section[condition]
    if condition in _TIME_CONDITIONS:
        value = _seconds(value, f"{where}: {condition}")
        if section["column"] != "timestamp":
            raise DataError(f"{where}: {condition} is for the column 'timestamp', received {section['column']!r}.")
    if condition == "matches" and isinstance(value, str):
        try:
            pc.match_substring_regex(pa.array([""]), value)
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{where}: matches is not a regular expression (RE2), received {value!r}: {error}"
            ) from error
    fits = {
        "matches": isinstance(value, str),
        "is_in": isinstance(value, list) and bool(value),
        "empty": value is True,
    }.get(condition, isinstance(value, int | float) and not isinstance(value, bool))
    if not fits:
        raise DataError(
            f"{where}: {condition} can't be {value!r}; `matches` needs a text, `is_in` a list, `empty` true, "
            "the others a number."
        )
    return DropRule(name, str(section["column"]), condition, [str(v) for v in value] if condition == "is_in" else value)


def _seconds(value: Any, where: str) -> int:
    """Seconds since 1970 of a YAML date, a time, an ISO text or a number, in UTC."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        moment = datetime.datetime.fromisoformat(str(value))
    except ValueError as error:
        raise DataError(f"{where}: must be an ISO date as 2010-12-01, received {value!r}.") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp())


def _items_map(loaded: Any, where: str) -> ItemsMap:
    section = _section(loaded, where, [entry.name for entry in fields(ItemsMap)])
    derived = {}
    for name, rule in _section(section.get("from_events", {}), f"{where}: from_events", DERIVABLE).items():
        place = f"{where}: from_events: {name}"
        entry = _texts(rule, place, ["column", "pick"])
        if set(entry) != {"column", "pick"} or entry["pick"] not in get_args(Pick):
            raise DataError(f"{place}: must have `column` and `pick` ({', '.join(get_args(Pick))}), received {rule!r}.")
        derived[name] = DerivedField(entry["column"], entry["pick"])  # type: ignore[arg-type]
    return ItemsMap(
        columns=_columns(section.get("columns", {}), f"{where}: columns", ITEMS.names),
        category_separator=_scalar("category_separator", section.get("category_separator", ">"), where),
        split=_texts(section.get("split", {}), f"{where}: split", None),
        from_events=derived,
    )


def _consistent(mapping: TableMap, where: str) -> TableMap:
    both = sorted(set(mapping.columns) & set(mapping.constants))
    if both:
        raise DataError(f"{where}: {both} are both in `columns` and in `constants`; say one of the two.")
    if mapping.timestamp_format is not None and mapping.timestamp_unit != "s":
        raise DataError(
            f"{where}: timestamp_format ({mapping.timestamp_format!r}, for texts) and timestamp_unit "
            f"({mapping.timestamp_unit!r}, for numbers) exclude each other; say one of the two."
        )
    return mapping
