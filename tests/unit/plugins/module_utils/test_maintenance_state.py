# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Transitions of one node: what they write, when they are refused, and that they can be computed again."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_state import (
    FAILED,
    PAUSED,
    STATES,
    Advance,
    Claim,
    Declined,
    Keys,
    Run,
    abort,
    adopt,
    advance,
    claim,
    fail,
    restore,
    retry,
    roll_back,
    standing_of,
    view,
)
from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import patched

KEYS = Keys()
ME = Run("run-a", 3, "gpu")
NOW = "2026-11-26T12:00:00Z"
SWITCHES = ("nvidia.com/gpu.deploy.dcgm", "nvidia.com/gpu.deploy.device-plugin")
THEIRS = {"key": "theirs", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}


def a_node(cordoned=False, **labels):
    return {
        "metadata": {"name": "gpu-1", "labels": {SWITCHES[0]: "true", SWITCHES[1]: "false", **labels}},
        "spec": {"unschedulable": cordoned, "taints": [THEIRS]},
        "status": {"nodeInfo": {"bootID": "b1"}, "allocatable": {"nvidia.com/gpu": "8", "nvidia.com/mig-1g.5gb": "0"}},
    }


def claimed(node=None, run=ME):
    node = node or a_node()
    return patched(node, claim(node, KEYS, run, Claim("t1", NOW, {"driver": "570"}, SWITCHES)))


def step(node, to, run=ME, **options):
    return patched(node, advance(node, KEYS, run, Advance(to, NOW, **options), ready=True))


def at(*states):
    node = claimed()
    for state in states:
        if standing_of(node, KEYS).state == "rebooting":
            node = patched(node, {"status": {"nodeInfo": {"bootID": "b2"}}})
        node = step(node, state)
    return node


def looks(node):
    """What has to be given back."""
    return {
        "unschedulable": bool(node["spec"].get("unschedulable")),
        "taints": node["spec"].get("taints"),
        "labels": node["metadata"]["labels"],
    }


# --- what is written ---


def test_a_claimed_node_says_all_that_is_needed_to_go_on():
    node = claimed()
    assert node["metadata"]["labels"]["onprem.gpu/maint"] == "active"
    assert node["metadata"]["annotations"] == {
        "onprem.gpu/maint-state": "claimed",
        "onprem.gpu/maint-run": "run-a",
        "onprem.gpu/maint-token": "3",
        "onprem.gpu/maint-pool": "gpu",
        "onprem.gpu/maint-target": "t1",
        "onprem.gpu/maint-since": NOW,
        "onprem.gpu/maint-attempt": "1",
        "onprem.gpu/maint-orig": '{"allocatable":{"nvidia.com/gpu":"8"},"labels":{"nvidia.com/gpu.deploy.dcgm":"true"},'
        '"record":{"driver":"570"},"unschedulable":false}',
    }


def test_another_prefix_is_another_set_of_keys():
    keys = Keys("example.com")
    node = a_node()
    node = patched(node, claim(node, keys, ME, Claim("t1", NOW)))
    assert standing_of(node, keys).state == "claimed"
    assert standing_of(node, KEYS).state == ""
    assert set(view(node, keys)["annotations"]) == set(node["metadata"]["annotations"])


def test_the_operator_s_pods_may_come_back_to_a_node_that_proves_itself():
    """They do not tolerate our taint, and DaemonSets do not mind a cordon."""

    def is_tainted(node):
        return any(taint["key"] == KEYS.taint for taint in node["spec"]["taints"])

    assert is_tainted(at("cordoned", "evicting", "upgrading"))
    proving = at("cordoned", "evicting", "upgrading", "validating")
    assert (is_tainted(proving), proving["spec"]["unschedulable"]) == (False, True)
    assert standing_of(step(proving, "restoring"), KEYS).state == "restoring"
    assert is_tainted(patched(proving, roll_back(proving, KEYS, ME, NOW, "7 of 8 GPUs")))


