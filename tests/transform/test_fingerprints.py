"""Fingerprints: equal for equal values, even, the same in every process."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transform.fingerprints import combine, fingerprint, share

VALUES = st.lists(st.one_of(st.none(), st.text(max_size=8)), min_size=1, max_size=30)


@given(VALUES)
def test_equal_values_and_only_those_have_equal_fingerprints(values: list[str | None]) -> None:
    found = fingerprint(pa.array(values, pa.string()))
    assert len(set(found.tolist())) == len(set(values))


@given(VALUES)
def test_a_value_does_not_depend_on_its_neighbours(values: list[str | None]) -> None:
    alone = [fingerprint(pa.array([value], pa.string()))[0] for value in values]
    assert fingerprint(pa.array([*values, "x"], pa.string()).slice(0, len(values))).tolist() == alone
    assert fingerprint(pa.array(["x", *values], pa.string()).slice(1)).tolist() == alone


@pytest.mark.parametrize(
    "values",
    [
        pa.array([["a", "b"], ["ab"], ["b", "a"], [], None, [""]]),
        pa.array([0, 1, -1, 2**62, 2**62 + 1, None]),
        pa.array([0.5, 1.0, -1.0, None]),
        pa.array([True, False, None]),
        pa.array([b"a", b"a\x00", b"\x00a", b"\x00", b""]),
    ],
)
def test_different_values_of_other_types_differ(values: pa.Array) -> None:
    assert len(set(fingerprint(values).tolist())) == len(values)


def test_fingerprints_are_the_same_on_every_machine() -> None:
    # Of one byte b: mix((b + 1) · 0x9E3779B97F4A7C15), worked out with Python's integers.
    mask = 2**64 - 1
    mixed = (ord("a") + 1) * 0x9E3779B97F4A7C15 & mask
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & mask
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & mask
    assert fingerprint(pa.array(["a"])).tolist() == [mixed ^ (mixed >> 31)]


def test_similar_ids_spread_evenly() -> None:
    found = fingerprint(pa.array([f"user-{number}" for number in range(16_000)]))
    # 1,000 expected in each of 16 buckets with a standard deviation of about 31.
    assert np.abs(np.bincount((found % np.uint64(16)).astype(int)) - 1_000).max() < 150
    assert share(found).mean() == pytest.approx(0.5, abs=0.01)


def test_combined_fingerprints_know_the_order_of_columns() -> None:
    first, second = fingerprint(pa.array(["a"])), fingerprint(pa.array(["b"]))
    assert combine(first, second) != combine(second, first)


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="received struct"):
        fingerprint(pa.array([{"a": 1}]))


@given(st.lists(st.one_of(st.none(), st.text(max_size=3))))
def test_a_dictionary_has_the_fingerprints_of_its_values(values: list[str | None]) -> None:
    plain = pa.array(values, pa.string())
    assert fingerprint(plain.dictionary_encode()).tolist() == fingerprint(plain).tolist()
