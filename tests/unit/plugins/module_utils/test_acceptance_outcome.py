# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node carries after its checks, and that finding the same again writes nothing."""

from __future__ import annotations

import json
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils import node_patch
from ansible_collections.onprem.gpu.plugins.module_utils.acceptance_outcome import outcome

KEY = "onprem.gpu/acceptance"
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
FIRST, LATER = "2026-11-26T11:20:00Z", "2026-11-26T12:20:00Z"


def check(name: str, passed: bool | None, message: str = "", have: str = "") -> dict[str, t.Any]:
    return {"check": name, "passed": passed, "want": "", "have": have, "message": message}


DRIVER = check("driver_version", True, have="580.173.02")
SOUND = [DRIVER, check("gpus_seen", True), check("smoke_pod", None, "not judged: busy")]
LOST = [DRIVER, check("gpus_seen", False, "the driver does not see GPU 1"), check("ecc_errors", False, "four on GPU 0")]


class Node:
    """A Node of the API that is written as the module nodes does it."""

    def __init__(self) -> None:
        self.api: dict[str, t.Any] = {"metadata": {"name": "a", "annotations": {}}, "spec": {"taints": [GPU_TAINT]}}

    def judge(
        self, found: list[dict[str, t.Any]], now: str = FIRST, severity: dict[str, str] | None = None
    ) -> dict[str, t.Any]:
        known = {"uid": "u-1", "annotations": self.api["metadata"]["annotations"]}
        told = outcome(found, severity or {}, "a", known, now)
        patch = node_patch.compute(self.api, node_patch.parse_wish(told["node"]))
        self.api = node_patch.patched(self.api, patch)
        return {**told, "written": patch is not None}

    @property
    def record(self) -> dict[str, t.Any]:
        return json.loads(self.api["metadata"]["annotations"][KEY])

    @property
    def taints(self) -> list[str]:
        return [node_patch.taint_text(taint) for taint in self.api["spec"].get("taints") or []]


def test_an_accepted_node_says_so_and_has_no_taint() -> None:
    node = Node()
    told = node.judge(SOUND)
    assert told["passed"] and (told["event"], told["past_event"]) == (None, None)
    assert node.record == {"passed": True, "driver": "580.173.02", "failed": [], "time": FIRST}
    assert node.taints == ["nvidia.com/gpu=present:NoSchedule"]


def test_a_refused_node_is_tainted_and_says_why() -> None:
    node = Node()
    told = node.judge(LOST)
    assert not told["passed"]
    assert node.record["failed"] == ["gpus_seen: the driver does not see GPU 1", "ecc_errors: four on GPU 0"]
    assert node.taints == ["nvidia.com/gpu=present:NoSchedule", "onprem.gpu/acceptance=failed:NoSchedule"]
    event = told["event"]
    assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "u-1"}
    assert event["message"].startswith("2 of 3 checks failed. gpus_seen: the driver does not see GPU 1; ecc_errors: ")
    assert (event["metadata"]["namespace"], event["firstTimestamp"]) == ("default", FIRST)


def test_finding_the_same_again_writes_nothing_on_the_node() -> None:
    for found in (SOUND, LOST):
        node = Node()
        assert node.judge(found)["written"]
        again = node.judge(found, LATER)
        assert not again["written"] and node.record["time"] == FIRST


def test_a_busy_node_that_was_idle_before_is_not_written_again() -> None:
    node = Node()
    node.judge([*SOUND[:2], check("smoke_pod", True)])
    assert not node.judge(SOUND, LATER)["written"]


def test_an_event_is_repeated_with_its_first_time() -> None:
    node = Node()
    node.judge(LOST)
    event = node.judge(LOST, LATER)["event"]
    assert (event["firstTimestamp"], event["lastTimestamp"]) == (FIRST, LATER)


def test_the_next_acceptance_clears_taint_annotation_and_event() -> None:
    node = Node()
    name = node.judge(LOST)["event"]["metadata"]
    told = node.judge(SOUND, LATER)
    assert told["past_event"]["metadata"] == name
    assert (node.record["passed"], node.record["time"]) == (True, LATER)
    assert node.taints == ["nvidia.com/gpu=present:NoSchedule"]


def test_a_taint_the_node_joined_with_goes_whatever_its_value() -> None:
    node = Node()
    node.api["spec"]["taints"].append({"key": KEY, "value": "pending", "effect": "NoSchedule"})
    node.judge(SOUND)
    assert node.taints == ["nvidia.com/gpu=present:NoSchedule"]


def test_an_annotation_somebody_broke_is_replaced() -> None:
    for broken in ("{", "[]", "3"):
        node = Node()
        node.api["metadata"]["annotations"][KEY] = broken
        node.judge(SOUND)
        assert node.record["passed"]


def test_only_errors_refuse_a_node() -> None:
    severity = {"gpus_seen": "warning", "ecc_errors": "info"}
    told = Node().judge(LOST, severity=severity)
    assert told["passed"] and told["event"] is None
    assert {one["check"]: one["severity"] for one in told["findings"]} == severity


def test_what_was_not_judged_is_told_and_never_an_error() -> None:
    told = Node().judge(SOUND, severity={"smoke_pod": "error"})
    assert [(one["check"], one["severity"], one["message"]) for one in told["findings"]] == [
        ("smoke_pod", "info", "not judged: busy")
    ]


def test_a_wish_that_may_be_the_mistake_names_its_variable() -> None:
    (found,) = Node().judge([check("driver_version", False, "driver 1 is loaded, wanted 2")])["findings"]
    assert found["variable"] == "gpu_driver_version"


def test_a_host_without_a_node_has_a_verdict_and_nothing_to_write() -> None:
    told = outcome(LOST, {}, "a", None, FIRST)
    assert (told["passed"], told["node"], told["event"]) == (False, None, None)
    assert len(told["findings"]) == 2


def test_long_messages_are_cut_where_the_api_or_kubectl_would() -> None:
    node = Node()
    event = node.judge([DRIVER, check("smoke_pod", False, "x" * 5000)])["event"]
    assert len(event["message"]) == 1024
    assert max(map(len, node.api["metadata"]["annotations"][KEY].splitlines())) < 138
