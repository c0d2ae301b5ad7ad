# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an eviction will be answered; the oracle is the API server's eviction handler, told once more."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.gpu.plugins.module_utils.disruption_budgets import (
    LATER,
    NEVER,
    NOW,
    budget_of,
    predictions,
    protecting,
)


def pdb(name="pdb", namespace="ns", labels=None, **status):
    spec = {"selector": {"matchLabels": labels or {}}}
    if policy := status.pop("policy", None):
        spec["unhealthyPodEvictionPolicy"] = policy
    generation = status.pop("generation", 1)
    return {
        "metadata": {"name": name, "namespace": namespace, "generation": generation},
        "spec": spec,
        "status": {"observedGeneration": 1, **status},
    }


def pod(*, namespace="ns", phase="Running", ready=True, deleting=False, labels=None):
    metadata = {"namespace": namespace, "name": "p0", "uid": "u0", "labels": labels or {}}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"metadata": metadata, "spec": {}, "status": {"phase": phase, "conditions": conditions}}


def server_answer(pod, pdbs):
    """What pkg/registry/core/pod/storage/eviction.go answers (its HTTP status), with its side effect on the budget."""
    if pod["status"]["phase"] in ("Succeeded", "Failed", "Pending") or "deletionTimestamp" in pod["metadata"]:
        return 201
    over = [
        each
        for each in pdbs
        if each["metadata"]["namespace"] == pod["metadata"]["namespace"]
        and each["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    ]
    if len(over) > 1:
        return 500
    return answer_under(over[0], pod) if over else 201


def answer_under(each, pod):
    status = each["status"]
    if pod["status"]["conditions"][0]["status"] != "True":
        if each["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
            return 201
        if status["currentHealthy"] >= status["desiredHealthy"] > 0:
            return 201
    if status["observedGeneration"] < each["metadata"]["generation"] or status["disruptionsAllowed"] == 0:
        return 429
    status["disruptionsAllowed"] -= 1
    return 201


some_labels = st.sampled_from([{}, {"app": "a"}, {"app": "b"}, {"app": "a", "tier": "x"}])
pods = st.builds(
    pod,
    namespace=st.sampled_from(["ns", "other"]),
    phase=st.sampled_from(["Running", "Running", "Pending", "Succeeded", "Failed"]),
    ready=st.booleans(),
    deleting=st.sampled_from([False, False, True]),
    labels=some_labels,
)
few = st.integers(0, 3)
pdbs = st.lists(
    st.builds(
        pdb,
        name=st.sampled_from(["p", "q"]),
        namespace=st.sampled_from(["ns", "other"]),
        labels=some_labels,
        policy=st.sampled_from([None, "IfHealthyBudget", "AlwaysAllow"]),
        generation=st.sampled_from([1, 1, 2]),
        disruptionsAllowed=few,
        currentHealthy=few,
        desiredHealthy=few,
        expectedPods=few,
    ),
    max_size=3,
    unique_by=lambda each: (each["metadata"]["namespace"], each["metadata"]["name"]),
)


@given(st.lists(pods, max_size=8), pdbs)
def test_predictions_are_what_the_server_answers_in_that_order(listed, objects):
    for number, each in enumerate(listed):
        each["metadata"].update(uid=f"u{number}", name=f"p{number}")
    foretold = predictions(listed, [budget_of(each) for each in objects])
    answers = {201: {NOW}, 429: {LATER, NEVER}, 500: {NEVER}}
    state = copy.deepcopy(objects)
    for each in listed:
        assert foretold[each["metadata"]["uid"]] in answers[server_answer(each, state)]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        # maxUnavailable 0, or as many wanted as there are: it can never be met
        ({"disruptionsAllowed": 0, "currentHealthy": 3, "desiredHealthy": 3, "expectedPods": 3}, NEVER),
        ({"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 2, "expectedPods": 1}, NEVER),
        # one pod is down at the moment
        ({"disruptionsAllowed": 0, "currentHealthy": 2, "desiredHealthy": 2, "expectedPods": 3}, LATER),
        # a rollout has one pod more than it should, so one may go
        ({"disruptionsAllowed": 1, "currentHealthy": 4, "desiredHealthy": 3, "expectedPods": 3}, NOW),
        # nothing is known yet
        ({}, LATER),
        ({"generation": 2, "disruptionsAllowed": 0, "desiredHealthy": 3, "expectedPods": 3}, LATER),
    ],
)
def test_a_budget_that_can_never_be_met_is_told_from_one_that_recovers(status, expected):
    assert predictions([pod()], [budget_of(pdb(**status))]) == {"u0": expected}


def test_what_one_pod_too_many_allows_is_no_promise_and_no_verdict_for_the_next():
    """During a rollout the budget that can never be met can be met once."""
    rollout = pdb(disruptionsAllowed=1, currentHealthy=4, desiredHealthy=3, expectedPods=3)
    first, second = pod(), pod()
    second["metadata"]["uid"] = "u1"
    assert predictions([first, second], [budget_of(rollout)]) == {"u0": NOW, "u1": LATER}


def test_an_unready_pod_of_a_budget_that_can_never_be_met_goes_only_where_the_budget_says_so():
    unmeetable = {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 1, "expectedPods": 1}
    broken = pod(ready=False)
    assert predictions([broken], [budget_of(pdb(**unmeetable))]) == {"u0": NEVER}
    assert predictions([broken], [budget_of(pdb(**unmeetable, policy="AlwaysAllow"))]) == {"u0": NOW}


def test_a_budget_without_selector_protects_nothing():
    without = pdb()
    del without["spec"]["selector"]
    assert protecting(pod(), [budget_of(without)]) == []
    assert len(protecting(pod(), [budget_of(pdb())])) == 1
