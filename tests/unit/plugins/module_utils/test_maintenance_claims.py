# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which nodes may be taken out of service next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_claims import (
    Amount,
    ClaimError,
    Member,
    Rules,
    foreign_holders,
    parse_amount,
    plan_claims,
)
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_state import Failure, Standing

RUN = "run-a"


def member(name, state="", run=RUN, *, ready=True, cordoned=False, rack=None, **standing):
    error = Failure("evicting", "failed", "x") if state == "failed" else None
    labels = {"rack": rack} if rack else {}
    own = Standing(state=state, run=run if state else "", error=error, **standing)
    return Member(name, own, ready, cordoned, labels)


def fleet(*members):
    return {each.name: each for each in members}


def plan(members, limit=1, *, names=None, failures=9, announced=(), started=0, **rules):
    targets = dict.fromkeys(names or members, "t1")
    return plan_claims(
        members, targets, Rules(Amount(limit), Amount(failures), **rules), RUN, announced=announced, started=started
    )


# --- amounts ---


@pytest.mark.parametrize(
    ("text", "total", "amount"),
    [("1", 10, 1), ("7", 3, 7), ("25%", 7, 1), ("25%", 8, 2), ("10%", 3, 1), ("100%", 5, 5), (" 2 ", 9, 2)],
)
def test_percentages_are_rounded_down_and_never_less_than_one(text, total, amount):
    assert parse_amount(text, "max_unavailable").of(total) == amount


@pytest.mark.parametrize("text", ["0", "-1", "0%", "101%", "1.5", "ten", "", "%", "5 %"])
def test_what_is_no_amount_is_named_with_its_option(text):
    with pytest.raises(ClaimError, match=r"max_failures is .*allowed is a whole number from 1"):
        parse_amount(text, "max_failures")


# --- slots ---


def test_everything_that_is_out_counts_whoever_took_it_out():
    members = fleet(
        member("a"),
        member("b", cordoned=True),
        member("c", ready=False),
        member("d", "evicting"),
        member("e", "evicting", run="other"),
        member("f", "failed", cordoned=True),
    )
    found = plan(members, 6, names=["a"])
    assert found.unavailable == {
        "b": "cordoned",
        "c": "NotReady",
        "d": "in maintenance",
        "e": "in maintenance",
        "f": "cordoned",
    }
    assert (found.chosen, plan(members, 5, names=["a"]).chosen) == (["a"], [])


def test_a_node_that_is_out_already_takes_no_further_slot_but_does_not_jump_the_limit():
    members = fleet(member("a"), member("b", cordoned=True))
    assert plan(members, 1).chosen == ["b"]
    assert plan(fleet(*members.values(), member("c", "evicting")), 1).chosen == []


def test_announced_nodes_count_and_come_first():
    members = fleet(member("a"), member("b"), member("c"))
    assert plan(members, 1, announced=["c"]).chosen == ["c"]
    assert plan(members, 1, names=["a", "b"], announced=["c"]).chosen == []


states = st.sampled_from(["", "", "", "claimed", "evicting", "failed"])
nodes = st.builds(
    lambda state, ready, cordoned, rack: (state, ready, cordoned, rack),
    states,
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, "r1", "r2"]),
)


@given(st.lists(nodes, min_size=1, max_size=8), st.integers(1, 8), st.booleans(), st.booleans())
def test_the_limit_holds_and_no_slot_is_wasted(drawn, limit, batches, gangs):
    members = fleet(
        *(
            member(f"n{number}", state, ready=ready, cordoned=cordoned, rack=rack)
            for number, (state, ready, cordoned, rack) in enumerate(drawn)
        )
    )
    gangs = gangs and batches
    rules = {"batch_label": "rack" if batches else "", "gang_aware": gangs, "allow_not_ready": True}
    try:
        found = plan(members, limit, **rules)
    except ClaimError:
        assert gangs
        return
    out = {name for name, each in members.items() if each.out}
    assert not found.chosen or len(out | set(found.chosen)) <= limit
    assert sorted([*found.chosen, *found.remaining, *found.skipped]) == sorted(members)
    if not batches:
        for name in found.remaining:
            assert len(out | {*found.chosen, name}) > limit
    elif gangs:
        domains = {members[name].labels.get("rack") or name for name in found.chosen}
        assert not any((members[name].labels.get("rack") or name) in domains for name in found.remaining)
    else:
        active = {members[name].labels.get("rack") or name for name in members if members[name].standing.active}
        taken = {members[name].labels.get("rack") or name for name in found.chosen}
        assert len(taken) <= 1 or taken <= active
        assert not active or taken <= active
    assert [name for batch in found.batches for name in batch][: len(found.chosen)] == found.chosen
    assert len({name for batch in found.batches for name in batch}) == sum(map(len, found.batches))


# --- batches ---


def racks():
    return fleet(*(member(f"n{number}", rack="r1" if number % 2 else "r2") for number in range(6)))


def test_batches_go_rack_by_rack_in_the_order_asked_for():
    found = plan(racks(), 2, names=["n1", "n0", "n2", "n3", "n5", "n4"], batch_label="rack")
    assert found.chosen == ["n1", "n3"]
    assert found.batches == [["n1", "n3"], ["n5"], ["n0", "n2"], ["n4"]]


