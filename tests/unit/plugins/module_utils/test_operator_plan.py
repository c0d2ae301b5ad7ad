# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils import operator_plan

GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
REFUSED = {"key": "onprem.gpu/acceptance", "operator": "Exists", "effect": "NoSchedule"}
POOL = {"key": "pool", "value": "training", "effect": "NoExecute"}


def host(name: str, **variables: t.Any) -> dict[str, t.Any]:
    return {"inventory_hostname": name, **variables}


# --- values ---


def test_the_host_owns_driver_and_toolkit() -> None:
    found = operator_plan.values([])
    assert (found["driver"], found["toolkit"]) == ({"enabled": False}, {"enabled": False})
    assert found["cdi"] == {"enabled": True} and found["mig"] == {"strategy": "single"}


def test_operands_tolerate_the_taints_of_all_hosts_once() -> None:
    hosts = [host("a"), host("b", gpu_node_taints=[POOL]), host("c", gpu_node_taints=[{**POOL, "value": "other"}])]
    pool = {"key": "pool", "operator": "Exists", "effect": "NoExecute"}
    found = operator_plan.values(hosts)
    assert found["daemonsets"]["tolerations"] == [GPU_TAINT, REFUSED, pool]
    for part in ("worker", "master", "gc"):
        assert pool in found["node-feature-discovery"][part]["tolerations"]
    assert pool in found["operator"]["tolerations"]


def test_the_chart_s_own_tolerations_are_kept_because_helm_replaces_lists() -> None:
    keys = {one["key"] for one in operator_plan.values([])["node-feature-discovery"]["worker"]["tolerations"]}
    own = {"nvidia.com/gpu", "onprem.gpu/acceptance"}
    assert {"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"} | own == keys


def test_a_taint_that_shall_go_is_not_tolerated() -> None:
    hosts = [host("a", gpu_node_taints=[{**POOL, "state": "absent"}])]
    assert operator_plan.tolerations(hosts) == [GPU_TAINT, REFUSED]


def test_a_host_without_taints_changes_nothing() -> None:
    assert operator_plan.tolerations([host("a", gpu_node_taints=[])]) == [GPU_TAINT, REFUSED]


@pytest.mark.parametrize("taint", [{"key": "pool", "effect": "NoScedule"}, {"effect": "NoSchedule"}, {"key": "pool"}])
def test_a_wrong_taint_is_refused_with_its_host(taint: dict[str, str]) -> None:
    with pytest.raises(operator_plan.TaintError, match=r"gpu-1: gpu_node_taints .* NoSchedule, PreferNoSchedule"):
        operator_plan.values([host("gpu-1", gpu_node_taints=[taint])])


def test_what_the_user_says_wins_and_the_rest_stays() -> None:
    overrides = {"mig": {"strategy": "mixed"}, "dcgmExporter": {"enabled": False}, "daemonsets": {"tolerations": []}}
    found = operator_plan.values([], overrides=overrides)
    assert found["mig"] == {"strategy": "mixed"} and found["dcgmExporter"] == {"enabled": False}
    assert found["daemonsets"]["tolerations"] == [] and found["driver"] == {"enabled": False}