@pytest.mark.parametrize("operands", [SWITCHES, ()])
@pytest.mark.parametrize("cordoned", [False, True])
def test_restored_is_what_was_found(cordoned, operands):
    before = a_node(cordoned)
    node = patched(before, claim(before, KEYS, ME, Claim("t1", NOW, {}, operands)))
    for state in ("cordoned", "waiting-jobs", "evicting", "upgrading", "validating", "restoring"):
        node = step(node, state)
    restored = patched(node, restore(node, KEYS, ME))
    assert looks(restored) == looks(before)
    assert restored["metadata"]["annotations"] == {"onprem.gpu/target": "t1"}


def test_only_what_was_running_is_paused_and_only_what_is_paused_is_resumed():
    node = at("cordoned", "evicting", "upgrading")
    assert [node["metadata"]["labels"][switch] for switch in SWITCHES] == [PAUSED, "false"]
    node = patched(
        node, {"metadata": {"labels": {SWITCHES[0]: "false"}}}
    )  # the administrator does not want it any more
    node = step(node, "validating")
    assert node["metadata"]["labels"][SWITCHES[0]] == "false"
    restored = patched(node, restore(node, KEYS, ME))
    assert restored["metadata"]["labels"][SWITCHES[0]] == "false"


def test_the_later_wish_of_a_person_counts_when_a_node_is_given_back():
    before = a_node(cordoned=True)
    node = step(claimed(before), "cordoned")
    node = patched(node, {"spec": {"unschedulable": False}})
    given_back = patched(node, abort(node, KEYS, ME, to_service=False))
    assert given_back["spec"]["unschedulable"] is False


def test_a_failed_upgrade_can_go_back_to_service_only_on_demand():
    node = at("cordoned", "evicting", "upgrading")
    node = patched(node, fail(node, KEYS, ME, NOW, "broken"))
    with pytest.raises(Declined, match=r"failed in upgrading.*abort_to_service"):
        abort(node, KEYS, ME, to_service=False)
    given_back = patched(node, abort(node, KEYS, ME, to_service=True))
    assert looks(given_back) == looks(a_node())
    assert "annotations" not in given_back["metadata"] or given_back["metadata"]["annotations"] == {}


def test_a_failed_validation_can_be_rolled_back():
    node = at("cordoned", "evicting", "upgrading", "rebooting", "validating")
    node = patched(node, fail(node, KEYS, ME, NOW, "7 of 8 GPUs"))
    node = patched(node, roll_back(node, KEYS, ME, NOW, "7 of 8 GPUs"))
    assert (standing_of(node, KEYS).state, standing_of(node, KEYS).error) == ("upgrading", None)
    assert node["metadata"]["labels"]["onprem.gpu/maint"] == "active"
    assert node["metadata"]["labels"][SWITCHES[0]] == PAUSED


def test_a_reboot_needs_a_boot_id_to_compare_with():
    node = at("cordoned", "evicting")
    node = patched(node, {"status": {"nodeInfo": None}})
    with pytest.raises(Declined, match="reports no boot id"):
        step(node, "rebooting")


# --- who may ---


def actions(run):
    """All transitions of a claimed node that may be made by its owner only."""
    return {
        "advance": lambda node: advance(node, KEYS, run, Advance("cordoned", NOW), ready=True),
        "fail": lambda node: fail(node, KEYS, run, NOW, "x"),
        "abort": lambda node: abort(node, KEYS, run, to_service=False),
        "claim": lambda node: claim(node, KEYS, run, Claim("t2", NOW)),
        "retry": lambda node: retry(node, KEYS, run, NOW),
        "restore": lambda node: restore(node, KEYS, run),
        "roll_back": lambda node: roll_back(node, KEYS, run, NOW, "x"),
    }


@pytest.mark.parametrize("name", actions(ME))
def test_the_node_of_another_run_is_left_alone(name):
    with pytest.raises(Declined, match="by run run-a") as refusal:
        actions(Run("run-b", 9, "gpu"))[name](claimed())
    assert refusal.value.reason == "conflict"


