# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a drain says: every pod left has a reason, and nothing is told that did not happen."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.gpu.plugins.module_utils.disruption_budgets import budget_of
from ansible_collections.onprem.gpu.plugins.module_utils.drain_plan import Judgement, Manner
from ansible_collections.onprem.gpu.plugins.module_utils.drain_report import (
    MOST_NAMED_PODS,
    Account,
    blocked,
    diff_of,
    failure_reason,
    left_text,
    pods_of,
    refusals,
    state_of,
    summary,
    warnings,
)
from ansible_collections.onprem.gpu.plugins.module_utils.followed_pods import Followed, foretell, progress

GONE_SINCE = "2026-01-01T00:00:00Z"
NOW = 1767268800.0
READY = [{"type": "Ready", "status": "True"}]
PDB = {
    "metadata": {"namespace": "ns", "name": "db"},
    "spec": {"selector": {"matchLabels": {"app": "db"}}},
    "status": {"disruptionsAllowed": 0, "currentHealthy": 2, "desiredHealthy": 2, "expectedPods": 3},
}
UNMEETABLE = {**PDB, "status": {**PDB["status"], "expectedPods": 2}}
numbers = itertools.count()


def followed(verdict="evict", *reasons, node="gpu-1", labels=None, now=None, spec=None, **state):
    number = next(numbers)
    metadata = {"namespace": "ns", "name": f"p{number}", "uid": f"u{number}", "labels": labels or {}}
    if state.pop("deleting", False):
        metadata["deletionTimestamp"] = GONE_SINCE
    pod = {
        "metadata": metadata,
        "spec": {"nodeName": node, **(spec or {})},
        "status": {"phase": "Running", "conditions": READY},
    }
    planned = Judgement(verdict, reasons)
    return Followed(pod, node, planned, Judgement(now, reasons) if now else planned, **state)


def account(*pods, pdbs=(), rehearsed=False, stopped=False):
    return Account(pods, [budget_of(pdb) for pdb in pdbs], rehearsed, stopped, NOW)


let_be = st.builds(followed, st.sampled_from(["skip:daemonset", "skip:mirror"]), gone=st.booleans())
refused = st.builds(followed, st.just("refused"), st.sampled_from(["unmanaged", "emptydir"]), gone=st.booleans())
wanted_gone = st.builds(
    followed,
    st.sampled_from(["evict", "evict:finished", "wait:terminating", "wait:job"]),
    node=st.sampled_from(["gpu-1", "gpu-2"]),
    deleting=st.booleans(),
    accepted=st.booleans(),
    gone=st.booleans(),
    blocked=st.booleans(),
    obstacle=st.sampled_from(["", "", "respawning", "rule"]),
)
states = st.one_of(let_be, refused, wanted_gone)


@given(st.lists(states, max_size=6), st.booleans())
def test_a_node_is_drained_when_nothing_remains_and_what_remains_has_a_reason(pods, stopped):
    told = account(*pods, stopped=stopped)
    entries = pods_of(told)
    left = [entry for entry in entries if "message" in entry]
    assert (state_of(told) == "drained") is (left == [])
    assert all(entry["message"] for entry in left)
    assert len(left) == sum(each.remains for each in pods)
    assert told.changed is any(each.accepted for each in pods)
    if left:
        assert failure_reason(told.remaining) in ("refused", "pdb_blocked", "conflict", "timeout")
        assert left_text(told, 30)
        assert progress(pods)


@given(st.lists(states, max_size=6))
def test_the_pods_of_a_diff_are_those_that_should_go(pods):
    before, after = diff_of(account(*pods), (False, True))
    assert set(after["pods"]) <= set(before["pods"])
    assert (before["unschedulable"], after["unschedulable"]) == (False, True)
    _before, foretold = diff_of(account(*pods, rehearsed=True), (False, True))
    assert foretold["pods"] == []
    assert diff_of(account(*pods, rehearsed=True, stopped=True), (True, True))[0]["pods"] == before["pods"]


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        ([followed("refused"), followed(blocked=True)], "refused"),
        ([followed(blocked=True), followed(obstacle="respawning")], "pdb_blocked"),
        ([followed(obstacle="respawning"), followed()], "conflict"),
        ([followed("wait:terminating", deleting=True)], "timeout"),
    ],
)
def test_the_most_telling_reason_comes_first(pods, reason):
    assert failure_reason(pods) == reason


def test_refusals_are_grouped_by_reason_and_every_budget_is_named():
    both = followed("refused", "unmanaged", "emptydir")
    scratch = followed("refused", "emptydir")
    db = followed(labels={"app": "db"})
    foretell([both, scratch, db, followed("skip:mirror")], [budget_of(UNMEETABLE)])
    unmanaged, emptydir, budget = refusals([both, scratch, db])
    assert unmanaged.count("ns/p") == 1
    assert emptydir.count("ns/p") == 2
    assert "ns/db (needs 2 healthy pods of 2, has 2)" in budget


def test_many_pods_are_counted_rather_than_listed():
    [text] = refusals([followed("refused", "unmanaged") for _number in range(MOST_NAMED_PODS + 5)])
    assert text.endswith("and 5 more.")


def test_only_pods_that_were_hit_are_warned_about():
    hit = followed("evict", "unmanaged", accepted=True, gone=True)
    spared = followed("evict", "unmanaged")
    [text] = warnings(account(hit, spared), Manner())
    assert text.count("ns/p") == 1
    assert warnings(account(spared, stopped=True), Manner()) == []
    assert len(warnings(account(spared, rehearsed=True), Manner())) == 1


def test_bypassed_budgets_and_hasty_deletions_are_warned_about():
    gpu = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": 1}}}]}
    db = followed(labels={"app": "db"}, accepted=True, deleting=True, spec=gpu)
    bypassed, hasty = warnings(account(db, pdbs=[PDB]), Manner(0, disable_eviction=True))
    assert "ns/db" in bypassed
    assert "Look on the host" in hasty


def test_static_pods_with_gpus_and_stuck_pods_are_warned_about():
    static = followed("skip:mirror", "holds-gpu")
    stuck = followed("wait:terminating", now="stuck:terminating", deleting=True)
    assert len(warnings(account(static, stuck, followed("skip:mirror")), Manner())) == 2


def test_a_prediction_counts_what_goes_now_and_later():
    pods = [followed(labels={"app": "db"}), followed(), followed("wait:job"), followed("skip:daemonset")]
    foretell(pods, [budget_of(PDB)])
    told = account(*pods, pdbs=[PDB], rehearsed=True)
    assert summary(told, ["gpu-1"]) == "1 node: 3 pods would be evicted, 2 of them later"
    assert (state_of(told), told.changed) == ("waiting", True)
    assert [entry["pdb"] for entry in blocked(told)] == ["ns/db"]
    assert not account(*pods, rehearsed=True, stopped=True).changed


def test_the_summary_counts_nodes_and_pods():
    done = followed(accepted=True, gone=True)
    left = followed(node="gpu-2")
    assert summary(account(done), ["gpu-1"]) == "1 node: all drained, 1 pod evicted"
    assert summary(account(done, left), ["gpu-1", "gpu-2"]) == "2 nodes: 1 drained, 1 pod evicted"


def test_progress_is_told_for_each_node_that_is_not_done():
    pods = [
        followed(gone=True),
        followed(node="gpu-2", blocked=True),
        followed("wait:job", node="gpu-2"),
        followed(node="gpu-3"),
    ]
    assert progress(pods) == "gpu-2: 2 pods left, 1 held by a budget, 1 not to be evicted yet; gpu-3: 1 pod left"
