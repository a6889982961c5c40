"""The order that samples are drawn by."""

from trainer.hash_order import hash_order


def test_order_is_that_of_the_names_not_of_their_places() -> None:
    names = [f"p{number}" for number in range(50)]
    ordered = [names[place] for place in hash_order(names, 1)]
    assert sorted(ordered) == sorted(names)
    assert ordered != names
    assert [names[::-1][place] for place in hash_order(names[::-1], 1)] == ordered


def test_another_seed_is_another_order() -> None:
    names = [f"p{number}" for number in range(50)]
    assert hash_order(names, 1).tolist() != hash_order(names, 2).tolist()


def test_order_never_changes() -> None:
    # Worked out by hashlib alone: BLAKE2b of 8 bytes, key "1".
    assert hash_order([], 1).tolist() == []
    assert hash_order(["a", "b", "c", "d"], 1).tolist() == [2, 3, 0, 1]
