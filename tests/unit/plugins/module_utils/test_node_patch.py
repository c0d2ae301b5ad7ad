# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a patch must do to a node, for any node and any wish; and which wishes are refused with which words."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import (
    EFFECTS,
    ForeignValue,
    TaintWish,
    Wish,
    WishError,
    compute,
    node_name_problems,
    parse_wish,
    patched,
    taint_text,
    touched,
)

# Few keys and values, so that wishes and nodes meet often.
KEYS = st.sampled_from(["a", "b", "example.com/c", "nvidia.com/gpu"])
VALUES = st.sampled_from(["", "1", "2", "present"])
TEXTS = st.dictionaries(KEYS, VALUES, max_size=4)
WISHED_TEXTS = st.dictionaries(KEYS, st.none() | VALUES, max_size=4)


@st.composite
def node_taints(draw):
    identities = draw(st.lists(st.tuples(KEYS, st.sampled_from(EFFECTS)), unique=True, max_size=5))
    taints = []
    for key, effect in identities:
        taint = {"key": key, "effect": effect}
        value = draw(VALUES)
        if value:
            taint["value"] = value
        if draw(st.booleans()):
            taint["timeAdded"] = "2026-01-01T00:00:00Z"
        taints.append(taint)
    return taints


@st.composite
def taint_wishes(draw):
    wishes = []
    for key in draw(st.lists(KEYS, unique=True, max_size=4)):
        if draw(st.booleans()):
            wishes.append(TaintWish(key, draw(st.none() | st.sampled_from(EFFECTS)), present=False))
        else:
            effects = draw(st.lists(st.sampled_from(EFFECTS), unique=True, min_size=1))
            wishes += [TaintWish(key, effect, draw(VALUES)) for effect in effects]
    return tuple(wishes)


@st.composite
def nodes(draw):
    node = {"metadata": {"name": "n"}, "spec": {}}
    for part in ("labels", "annotations"):
        texts = draw(st.none() | TEXTS)
        if texts is not None:
            node["metadata"][part] = texts
    taints = draw(node_taints())
    if taints:
        node["spec"]["taints"] = taints
    if draw(st.booleans()):
        node["spec"]["unschedulable"] = True
    return node


WISHES = st.builds(
    Wish,
    labels=WISHED_TEXTS,
    annotations=WISHED_TEXTS,
    taints=taint_wishes(),
    unschedulable=st.none() | st.booleans(),
)


def satisfied(node: dict, wish: Wish) -> bool:
    """The goal, said in another way than the code says it."""
    for part, wanted in (("labels", wish.labels), ("annotations", wish.annotations)):
        current = node["metadata"].get(part) or {}
        if any(current.get(key) != value for key, value in wanted.items()):
            return False
    carried = {(taint["key"], taint["effect"]): taint.get("value", "") for taint in node["spec"].get("taints") or []}
    for taint in wish.taints:
        if taint.present and carried.get((taint.key, taint.effect)) != taint.value:
            return False
        if not taint.present and any(key == taint.key and taint.effect in (None, effect) for key, effect in carried):
            return False
    return wish.unschedulable in (None, bool(node["spec"].get("unschedulable")))


def untouched_taints(node: dict, wish: Wish) -> list[dict]:
    return [
        taint
        for taint in node["spec"].get("taints") or []
        if not any(wished.key == taint["key"] and wished.effect in (None, taint["effect"]) for wished in wish.taints)
    ]


@given(nodes(), WISHES)
def test_applying_the_patch_reaches_the_goal(node, wish):
    assert satisfied(patched(node, compute(node, wish)), wish)


@given(nodes(), WISHES)
def test_a_node_that_satisfies_the_wish_needs_no_patch(node, wish):
    assert compute(patched(node, compute(node, wish)), wish) is None
    assert (compute(node, wish) is None) == satisfied(node, wish)


@given(nodes(), WISHES)
def test_the_node_given_is_never_altered(node, wish):
    before = copy.deepcopy(node)
    patched(node, compute(node, wish))
    assert node == before


