import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from transform.checks import DataError
from transform.import_table import import_table
from transform.table_map import TableMap, load_table_map, table_map_from, with_pairs

NOW = 1_600_000_000
RETAIL = Path(pipeline.__file__).parent / "configs" / "maps" / "online_retail.yaml"
SIMPLE = table_map_from({"columns": {"user_id": "who", "item_id": "what"}, "constants": {"type": "view"}}, "m")


def written(tmp_path: Path, name: str, text: str) -> Path:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def imported(tmp_path: Path, text: str, mapping: TableMap, **options: object) -> tuple[dict, list[dict]]:
    """Report and events of one CSV text."""
    file = written(tmp_path, "shop.csv", text)
    report = import_table([file], tmp_path / "out", mapping, now=NOW, **{"max_bad_share": 1.0, **options})
    return report, pq.read_table(tmp_path / "out" / "events.parquet").to_pylist()


def dead_letter(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "out" / "dead_letter" / "import.jsonl").read_text().splitlines()]


def refusal(tmp_path: Path, text: str, mapping: TableMap, **options: object) -> str:
    with pytest.raises(DataError) as refused:
        imported(tmp_path, text, mapping, **{"max_bad_share": 0.0, **options})
    assert not (tmp_path / "out").exists()
    return str(refused.value)


def test_columns_constants_and_attributes(tmp_path: Path) -> None:
    _, events = imported(tmp_path, "who,what,device,coupon\na,x,phone,\nb,y,,SALE\n", SIMPLE)
    assert events == [
        {"user_id": "a", "item_id": "x", "type": "view", "device": "phone", "attributes": []},
        {"user_id": "b", "item_id": "y", "type": "view", "device": None, "attributes": ["coupon=SALE"]},
    ]


def test_missing_columns_are_absent_not_invented(tmp_path: Path) -> None:
    imported(tmp_path, "who,what\na,x\n", SIMPLE)
    assert pq.read_schema(tmp_path / "out" / "events.parquet").names == ["user_id", "item_id", "type"]
    assert not (tmp_path / "out" / "items.parquet").exists()


def test_one_table_in_every_format_gives_the_same_events(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {"who": ["a", "b"], "what": ["1", "2"], "timestamp": ["1970-01-02", "86401"], "price": [1.5, 2]}
    )
    rows.to_csv(tmp_path / "1.csv.gz", index=False)
    rows.to_csv(tmp_path / "2.tsv.bz2", index=False, sep="\t")
    rows.to_json(tmp_path / "3.jsonl", orient="records", lines=True)
    rows.to_parquet(tmp_path / "4.parquet")
    outcomes = []
    for name in ("1.csv.gz", "2.tsv.bz2", "3.jsonl", "4.parquet"):
        import_table([tmp_path / name], tmp_path / "out", SIMPLE, now=NOW)
        table = pq.read_table(tmp_path / "out" / "events.parquet")
        outcomes.append(table.select(["user_id", "item_id", "type", "timestamp", "price"]).to_pylist())
    assert outcomes[0] == [
        {"user_id": "a", "item_id": "1", "type": "view", "timestamp": 86_400, "price": 1.5},
        {"user_id": "b", "item_id": "2", "type": "view", "timestamp": 86_401, "price": 2.0},
    ]
    assert outcomes[1:] == [outcomes[0]] * 3


def test_several_files_are_joined_in_order(tmp_path: Path) -> None:
    first = written(tmp_path, "1.csv", "who,what,region\na,x,north\n")
    second = written(tmp_path, "2.csv", "what,who\ny,b\n")
    report = import_table([first, second], tmp_path / "out", SIMPLE, now=NOW)
    events = pq.read_table(tmp_path / "out" / "events.parquet").to_pylist()
    assert [(event["user_id"], event["region"]) for event in events] == [("a", "north"), ("b", None)]
    assert report["sources"] == [str(first), str(second)]


def test_canonical_tables_import_as_they_are(tmp_path: Path) -> None:
    table = pa.table(
        {
            "user_id": ["a", None],
            "item_id": ["x", None],
            "type": ["purchase", "search"],
            "timestamp": [5, 6],
            "quantity": pa.array([2, None], pa.int32()),
            "attributes": [["a=b", "a=c"], []],
        }
    )
    table = table.set_column(0, "user_id", pa.array(["a", "b"]))
    pq.write_table(table, tmp_path / "events.parquet")
    import_table([tmp_path / "events.parquet"], tmp_path / "out", TableMap(), now=NOW)
    assert pq.read_table(tmp_path / "out" / "events.parquet").to_pylist() == table.to_pylist()