@pytest.mark.parametrize("name", actions(ME))
def test_a_node_that_was_written_under_a_later_lock_is_left_alone(name):
    with pytest.raises(Declined, match="token 3 of the lock, ours is 2") as refusal:
        actions(Run("run-a", 2, "gpu"))[name](claimed())
    assert refusal.value.reason == "conflict"


def test_a_later_process_of_the_same_run_goes_on_and_leaves_its_token():
    node = step(claimed(), "cordoned", run=Run("run-a", 5, "gpu"))
    assert standing_of(node, KEYS).token == 5


def test_adopting_under_an_older_lock_is_refused():
    with pytest.raises(Declined, match="taken over"):
        adopt(claimed(), KEYS, Run("run-b", 1, "gpu"))


@pytest.mark.parametrize("name", ["retry", "restore", "abort"])
def test_giving_back_what_was_given_back_is_nothing(name):
    assert actions(ME)[name](a_node()) is None


@pytest.mark.parametrize("name", ["advance", "fail", "roll_back"])
def test_a_node_that_nobody_claimed_is_not_worked_on(name):
    with pytest.raises(Declined, match="claim it first"):
        actions(ME)[name](a_node())


# --- what people do to annotations ---


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("state", None),
        ("state", "sleeping"),
        ("orig", None),
        ("orig", "{"),
        ("orig", '{"colour": "red"}'),
        ("token", "high"),
        ("attempt", "x"),
        ("error", "["),
    ],
)
@pytest.mark.parametrize("name", actions(ME))
def test_annotations_that_somebody_broke_stop_everything(part, value, name):
    node = patched(at("cordoned"), {"metadata": {"annotations": {KEYS.of(part): value}}})
    assert standing_of(node, KEYS).damage
    with pytest.raises(Declined, match=r"by hand|is cordoned"):
        actions(ME)[name](node) or pytest.fail("it was taken for a node without maintenance")


# --- everything, in any order ---

transitions = st.one_of(
    st.sampled_from(STATES[1:]).map(
        lambda to: functools.partial(advance, order=Advance(to, NOW), ready=True),
    ),
    st.sampled_from(STATES[1:]).map(
        lambda to: functools.partial(advance, order=Advance(to, NOW, recordon=True), ready=True),
    ),
    st.just(functools.partial(fail, now=NOW, message="x")),
    st.just(functools.partial(retry, now=NOW)),
    st.just(functools.partial(roll_back, now=NOW, why="y")),
    st.just(functools.partial(claim, order=Claim("t2", NOW, {}, SWITCHES))),
    st.just(restore),
    st.booleans().map(lambda to_service: functools.partial(abort, to_service=to_service)),
    st.just(adopt),
)
# What others do: reboot it, open it, cordon it.
events = st.sampled_from(
    [
        {"status": {"nodeInfo": {"bootID": "b7"}}},
        {"spec": {"unschedulable": False}},
        {"spec": {"unschedulable": True}},
    ]
)


@given(st.booleans(), st.lists(st.one_of(transitions, transitions, events), max_size=25))
def test_whatever_is_tried_in_whatever_order_the_original_stays_and_each_step_can_be_repeated(cordoned, tried):
    before = a_node(cordoned)
    node = claimed(before)
    original = standing_of(node, KEYS).orig
    opened = False
    for act in tried:
        if isinstance(act, dict):
            node = patched(node, act)
            opened = opened or "spec" in act
            continue
        try:
            node = patched(node, act(node, KEYS, ME))
        except Declined:
            continue
        standing = standing_of(node, KEYS)
        assert not standing.damage
        assert act(node, KEYS, ME) is None
        if standing.in_maintenance:
            assert (standing.orig.unschedulable == original.unschedulable) or opened
            assert node["metadata"]["labels"][KEYS.label] == ("failed" if standing.state == FAILED else "active")
            assert standing.state not in STATES[1:] or opened or node["spec"]["unschedulable"]
        elif not opened:
            assert looks(node) == looks(before)
        size = sum(len(key) + len(value) for key, value in node["metadata"].get("annotations", {}).items())
        assert size < 2048
