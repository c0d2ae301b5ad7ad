# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.findings import PlanError
from ansible_collections.onprem.gpu.plugins.module_utils.kubelet_plan import plan, refusals

MakeHost = t.Callable[..., dict]


def wishes(**other: t.Any) -> dict:
    usual = {
        "cpu_manager_policy": "static",
        "cpu_manager_policy_options": {},
        "memory_manager_policy": "Static",
        "topology_manager_policy": "best-effort",
        "topology_manager_policy_options": {},
        "topology_manager_scope": "container",
        "reserved_cores": "auto",
        "reserved_cpus": "",
        "kube_reserved_memory": "1Gi",
        "system_reserved_memory": "1Gi",
        "eviction_hard": {},
        "configuration": {},
    }
    return {**usual, **other}


def checks(found: list[dict], severity: str = "error") -> list[str]:
    return [finding["check"] for finding in found if finding["severity"] == severity]


def configuration(host: dict, **other: t.Any) -> dict:
    return plan(host, wishes(**other))["configuration"]


def test_the_configuration_is_complete_and_names_the_policies(gpu_host: MakeHost) -> None:
    made = configuration(gpu_host("H100"))
    assert (made["apiVersion"], made["kind"]) == ("kubelet.config.k8s.io/v1beta1", "KubeletConfiguration")
    assert made["cpuManagerPolicy"] == "static"
    assert made["memoryManagerPolicy"] == "Static"
    assert (made["topologyManagerPolicy"], made["topologyManagerScope"]) == ("best-effort", "container")


def test_reserved_memory_adds_up_to_what_the_kubelet_demands(gpu_host: MakeHost) -> None:
    """The kubelet's own example: 4Gi + 1Gi + 100Mi = 5220Mi."""
    host = gpu_host("H100", "H100", numa_nodes=2)
    made = configuration(host, kube_reserved_memory="4Gi", system_reserved_memory="1Gi")
    assert made["reservedMemory"] == [
        {"numaNode": 0, "limits": {"memory": "2610Mi"}},
        {"numaNode": 1, "limits": {"memory": "2610Mi"}},
    ]


def test_another_eviction_threshold_changes_the_sum_and_keeps_the_other_thresholds(gpu_host: MakeHost) -> None:
    made = configuration(gpu_host("H100"), eviction_hard={"memory.available": "500Mi"})
    assert made["reservedMemory"] == [{"numaNode": 0, "limits": {"memory": "2548Mi"}}]
    assert made["evictionHard"] == {
        "memory.available": "500Mi",
        "nodefs.available": "10%",
        "nodefs.inodesFree": "5%",
        "imagefs.available": "15%",
        "imagefs.inodesFree": "5%",
    }


def test_without_the_static_memory_manager_no_memory_is_reserved_by_node(gpu_host: MakeHost) -> None:
    assert "reservedMemory" not in configuration(gpu_host("H100"), memory_manager_policy="None")


def test_cores_are_reserved_with_both_threads_on_all_nodes(gpu_host: MakeHost) -> None:
    host = gpu_host("H100", "H100", cores_per_node=32, numa_nodes=2)
    assert configuration(host)["reservedSystemCPUs"] == "0,32,64,96"
    assert configuration(host, reserved_cores="4")["reservedSystemCPUs"] == "0-1,32-33,64-65,96-97"
    assert configuration(host, reserved_cores=4)["reservedSystemCPUs"] == "0-1,32-33,64-65,96-97"


def test_cpus_named_by_the_user_are_taken_as_they_are(gpu_host: MakeHost) -> None:
    assert configuration(gpu_host("H100"), reserved_cpus="1,5")["reservedSystemCPUs"] == "1,5"


def test_a_machine_of_two_cores_can_keep_one(gpu_host: MakeHost) -> None:
    assert configuration(gpu_host("L4", cores_per_node=2), reserved_cores="1")["reservedSystemCPUs"] == "0,2"


def test_no_reservation_is_fine_without_the_static_cpu_manager(gpu_host: MakeHost) -> None:
    made = configuration(gpu_host("L4"), cpu_manager_policy="none", reserved_cores="0")
    assert "reservedSystemCPUs" not in made


def test_option_values_reach_the_kubelet_as_text(gpu_host: MakeHost) -> None:
    made = configuration(gpu_host("L4"), cpu_manager_policy_options={"full-pcpus-only": True})
    assert made["cpuManagerPolicyOptions"] == {"full-pcpus-only": "true"}


def test_more_than_eight_numa_nodes_are_announced(gpu_host: MakeHost) -> None:
    many, few = gpu_host("L4", numa_nodes=16), gpu_host("L4", numa_nodes=8)
    assert configuration(many)["topologyManagerPolicyOptions"] == {"max-allowable-numa-nodes": "16"}
    assert "topologyManagerPolicyOptions" not in configuration(few)
    assert "topologyManagerPolicyOptions" not in configuration(many, topology_manager_policy="none")


def test_what_the_user_sets_wins(gpu_host: MakeHost) -> None:
    made = configuration(gpu_host("L4"), configuration={"maxPods": 250, "topologyManagerScope": "pod"})
    assert (made["maxPods"], made["topologyManagerScope"]) == (250, "pod")