def test_values_are_renamed_and_types_spelled_our_way(tmp_path: Path) -> None:
    mapping = table_map_from({"values": {"type": {"transaction": "purchase"}}}, "m")
    _, events = imported(tmp_path, "user_id,item_id,type\na,x,transaction\na,x,Add to cart\na,x,View\n", mapping)
    assert [event["type"] for event in events] == ["purchase", "add_to_cart", "view"]


def test_bad_rows_go_to_the_dead_letter_with_their_line(tmp_path: Path) -> None:
    text = "who,what,timestamp,price\na,x,5,1\nb,y\nc,z,soon,1\nd,w,6,-1\n\n,v,7,1\n"
    report, events = imported(tmp_path, text, SIMPLE)
    assert [event["user_id"] for event in events] == ["a"]
    letters = dead_letter(tmp_path)
    assert [(letter["line"], letter["reason"].split(":")[0]) for letter in letters] == [
        (3, "row"),
        (4, "timestamp"),
        (5, "price"),
        (7, "user_id"),
    ]
    assert letters[0]["row"] == "b,y"
    assert letters[1]["row"] == {"who": "c", "what": "z", "timestamp": "soon", "price": "1"}
    assert (report["rows_read"], report["rows_kept"], sum(report["rejected"].values())) == (5, 1, 4)


def test_drop_rules_count_in_their_order(tmp_path: Path) -> None:
    rules = {
        "anonymous": {"column": "user_id", "empty": True},
        "bots": {"column": "agent", "matches": "(?i)bot"},
        "services": {"column": "item_id", "is_in": ["POST", 7]},
        "free": {"column": "price", "at_most": 0},
        "dear": {"column": "price", "above": 99.5},
        "old": {"column": "timestamp", "before": "1970-01-02"},
        "new": {"column": "timestamp", "since": 200_000},
        "unmet": {"column": "agent", "matches": "never"},
    }
    mapping = table_map_from({"constants": {"type": "view"}, "drop": rules}, "m")
    text = "user_id,item_id,price,timestamp,agent\n" + "".join(
        [
            ",POST,0,5,bot\n",
            "a,POST,x,5,GoogleBot\n",
            "a,POST,1,100000,\n",
            "a,7,1,100000,\n",
            "a,x,0,100000,\n",
            "a,x,99.6,100000,\n",
            "a,x,1,86399,\n",
            "a,x,1,200000,\n",
            "a,x,99.5,86400,\n",
        ]
    )
    report, events = imported(tmp_path, text, mapping)
    assert len(events) == 1
    assert report["rejected"] == {}
    assert report["dropped"] == {
        "anonymous": 1,
        "bots": 1,
        "services": 2,
        "free": 1,
        "dear": 1,
        "old": 1,
        "new": 1,
        "unmet": 0,
    }


def test_overlap_stays_with_the_later_file(tmp_path: Path) -> None:
    later = written(tmp_path, "2011.csv", "who,what,timestamp\nc,x,100\nd,x,200\n")
    earlier = written(tmp_path, "2010.csv", "who,what,timestamp\na,x,50\nc,x,100\nb,x,99\n")
    mapping = with_pairs(SIMPLE, ["overlap=keep_later"])
    report = import_table([later, earlier], tmp_path / "out", mapping, now=NOW)
    events = pq.read_table(tmp_path / "out" / "events.parquet").to_pylist()
    assert [event["user_id"] for event in events] == ["c", "d", "a", "b"]
    assert report["dropped"] == {"overlap_with_later_file": 1}


DERIVED = table_map_from(
    {
        "columns": {"item_id": "what"},
        "constants": {"type": "view"},
        "items": {
            "from_events": {
                "title": {"column": "name", "pick": "most_frequent"},
                "brand": {"column": "maker", "pick": "last"},
                "price": {"column": "price", "pick": "first"},
            }
        },
    },
    "m",
)


