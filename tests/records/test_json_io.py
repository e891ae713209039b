"""What two nested values differ in, and what a damaged file is told."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeroth.records import difference, read_json

NUMBERS = st.integers(-9, 9) | st.floats(allow_nan=False)
NESTED = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("was", "now", "found"),
    [
        ({"b": {"c": 1}, "a": 2}, {"b": {"c": 3}, "a": 2}, ("b.c", 1, 3)),
        ({"a": 1}, {}, ("a", 1, None)),
        ({"a": {}}, {"a": {"b": 0}}, ("a.b", None, 0)),
        ({"a": [1, [2, 3]]}, {"a": [1, [2, 4]]}, ("a[1][1]", 3, 4)),
        ({"a": [1]}, {"a": [1, 2]}, ("a", [1], [1, 2])),
        ({"a": "1"}, {"a": 1}, ("a", "1", 1)),
        ({"a": None}, {"a": 0}, ("a", None, 0)),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, ("a", 1, 2)),
        ({"a": 1}, {"a": 1.0}, None),
        (math.inf, math.inf, None),
    ],
)
def test_the_first_difference_is_named(was, now, found):
    assert difference(was, now) == found


def test_numbers_within_the_tolerance_are_equal():
    assert difference([1.0, 1e-10], [1 + 1e-10, 0], "x", tolerance=1e-9) is None
    assert difference([1.0], [1 + 1e-8], "x", tolerance=1e-9) == ("x[0]", 1.0, 1 + 1e-8)


@given(NESTED, NESTED)
def test_values_differ_exactly_where_they_are_unequal(was, now):
    assert difference(was, was) is None
    # A missing key and None are one.
    assert (difference(was, now) is None) == (_without_none(was) == _without_none(now))


def _without_none(value):
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff"])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is damaged \(.+\): delete it$"):
        read_json(path, remedy="delete it")
    path.write_text('{"a": [1, null]}')
    assert read_json(path, remedy="") == {"a": [1, None]}
