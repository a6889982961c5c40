"""`tandem import`: picks the adapter of a format and hands it what the command line said."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.config import SHIPPED
from transform.checks import DataError
from transform.import_movielens import import_movielens
from transform.import_sequences import import_sequences
from transform.import_table import import_table
from transform.table_map import TableMap, load_table_map, with_pairs


def run_import(
    name: str,
    sources: Sequence[Path],
    out: Path,
    *,
    config: str | None,
    columns: Sequence[str],
    items: Path | None,
    max_bad_share: float,
) -> None:
    """Writes canonical tables to `out` and prints what was read, kept, left out and why.

    Args:
        name: "movielens", "sequences" or "table".
        config: column map: a YAML file, or the name of a shipped one ("online_retail").
        columns: "ours=theirs" pairs on top of it.
        items: file of products, for "sequences" and "table".

    Raises:
        DataError: an argument that the format does not take, or data that break a rule.
    """
    mapping = _mapping(config, columns)
    if name == "table":
        report = import_table(sources, out, mapping or TableMap(), items=items, max_bad_share=max_bad_share)
    else:
        if len(sources) != 1:
            raise DataError(f"import {name}: takes one SRC, received {len(sources)}: {', '.join(map(str, sources))}.")
        if name == "movielens":
            if mapping is not None or items is not None:
                raise DataError("import movielens: takes no --config, --map or --items; its columns are known.")
            report = import_movielens(sources[0], out, max_bad_share=max_bad_share)
        else:
            report = import_sequences(sources[0], out, items=items, mapping=mapping, max_bad_share=max_bad_share)
    print(f"{report['rows_kept']:,} of {report['rows_read']:,} events kept in {out}")
    for kind in ("dropped", "rejected"):
        for reason, count in report[kind].items():
            print(f"  {kind} {count:,}: {reason}")


def _mapping(config: str | None, columns: Sequence[str]) -> TableMap | None:
    if config is None and not columns:
        return None
    if config is None:
        return with_pairs(TableMap(), columns)
    shipped = SHIPPED / "maps" / f"{config}.yaml"
    path = shipped if shipped.is_file() and not Path(config).is_file() else Path(config)
    return with_pairs(load_table_map(path), columns)
