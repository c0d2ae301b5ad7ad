# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kubelet's resource managers on one host: reserved CPUs and memory from the measured topology.

    refusals(host, wishes) -> list[Finding]     every reason why the wishes cannot be met on this host; no error in it
    = plan() succeeds
    plan(host, wishes) -> dict                  {configuration, reserved_cpus, checkpoints}; raises PlanError with the
    refusals

`host` is the registered result of onprem.gpu.gpu_info (gpu_survey_host); only CPU, NUMA, PCI and kubelet.distribution
are read. `wishes` is `gpu_kubelet_wishes` of roles/gpu_kubelet/vars/main.yml: the role's variables without their
prefix (cpu_manager_policy, cpu_manager_policy_options, memory_manager_policy, topology_manager_policy,
topology_manager_policy_options, topology_manager_scope, reserved_cores, reserved_cpus, kube_reserved_memory,
system_reserved_memory, eviction_hard, configuration). Finding: see findings.py.

Rules and their sources: KubeletConfiguration v1beta1 (kubernetes/kubelet config/v1beta1/types.go), its validation
(pkg/kubelet/apis/config/validation/validation.go), pkg/kubelet/cm/{cpumanager,memorymanager,topologymanager}, read at
v1.37.
"""

from __future__ import annotations

import math
import re
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.findings import Finding, PlanError, errors, finding
from ansible_collections.onprem.gpu.plugins.module_utils.numa import (
    Node,
    cores_to_reserve,
    cpu_list,
    cpus_from_list,
    reserved_cores,
    reserved_memory_mib,
)

CHOICES = {
    "cpu_manager_policy": ("none", "static"),
    "memory_manager_policy": ("None", "Static"),
    "topology_manager_policy": ("none", "best-effort", "restricted", "single-numa-node"),
    "topology_manager_scope": ("container", "pod"),
}
# Setting one of these replaces the kubelet's whole default map, so all of them are written.
EVICTION_HARD_DEFAULTS = {
    "memory.available": "100Mi",
    "nodefs.available": "10%",
    "nodefs.inodesFree": "5%",
    "imagefs.available": "15%",
    "imagefs.inodesFree": "5%",
}
NUMA_NODES_WITHOUT_OPTION = 8  # the topology manager's own limit
CPU_STATE = "/var/lib/kubelet/cpu_manager_state"
MEMORY_STATE = "/var/lib/kubelet/memory_manager_state"
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|k|M|G|T|)")
BYTES = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def refusals(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> list[Finding]:
    """Return what stands against these kubelet settings on this host."""
    return [
        *_choice_refusals(wishes),
        *_quantity_refusals(wishes),
        *_cpu_refusals(host, wishes),
        *_memory_refusals(host, wishes),
        *_topology_refusals(wishes),
    ]


def plan(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return configuration (a complete KubeletConfiguration), reserved_cpus (a CPU list) and checkpoints of the state
    document.

    Raises PlanError when refusals() has an error.
    """
    against = errors(refusals(host, wishes))
    if against:
        raise PlanError(against)
    reserved = _reserved_cpus(host, wishes)
    configuration = _configuration(host, wishes, reserved)
    return {
        "configuration": configuration,
        "reserved_cpus": cpu_list(reserved),
        "checkpoints": _checkpoints(configuration),
    }


def topology(host: t.Mapping[str, t.Any]) -> list[Node]:
    """Return the host's NUMA nodes with their cores, memory and number of GPUs."""
    return [
        Node(
            number=node["node"],
            cores=tuple(tuple(core["cpus"]) for core in host["cpu"]["cores"] if core["numa_node"] == node["node"]),
            memory_mib=(node["memory_bytes"] or 0) // BYTES["Mi"],
            gpus=len(node["gpus"]),
        )
        for node in host["numa"]
    ]


# --- the configuration ------------------------------------------------------------------------------------------------


def _configuration(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any], reserved: list[int]) -> dict[str, t.Any]:
    configuration = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cpuManagerPolicy": wishes["cpu_manager_policy"],
        "memoryManagerPolicy": wishes["memory_manager_policy"],
        "topologyManagerPolicy": wishes["topology_manager_policy"],
        "topologyManagerScope": wishes["topology_manager_scope"],
        "kubeReserved": {"memory": wishes["kube_reserved_memory"]},
        "systemReserved": {"memory": wishes["system_reserved_memory"]},
        "evictionHard": {**EVICTION_HARD_DEFAULTS, **(wishes.get("eviction_hard") or {})},
    }
    if reserved:
        configuration["reservedSystemCPUs"] = cpu_list(reserved)
    options = _texts(wishes.get("cpu_manager_policy_options"))
    if options:
        configuration["cpuManagerPolicyOptions"] = options
    options = {**_numa_limit(host, wishes), **_texts(wishes.get("topology_manager_policy_options"))}
    if options:
        configuration["topologyManagerPolicyOptions"] = options
    if wishes["memory_manager_policy"] == "Static":
        configuration["reservedMemory"] = [
            {"numaNode": node, "limits": {"memory": f"{mib}Mi"}}
            for node, mib in reserved_memory_mib(topology(host), _reserved_mib(host, wishes)).items()
        ]
    return {**configuration, **(wishes.get("configuration") or {})}