def test_merging_leaves_its_inputs_alone() -> None:
    base = {"a": {"b": 1}}
    assert operator_plan.merged(base, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert base == {"a": {"b": 1}}


# --- release ---

RELEASE = {"status": "deployed", "chart": "gpu-operator-v26.7.0", "values": {"mig": {"strategy": "single"}}}


def changes(release: dict[str, t.Any], version: str = "v26.7.0", wanted: t.Any = None) -> list[str]:
    return operator_plan.release_changes(release, version, RELEASE["values"] if wanted is None else wanted)


def test_a_release_as_wanted_differs_in_nothing() -> None:
    assert changes(RELEASE) == []
    assert changes(RELEASE, version="26.7.0") == []


def test_every_difference_is_a_line() -> None:
    wanted = {"mig": {"strategy": "mixed"}, "cdi": {"enabled": True}}
    assert changes(RELEASE, "v26.7.1", wanted) == [
        "chart: gpu-operator-v26.7.0 -> v26.7.1",
        "values.cdi.enabled: not set -> true",
        "values.mig.strategy: single -> mixed",
    ]


def test_a_value_that_is_no_longer_wanted_is_a_difference() -> None:
    assert changes(RELEASE, wanted={}) == ['values.mig: {"strategy": "single"} -> not set']


def test_a_long_value_is_cut_but_still_a_difference() -> None:
    (line,) = operator_plan.value_changes({"list": []}, {"list": ["x" * 60, "y" * 60]})
    assert line.startswith('values.list: [] -> ["xxx') and line.endswith(" ...")


def test_a_missing_release_is_all_difference() -> None:
    assert changes({}) == ["chart: none -> v26.7.0", "values.mig.strategy: not set -> single"]


@pytest.mark.parametrize("status", ["failed", "pending-install", "pending-upgrade"])
def test_an_unfinished_release_differs_although_its_values_are_as_wanted(status: str) -> None:
    assert changes({**RELEASE, "status": status}) == [f"release: {status} -> deployed"]


def test_a_version_is_not_taken_for_a_longer_one() -> None:
    assert changes(RELEASE, version="6.7.0") != [] and changes(RELEASE, version="v26.7") != []


# --- GPUs ---

FACTS = {"gpus": [{}, {}], "kubelet": {"joined": True, "node_name": "node-a"}}


def test_a_node_is_expected_to_offer_the_gpus_of_its_pci_bus() -> None:
    hosts = [host("a", gpu_survey_host=FACTS), host("not-looked-at")]
    assert operator_plan.expected_gpus(hosts) == {"node-a": {"nvidia.com/gpu": 2}}


@pytest.mark.parametrize(
    ("variables", "node"),
    [
        ({}, "a"),
        ({"gpu_node_name": "b"}, "b"),
        ({"gpu_node_name": "b", "gpu_survey_host": FACTS}, "node-a"),
        ({"gpu_node_name": "b", "gpu_survey_host": {"gpus": [], "kubelet": {"joined": False, "node_name": "x"}}}, "b"),
        ({"gpu_node_object": {"name": "c"}, "gpu_survey_host": FACTS}, "c"),
    ],
)
def test_a_node_s_name_is_the_most_certain_one(variables: dict[str, t.Any], node: str) -> None:
    assert operator_plan.node_of(host("a", **variables)) == node


def node(ready: bool = True, labels: dict[str, str] | None = None, **allocatable: str) -> dict[str, t.Any]:
    resources = {f"nvidia.com/{name}": count for name, count in allocatable.items()}
    return {"ready": ready, "labels": labels or {}, "allocatable": {"cpu": "4", **resources}}


WANTED = {"a": {"nvidia.com/gpu": 8}}


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({"a": node(gpu="8")}, None),
        ({"a": node(gpu="16")}, None),
        ({"a": node(gpu="7")}, "offers 7 nvidia.com/gpu, wanted 8"),
        ({"a": node()}, "offers no nvidia.com/gpu yet, wanted 8"),
        ({"a": node(ready=False, gpu="0")}, "offers 0 nvidia.com/gpu, wanted 8; it is not Ready"),
        ({}, "is not a node of the cluster"),
        ({"a": node(labels={"nvidia.com/gpu.deploy.operands": "false"})}, None),
        ({"a": node(labels={"nvidia.com/gpu.deploy.device-plugin": "false"})}, None),
        ({"a": node(labels={"nvidia.com/gpu.deploy.device-plugin": "true"})}, "offers no nvidia.com/gpu yet, wanted 8"),
        (
            {"a": node(labels={"nvidia.com/gpu.deploy.device-plugin": "paused-for-mig-change"}, gpu="0")},
            "offers 0 nvidia.com/gpu, wanted 8; a change of its MIG layout is going on or was interrupted, "
            "and onprem.gpu.partition ends it",
        ),
    ],
)
def test_missing_gpus_are_told_with_what_is_there(nodes: dict[str, t.Any], words: str | None) -> None:
    assert operator_plan.missing_gpus(nodes, WANTED) == ({"a": words} if words else {})


def test_a_host_without_gpus_is_content() -> None:
    assert operator_plan.missing_gpus({"a": node()}, {"a": {"nvidia.com/gpu": 0}}) == {}