def test_catalogue_is_derived_from_kept_events(tmp_path: Path) -> None:
    text = "user_id,what,timestamp,name,maker,price\n" + "".join(
        [
            "a,x,9,CUP,Late,3\n",
            "a,x,5,CUP,Early,2\n",
            "a,x,6,MUG,,\n",
            "a,y,7,,,\n",
            ",z,7,GONE,,1\n",
        ]
    )
    _, events = imported(tmp_path, text, DERIVED)
    assert pq.read_table(tmp_path / "out" / "items.parquet").to_pylist() == [
        {"item_id": "x", "title": "CUP", "brand": "Late", "price": 2.0},
        {"item_id": "y", "title": None, "brand": None, "price": None},
    ]
    # What went to the catalogue is not repeated on every event.
    assert set(events[0]) == {"user_id", "item_id", "type", "timestamp", "price"}


def test_equally_frequent_titles_are_settled_by_the_text(tmp_path: Path) -> None:
    imported(tmp_path, "user_id,what,name,maker,price\na,x,MUG,,\na,x,CUP,,\n", DERIVED)
    assert pq.read_table(tmp_path / "out" / "items.parquet").column("title").to_pylist() == ["CUP"]


def test_catalogue_file_is_mapped(tmp_path: Path) -> None:
    items = written(
        tmp_path,
        "items.csv",
        "sku,label,path,price,in_stock,created_at,tags,colour\n"
        "x,Red  mug,Home|Mugs,4.5,yes,1970-01-02,new;gift,red\n"
        "y,Bowl,,x,no,,,\n"
        "x,Again,,1,no,,,\n",
    )
    mapping = table_map_from(
        {
            "constants": {"type": "view"},
            "items": {
                "columns": {"item_id": "sku", "title": "label", "category": "path", "available": "in_stock"},
                "category_separator": "|",
                "split": {"tags": ";"},
            },
        },
        "m",
    )
    report, _ = imported(tmp_path, "user_id,item_id\na,x\n", mapping, items=items)
    assert pq.read_table(tmp_path / "out" / "items.parquet").to_pylist() == [
        {
            "item_id": "x",
            "title": "Red mug",
            "category": "Home > Mugs",
            "price": 4.5,
            "attributes": ["tags=new", "tags=gift", "colour=red"],
            "created_at": 86_400,
            "available": True,
        }
    ]
    assert report["items"]["rejected"] == {
        "price: must be a number as 1234.5": 1,
        "item_id: must occur once in the table": 1,
    }
    assert [letter["line"] for letter in dead_letter(tmp_path)] == [3, 4]


