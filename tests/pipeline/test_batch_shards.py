"""Who is asked for, cut into shards; what a shard holds as a table."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch_output import lists_table
from pipeline.batch_shards import Chosen, choose_shoppers, product_shards, read_users, shopper_shards
from pipeline.runner import StepError
from tests.transform.small_tables import event, transformed
from trainer.data import load_sequences
from trainer.record_scan import ShopperPlaces, available_items, find_shoppers


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of the transform over 20 shoppers, of whom shopper n has 10 + n events; product 3 cannot be had."""
    events = [
        event(f"ü-{shopper}", f"p-{(shopper + number) % 7}", number * 86_000 + shopper)
        for shopper in range(20)
        for number in range(10 + shopper)
    ]
    items = [{"item_id": f"p-{number}", "title": "x", "available": number != 3} for number in range(7)]
    return transformed(tmp_path_factory.mktemp("shop"), items, events)


def test_shoppers_are_found_where_the_sequences_are(directory: Path) -> None:
    places, sequences = find_shoppers(directory), load_sequences(directory)
    assert len(places.files) == 3
    assert [user.decode() for user in places.user_ids] == sequences.user_ids.tolist()
    assert places.lengths.tolist() == sequences.lengths.tolist()
    for number, file in enumerate(places.files):
        assert places.record_of[places.file_of == number].tolist() == [*range((places.file_of == number).sum())], file


def test_only_available_products_are_listed(directory: Path) -> None:
    assert available_items(directory) == ["p-0", "p-1", "p-2", "p-4", "p-5", "p-6"]


def test_a_list_is_answered_in_the_order_of_the_data(directory: Path) -> None:
    everybody = load_sequences(directory)
    wanted = ["ü-19", "ü-4", "nobody", "ü-4", "ü-0"]
    chosen = choose_shoppers(directory, wanted)
    assert (chosen.unknown, chosen.repeated) == (("nobody",), 1)
    (shard,) = shopper_shards(chosen, chosen.unknown, 9)
    assert shard.ids == ("nobody",)
    read = load_sequences(directory, shard.records)
    assert read.user_ids.tolist() == [user for user in everybody.user_ids if user in wanted]
    for number, user in enumerate(read.user_ids):
        one = int((everybody.user_ids == user).nonzero()[0][0])
        expected = everybody.rows[everybody.offsets[one] : everybody.offsets[one + 1]]
        assert read.rows[read.offsets[number] : read.offsets[number + 1]].tolist() == expected.tolist()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 12), st.integers(0, 9), st.data())
def test_every_shopper_is_in_one_shard(counts: list[int], size: int, unknown: int, data: st.DataObject) -> None:
    total = sum(counts)
    places = ShopperPlaces(
        tuple(f"file-{number}" for number in range(len(counts))),
        np.array([f"{number}".encode() for number in range(total)], object),
        np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        np.concatenate([np.arange(count) for count in counts]),
        np.ones(total, np.int64),
    )
    wanted = np.array(sorted(data.draw(st.sets(st.integers(0, total - 1)) if total else st.just(set()))), int)
    visitors = tuple(f"new-{number}" for number in range(unknown))
    shards = shopper_shards(Chosen(places, wanted, visitors), visitors, size)
    assert [shard.number for shard in shards] == [*range(-(-(len(wanted) + unknown) // size))]
    sizes = [sum(map(len, shard.records.values())) + len(shard.ids) for shard in shards]
    assert sizes[:-1] == [size] * (len(shards) - 1)
    assert sum(sizes) == len(wanted) + unknown
    found = [(name, number) for shard in shards for name, numbers in shard.records.items() for number in numbers]
    assert found == [(places.files[places.file_of[one]], places.record_of[one]) for one in wanted]
    assert tuple(user for shard in shards for user in shard.ids) == visitors


def test_products_are_cut_in_their_order() -> None:
    assert [shard.ids for shard in product_shards(["a", "b", "c"], 2)] == [("a", "b"), ("c",)]


def test_padding_is_left_out_of_lists_and_the_best_are_kept() -> None:
    item_ids = np.array([[b"a", b"", b"b", b"c"], [b"", b"", b"", b""], [b"d", b"e", b"f", "ü".encode()]], object)
    scores = np.array([[4, 0, 3, 2], [0, 0, 0, 0], [8, 7, 6, 5]], np.float32)
    assert lists_table("user_id", ["x", "y", "z"], item_ids, scores, 2).to_pylist() == [
        {"user_id": "x", "item_ids": ["a", "b"], "scores": [4, 3]},
        {"user_id": "y", "item_ids": [], "scores": []},
        {"user_id": "z", "item_ids": ["d", "e"], "scores": [8, 7]},
    ]


def test_lists_of_shoppers_are_read_from_text_and_parquet(tmp_path: Path) -> None:
    text = tmp_path / "users.txt"
    text.write_bytes(b"\xef\xbb\xbfann\r\n\r\n  bob \r\n")
    assert read_users(text) == ["ann", "bob"]
    numbers = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"customer": [12, None, 7]}), numbers)
    assert read_users(numbers) == ["12", "7"]
    several = tmp_path / "several.parquet"
    pq.write_table(pa.table({"age": [30], "user_id": ["ann"]}), several)
    assert read_users(several) == ["ann"]


def test_lists_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"--users .*nowhere.txt: no such file"):
        read_users(tmp_path / "nowhere.txt")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(StepError, match="at least one shopper is needed, received none"):
        read_users(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"M\xfcller\n")
    with pytest.raises(StepError, match="must be UTF-8 text, one id a line"):
        read_users(tmp_path / "latin.txt")
    pq.write_table(pa.table({"age": [30], "name": ["ann"]}), tmp_path / "several.parquet")
    with pytest.raises(StepError, match="must have a column user_id, or one column alone; received age, name"):
        read_users(tmp_path / "several.parquet")
    (tmp_path / "text.parquet").write_text("ann\n")
    with pytest.raises(StepError, match="not a Parquet file with a column of ids"):
        read_users(tmp_path / "text.parquet")
