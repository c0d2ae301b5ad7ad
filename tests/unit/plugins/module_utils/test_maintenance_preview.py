# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_preview import preview_lines

CLAIM = {
    "limit": 1,
    "unavailable": {"gpu-9": "cordoned"},
    "stopped": "",
    "batches": [["gpu-1"], ["gpu-2"]],
    "skipped": {"gpu-3": "target_met"},
}


def pod(name: str, verdict: str, prediction: str = "now", reasons: t.Sequence[str] = ()) -> dict[str, t.Any]:
    return {"namespace": "a", "name": name, "verdict": verdict, "prediction": prediction, "reasons": list(reasons)}


def test_order_pods_and_what_blocks_are_told() -> None:
    pods = [
        pod("one", "evict"),
        pod("two", "evict", "later"),
        pod("three", "wait:job"),
        pod("four", "refused", reasons=["unmanaged", "emptydir"]),
        pod("five", "skip:daemonset"),
    ]
    drain = {"nodes": {"gpu-1": {"pods": pods}, "gpu-2": {"pods": [pod("five", "skip:daemonset")]}}}
    assert preview_lines(CLAIM, drain) == [
        "1 may be out of service at once.",
        "Out of service already: gpu-9 (cordoned).",
        "Batch 1: gpu-1",
        "  gpu-1: 3 pods would go: a/one, a/two (when its budget allows), a/three (is waited for)",
        "  gpu-1: a/four blocks (unmanaged, emptydir)",
        "Batch 2: gpu-2",
        "  gpu-2: no pods would go",
        "Left alone: gpu-3, target_met",
    ]


def test_nodes_without_a_slot_are_told_with_their_pods() -> None:
    claim = {"limit": 1, "batches": [], "remaining": ["gpu-1"], "unavailable": {"gpu-9": "cordoned"}}
    drain = {"nodes": {"gpu-1": {"pods": [pod("one", "evict", "never")]}}}
    assert preview_lines(claim, drain)[2:] == [
        "Waiting for a slot: gpu-1",
        "  gpu-1: 1 pod would go: a/one (its budget never allows)",
    ]


def test_a_stopped_run_begins_nothing() -> None:
    lines = preview_lines({"limit": 2, "stopped": "2 of 2 nodes failed.", "batches": []}, {"nodes": {}})
    assert lines == ["2 may be out of service at once.", "Nothing would be begun: 2 of 2 nodes failed."]