RETAIL_2009 = """Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country
1,85123a,HEART,6,2009-12-01 07:45:00,2.55,13085,United Kingdom
2,71053,LANTERN,1,2010-12-01 08:26:00,3.39,13085,France
"""
RETAIL_2010 = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
2,71053,LANTERN,1,2010-12-01 08:26:00,3.39,13085.0,France
3,85123A,"HEART, WHITE",2,2011-07-01 12:00:00,2.95,17850.0,United Kingdom
3,85123A,"HEART, WHITE",2,2011-07-01 12:00:00,2.95,17850.0,United Kingdom
C4,85123A,HEART,-2,2011-07-02 12:00:00,2.95,17850.0,United Kingdom
A5,B,Adjust bad debt,1,2011-07-02 12:00:00,-11062.06,,United Kingdom
6,85123A,HEART,2,2011-07-02 12:00:00,2.95,,United Kingdom
7,POST,POSTAGE,1,2011-07-02 12:00:00,18,17850.0,France
8,71053,LANTERN,1,2011-07-02 12:00:00,0,17850.0,France
9,gift_0001_20,Voucher,1,2011-07-02 12:00:00,20,17850.0,France
"""


def test_online_retail_of_both_years(tmp_path: Path) -> None:
    files = [written(tmp_path, "2009.csv", RETAIL_2009), written(tmp_path, "2010.csv", RETAIL_2010)]
    report = import_table(files, tmp_path / "out", load_table_map(RETAIL))
    events = pq.read_table(tmp_path / "out" / "events.parquet").to_pylist()
    assert [(event["user_id"], event["item_id"], event["order"]) for event in events] == [
        ("13085", "85123A", "1"),
        ("13085", "71053", "2"),
        ("17850", "85123A", "3"),
        ("17850", "85123A", "3"),
    ]
    # 12:00 in British summer time is 11:00 UTC.
    assert events[2]["timestamp"] == 1309518000
    assert events[1]["region"] == "France"
    assert report["dropped"] == {
        "overlap_with_later_file": 1,
        "cancellation": 1,
        "bad_debt": 1,
        "no_customer": 1,
        "non_product_code": 2,
        "non_positive_quantity": 0,
        "free_of_charge": 1,
    }
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    assert [(item["item_id"], item["title"], round(item["price"], 2)) for item in items] == [
        ("71053", "LANTERN", 3.39),
        ("85123A", "HEART, WHITE", 2.55),
    ]


@pytest.mark.parametrize(
    ("text", "mapping", "sentence"),
    [
        ("", SIMPLE, "shop.csv: the file is empty."),
        ("who,what\n", SIMPLE, "shop.csv: the file has column names but no rows."),
        (
            "whom,what\na,x\n",
            SIMPLE,
            "no column 'who' for user_id; the file has ['whom', 'what']. Did you mean 'whom'?",
        ),
        ("whom,what\na,x\n", SIMPLE, "Map it with `--map user_id=NAME`"),
        ("customer,item_id,type\na,x,view\n", TableMap(), "no column for user_id; the file has ['customer', 'item_id'"),
        (
            "user_id,item,type\na,x,view\n",
            TableMap(),
            "no column for item_id; the file has ['user_id', 'item', 'type'].",
        ),
        ("user_id,item_id\na,x\n", TableMap(), 'set it for all rows with "--map type==purchase"'),
        (
            "who,what,timestamp\na,x,1600000000000\n",
            SIMPLE,
            "It looks like milliseconds: import it with `timestamp_unit:",
        ),
        ("who,what,timestamp\na,x,1700000000\n", SIMPLE, "shop.csv:2: timestamp: must not be in the future"),
        ("who,what,timestamp\na,x,12/1/2010 8:26\n", SIMPLE, "or say `timestamp_format`, received '12/1/2010 8:26'."),
        (
            "who,what,quantity\na,x,many\n",
            SIMPLE,
            "quantity: must be a whole number up to 2147483647, received 'many'.",
        ),
        ("who,what\na\n", SIMPLE, "shop.csv:2: row: must have 2 fields (who, what), received 1."),
        (
            "user_id,item_id,type\na,x,view\n",
            table_map_from({"drop": {"r": {"column": "agnet", "matches": "x"}}}, "m"),
            "`drop: r` names the column 'agnet', which is neither mapped nor in the file",
        ),
        ("who,what\na,x\n", with_pairs(SIMPLE, ["item.title=T"]), "items.csv: no column 'T' for title"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path: Path, text: str, mapping: TableMap, sentence: str) -> None:
    items = written(tmp_path, "items.csv", "item_id,name\nx,Cup\n") if mapping.items.columns else None
    assert sentence in refusal(tmp_path, text, mapping, items=items)


def test_milliseconds_are_read_when_said(tmp_path: Path) -> None:
    mapping = with_pairs(SIMPLE, ["timestamp_unit=ms"])
    _, events = imported(tmp_path, "who,what,timestamp\na,x,1500000000999\n", mapping)
    assert events[0]["timestamp"] == 1_500_000_000


def test_nested_column_is_refused_with_the_way_out(tmp_path: Path) -> None:
    table = pa.table({"who": ["a"], "what": ["x"], "more": [{"k": 1}]})
    pq.write_table(table, tmp_path / "shop.parquet")
    with pytest.raises(DataError, match=r"column 'more' of type struct.* Put it under `ignore`"):
        import_table([tmp_path / "shop.parquet"], tmp_path / "out", SIMPLE, now=NOW)


def test_binary_id_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"who": [b"a"], "what": ["x"]}), tmp_path / "shop.parquet")
    with pytest.raises(DataError, match=r"column 'who' must hold single values, received binary"):
        import_table([tmp_path / "shop.parquet"], tmp_path / "out", SIMPLE, now=NOW)


def test_overlap_without_times_is_refused(tmp_path: Path) -> None:
    files = [written(tmp_path, name, "who,what\na,x\n") for name in ("1.csv", "2.csv")]
    with pytest.raises(DataError, match=r"`overlap: keep_later` needs a timestamp"):
        import_table(files, tmp_path / "out", with_pairs(SIMPLE, ["overlap=keep_later"]), now=NOW)