@given(nodes(), WISHES)
def test_what_others_put_there_stays_with_all_its_fields_and_its_order(node, wish):
    after = patched(node, compute(node, wish))
    assert untouched_taints(after, wish) == untouched_taints(node, wish)
    for part, wanted in (("labels", wish.labels), ("annotations", wish.annotations)):
        before = node["metadata"].get(part) or {}
        now = after["metadata"].get(part) or {}
        assert {key: now.get(key) for key in before if key not in wanted} == {
            key: value for key, value in before.items() if key not in wanted
        }
    if wish.unschedulable is None:
        assert after["spec"].get("unschedulable") == node["spec"].get("unschedulable")


@given(nodes(), WISHES)
def test_taints_that_were_there_come_first_and_in_order(node, wish):
    def identities(taints):
        return [(taint["key"], taint["effect"]) for taint in taints]

    before = identities(node["spec"].get("taints") or [])
    after = identities(patched(node, compute(node, wish))["spec"].get("taints") or [])
    kept = [identity for identity in before if identity in after]
    assert after[: len(kept)] == kept


@given(nodes(), WISHES)
def test_the_patch_names_only_what_differs(node, wish):
    patch = compute(node, wish) or {}
    for part in ("labels", "annotations"):
        current = node["metadata"].get(part) or {}
        assert all(current.get(key) != value for key, value in patch.get("metadata", {}).get(part, {}).items())
    if "taints" in patch.get("spec", {}):
        assert (patch["spec"]["taints"] or []) != (node["spec"].get("taints") or [])


@given(nodes(), WISHES)
def test_without_overwrite_a_node_is_either_refused_or_no_value_is_replaced(node, wish):
    try:
        patch = compute(node, wish, overwrite=False)
    except ForeignValue:
        return
    after = patched(node, patch)
    for part in ("labels", "annotations"):
        before, now = (each["metadata"].get(part) or {} for each in (node, after))
        assert all(before[key] == now[key] for key in before if key in now)


def test_a_value_change_keeps_time_added_and_place():
    node = {
        "metadata": {"name": "n"},
        "spec": {
            "taints": [
                {"key": "k", "effect": "NoExecute", "value": "old", "timeAdded": "2026-01-01T00:00:00Z"},
                {"key": "other", "effect": "NoSchedule"},
            ]
        },
    }
    patch = compute(node, parse_wish({"taints": [{"key": "k", "effect": "NoExecute", "value": "new"}]}))
    assert patch == {
        "spec": {
            "taints": [
                {"key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z", "value": "new"},
                {"key": "other", "effect": "NoSchedule"},
            ]
        }
    }


def test_the_refusal_names_key_and_both_values():
    node = {
        "metadata": {"name": "n", "labels": {"rack": "r1"}},
        "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]},
    }
    wish = parse_wish({"labels": {"rack": "r2"}, "taints": [{"key": "k", "effect": "NoExecute", "value": "v"}]})
    with pytest.raises(ForeignValue) as refusal:
        compute(node, wish, overwrite=False)
    assert str(refusal.value) == "label rack is 'r1', not 'r2'; taint k:NoExecute should have the value 'v'"


def test_removing_what_was_named_is_no_overwriting():
    node = {"metadata": {"name": "n", "labels": {"rack": "r1"}}, "spec": {}}
    assert compute(node, parse_wish({"labels": {"rack": None}}), overwrite=False) == {
        "metadata": {"labels": {"rack": None}}
    }


def test_a_node_without_any_taints_left_gets_the_list_removed():
    node = {"metadata": {"name": "n"}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}
    assert compute(node, parse_wish({"taints": [{"key": "k", "state": "absent"}]})) == {"spec": {"taints": None}}


# --- wishes ---


def test_the_nearer_wish_counts_key_by_key():
    common = parse_wish(
        {
            "labels": {"a": "1", "b": "1"},
            "taints": [{"key": "k", "effect": "NoSchedule"}, {"key": "l", "effect": "NoSchedule"}],
            "unschedulable": True,
        }
    )
    own = parse_wish({"labels": {"b": None}, "taints": [{"key": "k", "state": "absent"}]})
    merged = own.over(common)
    assert merged.labels == {"a": "1", "b": None}
    assert merged.taints == (TaintWish("l", "NoSchedule"), TaintWish("k", None, present=False))
    assert merged.unschedulable is True
    assert parse_wish({"unschedulable": False}).over(common).unschedulable is False