def checkpoints(host: dict, **other: t.Any) -> list[tuple[str, str, t.Any]]:
    return [(item["path"], item["key"], item["value"]) for item in plan(host, wishes(**other))["checkpoints"]]


def test_state_files_must_name_the_policies(gpu_host: MakeHost) -> None:
    assert checkpoints(gpu_host("L4"), memory_manager_policy="None") == [
        ("/var/lib/kubelet/cpu_manager_state", "policyName", "static"),
        ("/var/lib/kubelet/memory_manager_state", "policyName", "None"),
    ]


def test_the_memory_managers_state_must_fit_the_reservation(gpu_host: MakeHost) -> None:
    host = gpu_host("L4", "L4", numa_nodes=2)
    key = "machineState.0.memoryMap.memory.systemReserved"
    assert checkpoints(host)[1] == ("/var/lib/kubelet/memory_manager_state", key, 1074 * 2**20)
    own = {"reservedMemory": [{"numaNode": 1, "limits": {"memory": "2148Mi"}}]}
    assert checkpoints(host, configuration=own)[1][1:] == (key.replace("0", "1"), 2148 * 2**20)


@pytest.mark.parametrize(
    ("other", "check", "variable"),
    [
        ({"cpu_manager_policy": "Static"}, "kubelet_policy_known", "gpu_kubelet_cpu_manager_policy"),
        ({"memory_manager_policy": "static"}, "kubelet_policy_known", "gpu_kubelet_memory_manager_policy"),
        ({"topology_manager_policy": "single"}, "kubelet_policy_known", "gpu_kubelet_topology_manager_policy"),
        ({"reserved_cores": "4"}, "kubelet_reserved_cpus", "gpu_kubelet_reserved_cores"),
        ({"reserved_cores": "0"}, "kubelet_reserved_cpus", "gpu_kubelet_reserved_cores"),
        ({"reserved_cores": "-1"}, "kubelet_reserved_cpus", "gpu_kubelet_reserved_cores"),
        ({"reserved_cores": "some"}, "kubelet_reserved_cpus", "gpu_kubelet_reserved_cores"),
        ({"reserved_cpus": "0-7"}, "kubelet_reserved_cpus", "gpu_kubelet_reserved_cpus"),
        ({"reserved_cpus": "0,8"}, "kubelet_reserved_cpus", "gpu_kubelet_reserved_cpus"),
        ({"reserved_cpus": "zero"}, "kubelet_reserved_cpus", "gpu_kubelet_reserved_cpus"),
        ({"kube_reserved_memory": "1GB"}, "kubelet_reserved_memory", "gpu_kubelet_kube_reserved_memory"),
        ({"system_reserved_memory": "1000k"}, "kubelet_reserved_memory", "gpu_kubelet_system_reserved_memory"),
        ({"eviction_hard": {"memory.available": "5%"}}, "kubelet_reserved_memory", "gpu_kubelet_eviction_hard"),
        (
            {"topology_manager_policy": "single-numa-node", "cpu_manager_policy_options": {"align-by-socket": True}},
            "kubelet_cpu_manager_policy_options",
            "gpu_kubelet_cpu_manager_policy_options",
        ),
    ],
    ids=str,
)
def test_what_would_keep_the_kubelet_from_starting_is_refused(
    gpu_host: MakeHost, other: dict, check: str, variable: str
) -> None:
    host = gpu_host("L4", cores_per_node=4)
    found = refusals(host, wishes(**other))
    assert checks(found) == [check]
    assert found[0]["variable"] == variable
    with pytest.raises(PlanError):
        plan(host, wishes(**other))


def test_reserving_all_cpus_says_what_there_is(gpu_host: MakeHost) -> None:
    (found,) = refusals(gpu_host("L4", cores_per_node=2), wishes(reserved_cores="2"))
    assert found["message"] == "2 reserved cores leave none for pods: the host has 2."
    assert found["allowed"] == "auto or 1 to 1"
    (found,) = refusals(gpu_host("L4", cores_per_node=2), wishes(reserved_cpus="0-3"))
    assert found["message"] == "Reserved CPUs 0-3 leave none for pods: the host has 0-3."


def test_more_reserved_memory_than_there_is_says_what_there_is(gpu_host: MakeHost) -> None:
    (found,) = refusals(gpu_host("L4", memory_gib=2), wishes())
    assert (found["check"], found["value"]) == ("kubelet_reserved_memory", "2148Mi")
    assert "the host has 2048 MiB" in found["message"]


def test_torn_cores_are_a_warning(gpu_host: MakeHost) -> None:
    found = refusals(gpu_host("L4"), wishes(reserved_cpus="0-1"))
    assert (checks(found), checks(found, "warning")) == ([], ["kubelet_reserved_cpus"])


def test_a_percentage_is_fine_where_nothing_has_to_add_up(gpu_host: MakeHost) -> None:
    asked = wishes(memory_manager_policy="None", eviction_hard={"memory.available": "5%"})
    assert refusals(gpu_host("L4"), asked) == []
