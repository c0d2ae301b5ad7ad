# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Selectors decided without the API server; tests/integration/test_drain.py compares them with the server's answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.gpu.plugins.module_utils.label_selectors import (
    SelectorError,
    matches,
    parse_selector,
    selector_of,
)

KEYS = ("a", "example.com/b", "c")
VALUES = ("", "1", "x-2")
labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES))
operators = st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"])
expressions = st.lists(
    st.tuples(st.sampled_from(KEYS), operators, st.sets(st.sampled_from(VALUES), min_size=1)), min_size=1, max_size=3
)


def by_the_book(key, operator, values, carried):
    """The rules as the API's reference has them: NotIn matches what has no such label."""
    return {
        "In": key in carried and carried[key] in values,
        "NotIn": key not in carried or carried[key] not in values,
        "Exists": key in carried,
        "DoesNotExist": key not in carried,
    }[operator]


def as_text(key, operator, values):
    listed = f"({', '.join(sorted(values))})"
    return {
        "In": f"{key} in {listed}",
        "NotIn": f"{key} notin {listed}",
        "Exists": key,
        "DoesNotExist": f"!{key}",
    }[operator]


@given(expressions, labels)
def test_text_and_object_say_the_same_as_the_book(wanted, carried):
    expected = all(by_the_book(*each, carried) for each in wanted)
    as_object = {
        "matchExpressions": [
            {"key": key, "operator": operator, **({"values": sorted(values)} if "In" in operator else {})}
            for key, operator, values in wanted
        ]
    }
    text = ",".join(as_text(*each) for each in wanted)
    assert matches(selector_of(as_object), carried) is expected
    assert matches(parse_selector(text), carried) is expected


@given(labels, labels)
def test_equalities_in_all_their_spellings(wanted, carried):
    expected = all(carried.get(key) == value for key, value in wanted.items())
    assert matches(selector_of({"matchLabels": wanted}), carried) is expected
    for spelling in ("=", "==", " = "):
        if wanted:
            text = ",".join(f"{key}{spelling}{value}" for key, value in wanted.items())
            assert matches(parse_selector(text), carried) is expected
    for key, value in wanted.items():
        assert matches(parse_selector(f"{key}!={value}"), carried) is (carried.get(key) != value)


def test_an_empty_object_matches_everything():
    assert matches(selector_of({}), None)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty"),
        ("a=1,,b=2", "''"),
        ("a in 1", "'a in 1'"),
        ("a in (1", "'a in (1'"),
        ("a>5", "key"),
        ("two words", "'two words'"),
        ("a=b=c", "'a=b=c'"),
        ("-x=1", "'-x'"),
        ("a=-x", "'-x'"),
        ("a in (ok, -x)", "'-x'"),
    ],
)
def test_what_is_no_selector_is_refused_with_the_part_that_is_wrong(text, part):
    with pytest.raises(SelectorError) as error:
        parse_selector(text)
    assert part in str(error.value)