def test_whole_numbers_are_taken_as_text():
    assert parse_wish({"labels": {"count": 8}, "annotations": {"big": 10**12}}) == Wish(
        labels={"count": "8"}, annotations={"big": "1000000000000"}
    )


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"labels": {"a": True}}, ["label a", "True", "bool", "quotes"]),
        ({"labels": {"a": 1.10}}, ["label a", "1.1", "float", "quotes"]),
        ({"annotations": {"a": ["x"]}}, ["annotation a", "list"]),
        ({"labels": {"a": "two words"}}, ["label a", "'two words'", "63 characters"]),
        ({"labels": {"a": "x" * 64}}, ["label a", "at most 63"]),
        ({"labels": {"a": -1}}, ["label a", "-1", "63 characters"]),
        ({"labels": {"-a": ""}}, ["label key '-a'", "1 to 63"]),
        ({"labels": {"n" * 64: ""}}, ["label key", "1 to 63"]),
        ({"labels": {"Example.com/a": ""}}, ["'Example.com/a'", "prefix", "DNS subdomain"]),
        ({"labels": {"/a": ""}}, ["'/a'", "prefix"]),
        ({"labels": {"a/b/c": ""}}, ["'a/b/c'", "prefix"]),
        ({"labels": {3: ""}}, ["label key 3", "quotes"]),
        ({"annotations": {"a": "x" * 262144}}, ["annotations take 262145 bytes", "262144"]),
        ({"taints": [{"key": "k"}]}, ["taint k", "no effect", "NoSchedule"]),
        ({"taints": [{"key": "k", "effect": "noschedule"}]}, ["taint k", "'noschedule'", "NoSchedule"]),
        ({"taints": [{"key": "k", "effect": "NoSchedule", "value": "a b"}]}, ["taint k", "'a b'"]),
        ({"taints": [{"key": "k", "effect": "NoSchedule", "value": True}]}, ["taint k", "True", "quotes"]),
        (
            {"taints": [{"key": "k", "effect": "NoSchedule"}, {"key": "k", "state": "absent"}]},
            ["taint k", "twice"],
        ),
    ],
)
def test_what_no_server_would_take_is_refused_with_value_and_rule(raw, words):
    with pytest.raises(WishError) as error:
        parse_wish(raw, "nodes[0] (gpu-1)")
    for word in ["nodes[0] (gpu-1): ", *words]:
        assert word in str(error.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(WishError) as error:
        parse_wish({"labels": {"a": "b c", "d": True}, "taints": [{"key": "k"}]})
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(
    "raw",
    [
        {"labels": {"node-role.kubernetes.io/gpu": "", "a": "x" * 63, "A_b.c-d": "V_1.0"}},
        {"annotations": {"Example.com/a": "any text: {}\n", "b": ""}},
        {"taints": [{"key": "k", "effect": "NoSchedule"}, {"key": "k", "effect": "NoExecute", "value": "v"}]},
        {"labels": None, "taints": None},
    ],
)
def test_what_a_server_takes_is_taken(raw):
    parse_wish(raw)


@pytest.mark.parametrize("name", ["GPU-1", "gpu_1", "", "-a", "a" * 254, None])
def test_names_no_node_can_have(name):
    assert node_name_problems(name)


@pytest.mark.parametrize("name", ["gpu-1", "gpu-1.rack2.example.com", "10.0.0.1"])
def test_names_a_node_can_have(name):
    assert node_name_problems(name) == []


# --- for people ---


def test_the_view_is_limited_to_what_was_wished():
    node = {
        "metadata": {"name": "n", "labels": {"a": "1", "secret": "x"}},
        "spec": {"taints": [{"key": "k", "effect": "NoSchedule", "value": "v"}, {"key": "o", "effect": "NoExecute"}]},
    }
    wish = parse_wish(
        {"labels": {"a": "2", "b": "1"}, "taints": [{"key": "k", "state": "absent"}], "unschedulable": True}
    )
    assert touched(node, wish) == {"labels": {"a": "1"}, "taints": ["k=v:NoSchedule"], "unschedulable": False}


def test_taints_are_written_as_kubectl_writes_them():
    assert taint_text({"key": "k", "effect": "NoExecute"}) == "k:NoExecute"
    assert taint_text({"key": "k", "effect": "NoExecute", "value": "v"}) == "k=v:NoExecute"