def _texts(options: t.Mapping[str, t.Any] | None) -> dict[str, str]:
    """Option values are strings in the API; YAML's true must arrive as "true"."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in (options or {}).items()
    }


def _numa_limit(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> dict[str, str]:
    count = len(host["numa"])
    if wishes["topology_manager_policy"] == "none" or count <= NUMA_NODES_WITHOUT_OPTION:
        return {}
    return {"max-allowable-numa-nodes": str(count)}


def _checkpoints(configuration: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """The managers' state files must fit the configuration: a kubelet does not start with one that does not.

    The CPU manager's names its policy. The static memory manager's tells what each NUMA node keeps for the system too,
    and is there under no other policy.
    """
    return [
        _checkpoint(CPU_STATE, "policyName", configuration["cpuManagerPolicy"]),
        _checkpoint(MEMORY_STATE, *_memory_checkpoint(configuration)),
    ]


def _memory_checkpoint(configuration: t.Mapping[str, t.Any]) -> tuple[str, t.Any]:
    if configuration["memoryManagerPolicy"] != "Static":
        return "policyName", configuration["memoryManagerPolicy"]
    first = configuration["reservedMemory"][0]
    key = f"machineState.{first['numaNode']}.memoryMap.memory.systemReserved"
    return key, _bytes(first["limits"]["memory"])


def _checkpoint(path: str, key: str, value: t.Any) -> dict[str, t.Any]:
    return {"path": path, "key": key, "value": value, "service": "kubelet.service", "disrupts": "kubelet"}


# --- reserved CPUs ----------------------------------------------------------------------------------------------------


def _reserved_cpus(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> list[int]:
    if wishes.get("reserved_cpus"):
        return cpus_from_list(wishes["reserved_cpus"])
    return sorted(cpu for core in reserved_cores(topology(host), _core_count(host, wishes)) for cpu in core)


def _core_count(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> int:
    wish = wishes["reserved_cores"]
    return cores_to_reserve(topology(host)) if wish == "auto" else int(wish)


def _cpu_refusals(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> list[Finding]:
    if wishes.get("reserved_cpus"):
        return _cpu_list_refusals(host, wishes)
    wish = str(wishes["reserved_cores"])
    total = sum(len(node.cores) for node in topology(host))
    smallest = 1 if wishes["cpu_manager_policy"] == "static" else 0
    if wish == "auto" and total > 1:
        return []
    if wish.isdigit() and smallest <= int(wish) < total:
        return []
    if wish == "0":
        text = "The static CPU manager does not start with 0 reserved cores."
    elif wish.isdigit() or wish == "auto":
        text = f"{wish} reserved cores leave none for pods: the host has {total}."
    else:
        text = f"{wish} is not a number of cores."
    return [
        finding(
            check="kubelet_reserved_cpus",
            value=wish,
            message=text,
            allowed=f"auto or {smallest} to {total - 1}" if total > 1 else "no static CPU manager and 0",
            variable="gpu_kubelet_reserved_cores",
        )
    ]


def _cpu_list_refusals(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> list[Finding]:
    wish = wishes["reserved_cpus"]
    cores = [core for node in topology(host) for core in node.cores]
    present = {cpu for core in cores for cpu in core}

    def refusal(message: str, severity: str = "error") -> list[Finding]:
        return [
            finding(
                check="kubelet_reserved_cpus",
                value=wish,
                message=message,
                allowed=f"some but not all of {cpu_list(present)}, whole cores",
                variable="gpu_kubelet_reserved_cpus",
                severity=severity,
            )
        ]

    try:
        reserved = set(cpus_from_list(wish))
    except ValueError:
        return refusal(f"{wish} is not a CPU list such as 0-1,64-65.")
    if reserved - present:
        return refusal(f"Reserved CPUs {cpu_list(reserved - present)} do not exist: the host has {cpu_list(present)}.")
    if not present - reserved:
        return refusal(f"Reserved CPUs {wish} leave none for pods: the host has {cpu_list(present)}.")
    broken = [core for core in cores if 0 < len(reserved.intersection(core)) < len(core)]
    if broken:
        pairs = " ".join(cpu_list(core) for core in broken)
        return refusal(
            f"Reserved CPUs {wish} tear cores apart; threads that share a core: {pairs}.", severity="warning"
        )
    return []


# --- reserved memory --------------------------------------------------------------------------------------------------


def _reserved_mib(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> int:
    """kubeReserved + systemReserved + the hard eviction threshold: what reservedMemory has to add up to."""
    return sum(_memory_parts(host, wishes).values()) // BYTES["Mi"]


def _memory_parts(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> dict[str, int]:
    """Return {variable: bytes}; raises ValueError for what is no quantity."""
    eviction = {**EVICTION_HARD_DEFAULTS, **(wishes.get("eviction_hard") or {})}["memory.available"]
    return {
        "gpu_kubelet_kube_reserved_memory": _bytes(wishes["kube_reserved_memory"]),
        "gpu_kubelet_system_reserved_memory": _bytes(wishes["system_reserved_memory"]),
        "gpu_kubelet_eviction_hard": _bytes(eviction),
    }


def _bytes(quantity: t.Any) -> int:
    match = QUANTITY.fullmatch(str(quantity))
    if match is None:
        raise ValueError(quantity)
    return math.ceil(float(match[1]) * BYTES[match[2]])


def _quantity_refusals(wishes: t.Mapping[str, t.Any]) -> list[Finding]:
    wanted = {
        "gpu_kubelet_kube_reserved_memory": wishes["kube_reserved_memory"],
        "gpu_kubelet_system_reserved_memory": wishes["system_reserved_memory"],
        "gpu_kubelet_eviction_hard": {**EVICTION_HARD_DEFAULTS, **(wishes.get("eviction_hard") or {})}[
            "memory.available"
        ],
    }
    return [refusal for variable, value in wanted.items() for refusal in _quantity_refusal(variable, value, wishes)]


def _quantity_refusal(variable: str, value: t.Any, wishes: t.Mapping[str, t.Any]) -> list[Finding]:
    match = QUANTITY.fullmatch(str(value))
    static = wishes["memory_manager_policy"] == "Static"
    if match and not (static and _bytes(value) % BYTES["Mi"]):
        return []
    if not static and variable == "gpu_kubelet_eviction_hard" and re.fullmatch(r"\d+(\.\d+)?%", str(value)):
        return []
    return [
        finding(
            check="kubelet_reserved_memory",
            value=value,
            message=f"{value} is not an amount of memory" + (" in whole MiB." if match else "."),
            allowed="such as 2Gi or 512Mi",
            variable=variable,
        )
    ]


def _memory_refusals(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> list[Finding]:
    try:
        parts = _memory_parts(host, wishes)
    except ValueError:
        return []  # said by _quantity_refusals, or a percentage, which only the kubelet can turn into bytes
    wanted = sum(parts.values()) // BYTES["Mi"]
    present = sum(node.memory_mib for node in topology(host) if node.cores)
    if wanted < present and (wanted or wishes["memory_manager_policy"] != "Static"):
        return []
    return [
        finding(
            check="kubelet_reserved_memory",
            value=f"{wanted}Mi",
            message=f"Reserved memory and eviction threshold add up to {wanted} MiB: the host has {present} MiB.",
            allowed=f"1 to {present - 1} MiB in all",
            variable=" + ".join(parts),
        )
    ]


# --- policies ---------------------------------------------------------------------------------------------------------


def _choice_refusals(wishes: t.Mapping[str, t.Any]) -> list[Finding]:
    """Spelling counts for the kubelet, upper and lower case too: it exits on any other word."""
    return [
        finding(
            check="kubelet_policy_known",
            value=wishes[name],
            message=f"{wishes[name]} is not a {name.replace('_', ' ')} the kubelet knows.",
            allowed=", ".join(choices),
            variable=f"gpu_kubelet_{name}",
        )
        for name, choices in CHOICES.items()
        if wishes[name] not in choices
    ]


def _topology_refusals(wishes: t.Mapping[str, t.Any]) -> list[Finding]:
    options = _texts(wishes.get("cpu_manager_policy_options"))
    found = []
    if options and wishes["cpu_manager_policy"] != "static":
        found.append(
            finding(
                check="kubelet_cpu_manager_policy_options",
                value=", ".join(options),
                message="CPU manager policy options have no effect without the static policy.",
                allowed="{} or gpu_kubelet_cpu_manager_policy: static",
                variable="gpu_kubelet_cpu_manager_policy_options",
                severity="warning",
            )
        )
    if options.get("align-by-socket") == "true" and wishes["topology_manager_policy"] == "single-numa-node":
        found.append(
            finding(
                check="kubelet_cpu_manager_policy_options",
                value="align-by-socket",
                message="The kubelet refuses align-by-socket together with topology manager policy single-numa-node.",
                allowed="one of the two",
                variable="gpu_kubelet_cpu_manager_policy_options",
            )
        )
    return found
