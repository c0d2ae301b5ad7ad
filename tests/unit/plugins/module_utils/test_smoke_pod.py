# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods that try GPUs: one for each resource of each Ready node, and an honest word on what became of each."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.smoke_pod import pods, reports, resources

SETTINGS = {
    "image": "example.com/smoke:1",
    "command": [],
    "namespace": "gpu-acceptance",
    "runtime_class": "",
    "timeout_seconds": 300,
    "run": "0badcafe",
}
MIXED = {"nvidia.com/gpu": "1", "nvidia.com/mig-1g.10gb": "7", "nvidia.com/mig-7g.80gb": "0", "cpu": "64"}


def node(allocatable: dict[str, str], ready: bool = True) -> dict[str, t.Any]:
    return {"ready": ready, "allocatable": allocatable}


def asked(pod: dict[str, t.Any]) -> tuple[str, dict[str, str]]:
    affinity = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    ((term,),) = [one["matchFields"] for one in affinity["nodeSelectorTerms"]]
    (container,) = pod["spec"]["containers"]
    return term["values"][0], container["resources"]["limits"]


def test_one_pod_asks_for_one_device_of_each_resource_that_a_node_offers() -> None:
    nodes = {"b": node(MIXED), "a": node({"nvidia.com/gpu": "8"}), "none": node({"cpu": "64"})}
    assert [asked(pod) for pod in pods(nodes, SETTINGS)] == [
        ("a", {"nvidia.com/gpu": "1"}),
        ("b", {"nvidia.com/gpu": "1"}),
        ("b", {"nvidia.com/mig-1g.10gb": "1"}),
    ]


def test_a_node_that_is_not_ready_gets_none() -> None:
    assert pods({"a": node(MIXED, ready=False)}, SETTINGS) == []


def test_shared_gpus_are_resources_too() -> None:
    assert resources(node({"nvidia.com/gpu.shared": "4", "example.com/gpu": "1"})) == ["nvidia.com/gpu.shared"]


def test_the_pod_reaches_every_node_and_evicts_nobody() -> None:
    (pod,) = pods({"a": node({"nvidia.com/gpu": "1"})}, SETTINGS)
    assert pod["spec"]["tolerations"] == [{"operator": "Exists"}]
    assert pod["spec"]["priorityClassName"] == "gpu-acceptance"
    assert "nodeName" not in pod["spec"], "past the scheduler it could take a device that was given to somebody"


def test_the_pod_ends_by_itself_after_a_run_that_was_killed() -> None:
    (pod,) = pods({"a": node({"nvidia.com/gpu": "1"})}, SETTINGS)
    assert SETTINGS["timeout_seconds"] < pod["spec"]["activeDeadlineSeconds"] < 400
    assert pod["spec"]["restartPolicy"] == "Never"


def test_what_is_not_set_is_left_to_image_and_cluster() -> None:
    (pod,) = pods({"a": node({"nvidia.com/gpu": "1"})}, SETTINGS)
    assert "command" not in pod["spec"]["containers"][0] and "runtimeClassName" not in pod["spec"]
    (pod,) = pods({"a": node({"nvidia.com/gpu": "1"})}, {**SETTINGS, "command": ["x"], "runtime_class": "nvidia"})
    assert (pod["spec"]["containers"][0]["command"], pod["spec"]["runtimeClassName"]) == (["x"], "nvidia")


def test_names_are_of_one_run_one_node_and_one_resource() -> None:
    nodes = {f"node-{number}.example.com": node(MIXED) for number in range(20)}
    names = {pod["metadata"]["name"] for run in ("a", "b") for pod in pods(nodes, {**SETTINGS, "run": run})}
    assert len(names) == 2 * 20 * 2
    assert pods(nodes, SETTINGS) == pods(nodes, SETTINGS), "a run asks several times which pods are its own"


# --- what became of them ---

(POD,) = pods({"a": node({"nvidia.com/gpu": "1"})}, SETTINGS)
FULL = "0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."


def became(status: dict[str, t.Any]) -> tuple[str, str]:
    (found,) = reports([POD], [{**POD, "status": status}])
    return found["state"], found["told"]


def ended(code: int, **told: str) -> list[dict[str, t.Any]]:
    return [{"state": {"terminated": {"exitCode": code, **told}}}]


def condition(kind: str, status: str, message: str, reason: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "message": message, "reason": reason}


@pytest.mark.parametrize(
    ("status", "state", "told"),
    [
        ({"phase": "Succeeded", "containerStatuses": ended(0)}, "passed", ""),
        (
            {"phase": "Failed", "containerStatuses": ended(1, reason="Error")},
            "failed",
            "it ended with exit code 1 (Error)",
        ),
        (
            {
                "phase": "Failed",
                "containerStatuses": ended(128, reason="StartError", message="unresolvable CDI devices"),
            },
            "failed",
            "it ended with exit code 128 (StartError unresolvable CDI devices)",
        ),
        (
            {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Allocate failed"},
            "failed",
            "UnexpectedAdmissionError: Allocate failed",
        ),
        (
            {"phase": "Failed", "conditions": [condition("DisruptionTarget", "True", "preempted by team-a/x")]},
            "no_verdict",
            "preempted by team-a/x",
        ),
        (
            {"phase": "Pending", "conditions": [condition("PodScheduled", "False", FULL)]},
            "no_verdict",
            f"all devices are taken by other pods (scheduler: {FULL})",
        ),
        (
            {"phase": "Pending", "conditions": [condition("PodScheduled", "False", "volume not found")]},
            "running",
            "volume not found",
        ),
        (
            {
                "phase": "Pending",
                "conditions": [condition("PodScheduled", "True", "")],
                "containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}],
            },
            "running",
            "ErrImagePull: not found",
        ),
        ({"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}, "running", "Running"),
        ({}, "running", "Pending"),
    ],
)
def test_what_became_of_a_pod(status: dict[str, t.Any], state: str, told: str) -> None:
    assert became(status) == (state, told)


def test_a_pod_that_somebody_removed_says_nothing_of_its_node() -> None:
    (found,) = reports([POD], [])
    assert (found["node"], found["resource"], found["state"]) == ("a", "nvidia.com/gpu", "no_verdict")
