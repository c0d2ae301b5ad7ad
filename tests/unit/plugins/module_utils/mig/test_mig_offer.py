# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.mig_offer import (
    Devices,
    devices_of_facts,
    devices_of_run,
    evictions,
    not_as_offered,
    offered,
    quota_findings,
)
from ansible_collections.onprem.gpu.plugins.module_utils.operator_plan import expected_gpus, missing_gpus, values

ONES = ["1g.10gb"] * 7


@pytest.mark.parametrize(
    ("gpus", "strategy", "wanted"),
    [
        pytest.param([None, None], "single", {"nvidia.com/gpu": 2}, id="whole GPUs"),
        pytest.param([None, None], "mixed", {"nvidia.com/gpu": 2}, id="whole GPUs, mixed"),
        pytest.param([ONES, None], "none", {"nvidia.com/gpu": 2}, id="none knows no slices"),
        pytest.param([ONES, ONES], "single", {"nvidia.com/gpu": 14}, id="single counts slices"),
        pytest.param([ONES, None], "single", {}, id="single wants MIG on all"),
        pytest.param([ONES, []], "single", {}, id="single wants slices on all"),
        pytest.param([ONES, ["3g.40gb"]], "single", {}, id="single wants one profile"),
        pytest.param([["1c.3g.40gb"]], "single", {}, id="single has no part of an instance"),
        pytest.param(
            [ONES[:2], ["3g.40gb", "1g.10gb+me"], None],
            "mixed",
            {
                "nvidia.com/mig-1g.10gb": 2,
                "nvidia.com/mig-3g.40gb": 1,
                "nvidia.com/mig-1g.10gb.me": 1,
                "nvidia.com/gpu": 1,
            },
            id="mixed names each",
        ),
        pytest.param([["1c.3g.40gb"] * 3, ONES], "mixed", {}, id="mixed has no part of an instance, nor anything else"),
        pytest.param([[]], "mixed", {}, id="MIG on and nothing made"),
    ],
)
def test_resources_follow_the_strategy(gpus: list[Devices], strategy: str, wanted: dict[str, int]) -> None:
    assert offered(gpus, strategy) == wanted


def test_devices_are_read_from_facts_and_from_a_run() -> None:
    facts = [{"mig_mode": "enabled", "mig_devices": ["3g.40gb"]}, {"mig_mode": "disabled", "mig_devices": []}, {}]
    assert devices_of_facts(facts) == [["3g.40gb"], None, None]
    whole = {"profile": "3g.40gb", "compute_instances": [{"slices": 3}]}
    parts = {"profile": "2g.20gb", "compute_instances": [{"slices": 1}, {"slices": 1}]}
    run = [
        {"mode": {"current": 1}, "instances": [whole, parts, {"profile": "1g.10gb", "compute_instances": []}]},
        {"mode": {"current": 0}, "instances": []},
    ]
    assert devices_of_run(run) == [["3g.40gb", "1c.2g.20gb", "1c.2g.20gb"], None]


def test_what_a_run_wrote_counts_more_than_what_was_found() -> None:
    found = {"gpus": [{"mig_mode": "disabled"}], "kubelet": {"joined": False}}
    host = {"inventory_hostname": "a", "gpu_survey_host": found}
    assert expected_gpus([host], "mixed") == {"a": {"nvidia.com/gpu": 1}}
    instance = {"profile": "7g.80gb", "compute_instances": [{"slices": 7}]}
    host["gpu_survey_mig"] = {"after": [{"mode": {"current": 1}, "instances": [instance]}]}
    assert expected_gpus([host], "mixed") == {"a": {"nvidia.com/mig-7g.80gb": 1}}
    assert expected_gpus([host]) == {"a": {"nvidia.com/gpu": 1}}


NODE = {
    "ready": True,
    "allocatable": {"cpu": "8", "nvidia.com/gpu": "0", "nvidia.com/mig-1g.10gb": "7"},
    "labels": {"nvidia.com/gfd.timestamp": "1", "nvidia.com/mig-1g.10gb.count": "7"},
}


def node(**changes: t.Any) -> dict[str, t.Any]:
    return {**NODE, **changes}


def test_a_node_that_offers_just_the_layout_is_right() -> None:
    wanted = {"nvidia.com/mig-1g.10gb": 7}
    assert not_as_offered(NODE, wanted) == []
    assert missing_gpus({"a": NODE}, {"a": wanted}, nothing_else=True) == {}


def test_resources_and_labels_of_another_layout_are_wrong() -> None:
    wanted = {"nvidia.com/mig-3g.40gb": 2}
    assert missing_gpus({"a": NODE}, {"a": wanted}) == {"a": "offers no nvidia.com/mig-3g.40gb yet, wanted 2"}
    assert missing_gpus({"a": NODE}, {"a": wanted}, nothing_else=True)["a"] == (
        "offers no nvidia.com/mig-3g.40gb yet, wanted 2 and still offers 7 nvidia.com/mig-1g.10gb"
        " and has label nvidia.com/mig-1g.10gb.count=7, wanted none"
        " and has label nvidia.com/mig-3g.40gb.count=missing, wanted 2"
    )


def test_labels_are_asked_for_where_feature_discovery_writes_them() -> None:
    assert not_as_offered(node(labels={}), {"nvidia.com/mig-1g.10gb": 7}) == []


def test_who_goes_is_the_way_that_the_planner_names() -> None:
    blockers = [
        {"enough": True, "pods": ["b/two", "a/one"], "others": ["process 7 (x)"]},
        {"enough": True, "pods": ["a/one"], "others": []},
        {"enough": False, "pods": ["c/three"], "others": []},
    ]
    assert evictions(blockers) == {"pods": ["a/one", "b/two"], "others": ["process 7 (x)"]}


def quota(namespace: str, **hard: str) -> dict[str, t.Any]:
    named = {key.replace("_", "/").replace("mig1", "mig-1g.10gb"): value for key, value in hard.items()}
    return {"metadata": {"namespace": namespace, "name": "q"}, "spec": {"hard": named}}


def test_quotas_that_match_nothing_and_resources_without_a_limit_are_told() -> None:
    quotas = [
        quota("vision", **{"requests.nvidia.com/gpu": "8", "requests.cpu": "8"}),
        quota("speech", **{"requests.nvidia.com/gpu": "0", "requests.nvidia.com/mig-1g.10gb": "2"}),
        quota("web", **{"requests.cpu": "8"}),
    ]
    found = quota_findings(quotas, {"a": NODE})
    assert [(one["check"], one["value"], one["severity"]) for one in found] == [
        ("quota_matches_nothing", "nvidia.com/gpu: 8", "warning"),
        ("quota_misses_resource", "nvidia.com/mig-1g.10gb", "warning"),
    ]
    assert "vision" in found[0]["message"]
    assert "nodes offer nvidia.com/mig-1g.10gb" in found[0]["message"]


def test_the_operators_own_mig_manager_is_off_where_a_host_has_a_layout() -> None:
    assert "migManager" not in values([{"inventory_hostname": "a", "gpu_mig_layout": ""}])
    assert values([{"inventory_hostname": "a", "gpu_mig_layout": "all-balanced"}])["migManager"] == {"enabled": False}