def test_another_rack_waits_until_the_first_is_back():
    members = {**racks(), "n1": member("n1", "rebooting", rack="r1")}
    assert plan(members, 6, batch_label="rack").chosen == ["n3", "n5"]
    assert plan(members, 6, names=["n0"], batch_label="rack").chosen == []


def test_gangs_go_as_a_whole_and_as_many_as_fit():
    assert plan(racks(), 5, batch_label="rack", gang_aware=True).batches == [["n0", "n2", "n4"], ["n1", "n3", "n5"]]
    assert len(plan(racks(), 6, batch_label="rack", gang_aware=True).chosen) == 6


def test_the_rest_of_a_gang_that_a_crash_left_behind_comes_first():
    members = {**racks(), "n1": member("n1", "claimed", rack="r1")}
    assert plan(members, 3, batch_label="rack", gang_aware=True).chosen == ["n3", "n5"]


def test_a_gang_that_can_never_fit_is_refused_by_name():
    with pytest.raises(ClaimError, match=r"3 nodes of rack=r2 have to go together .*max_unavailable allows 2"):
        plan(racks(), 2, batch_label="rack", gang_aware=True)


def test_a_node_without_the_label_is_its_own_batch():
    members = fleet(member("a"), member("b"), member("c", rack="r1"))
    assert plan(members, 3, batch_label="rack").batches == [["a"], ["b"], ["c"]]


# --- who is not claimed ---


@pytest.mark.parametrize(
    ("each", "why"),
    [
        (member("a", "evicting", run="other"), "orphaned"),
        (member("a", "evicting"), "in_maintenance"),
        (member("a", "failed"), "failed"),
        (member("a", "failed", run="other"), "orphaned"),
        (member("a", achieved="t1"), "target_met"),
        (member("a", "rolled-back", target="t1"), "rolled_back"),
        (member("a", ready=False), "not_ready"),
        (member("a", "evicting", damage="cut"), "unreadable"),
        (Member("a", Standing(), True, False, {}, ("kured reboots it",)), "held"),
    ],
)
def test_the_reason_of_each_skipped_node_is_told(each, why):
    found = plan(fleet(each), 9)
    assert (found.chosen, found.skipped["a"].split(":")[0]) == ([], why)


@pytest.mark.parametrize(
    ("each", "options"),
    [
        (member("a", achieved="t1"), {"force": True}),
        (member("a", "rolled-back", target="t1"), {"force": True}),
        (member("a", "rolled-back", run="other", target="t0"), {}),
        (member("a", achieved="t0"), {}),
        (member("a", ready=False), {"allow_not_ready": True}),
    ],
)
def test_what_may_be_claimed_all_the_same(each, options):
    assert plan(fleet(each), 9, **options).chosen == ["a"]


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("labels", "nvidia.com/gpu-driver-upgrade-state", "drain-required"),
        ("labels", "dgxc.nvidia.com/nvsentinel-state", "quarantined"),
        ("annotations", "weave.works/kured-reboot-in-progress", ""),
        ("annotations", "onprem.gpu/partition", "{}"),
        ("annotations", "machineconfiguration.openshift.io/desiredDrain", "drain-1"),
    ],
)
def test_other_tools_at_work_are_noticed(part, key, value):
    [holder] = foreign_holders({"metadata": {part: {key: value}}, "spec": {}})
    assert key in holder


def test_the_autoscalers_taint_is_noticed():
    taints = [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]
    assert len(foreign_holders({"metadata": {}, "spec": {"taints": taints}})) == 1


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"labels": {"nvidia.com/gpu-driver-upgrade-state": "upgrade-done"}},
        {"labels": {"nvidia.com/gpu-driver-upgrade-state": "upgrade-required"}},
        {
            "annotations": {
                "machineconfiguration.openshift.io/desiredDrain": "uncordon-1",
                "machineconfiguration.openshift.io/lastAppliedDrain": "uncordon-1",
            }
        },
    ],
)
def test_other_tools_at_rest_are_no_obstacle(metadata):
    assert foreign_holders({"metadata": metadata, "spec": {}}) == []


# --- the stop rule ---


def test_nothing_more_is_claimed_after_too_many_failures():
    members = fleet(member("a"), member("b", "failed"), member("c", "rolled-back", target="t1"))
    assert plan(members, 9, failures=3).chosen == ["a"]
    found = plan(members, 9, failures=2, started=5)
    assert (found.chosen, found.failures, found.batches) == ([], ["b", "c"], [])
    assert "2 of 5 nodes failed or were rolled back (b, c)" in found.stopped


def test_failures_of_other_runs_do_not_stop_this_one():
    members = fleet(member("a"), member("b", "failed", run="other"))
    assert plan(members, 9, failures=1).chosen == ["a"]


def test_a_percentage_of_failures_is_one_of_the_nodes_started():
    members = fleet(member("a"), member("b", "failed"), member("c", "failed"))
    rules = Rules(Amount(9), Amount(10, percent=True))
    assert plan_claims(members, {"a": "t1"}, rules, RUN, started=29).stopped
    assert not plan_claims(members, {"a": "t1"}, rules, RUN, started=30).stopped
