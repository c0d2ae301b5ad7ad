# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""CPUs, cores, NUMA nodes and their memory, as the kernel tells them below /sys/devices/system.

Only CPUs that are online count. A kernel without NUMA is shown as one node 0 that has everything.
"""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.host import Host

CPUS = "/sys/devices/system/cpu"
NODES = "/sys/devices/system/node"
KIB = 1024
# Names of huge page sizes as Kubernetes writes them in hugepages-<size>.
SIZE_UNITS = ((1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki"))


def read_cpu(host: Host) -> dict[str, t.Any]:
    """Online CPUs and the physical cores they belong to."""
    online = online_cpus(host)
    nodes = cpus_of_nodes(host, online)
    node_of = {cpu: node for node, cpus in nodes.items() for cpu in cpus}
    return {"count": len(online), "online": online, "cores": _cores(host, online, node_of)}


def read_numa(host: Host, gpus: t.Sequence[t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Every NUMA node that has CPUs or memory, with its share of CPUs, memory, huge pages and GPUs (PCI addresses)."""
    nodes = cpus_of_nodes(host, online_cpus(host))
    return [
        {
            "node": node,
            "cpus": cpus,
            "memory_bytes": _memory_bytes(host, node),
            "hugepages": _hugepages(host, node),
            "gpus": [gpu["address"] for gpu in gpus if gpu["numa_node"] == node or len(nodes) == 1],
        }
        for node, cpus in nodes.items()
    ]


def online_cpus(host: Host) -> list[int]:
    """The numbers of the CPUs that are online."""
    return parse_cpu_list(host.read_value(f"{CPUS}/online") or "")


def cpus_of_nodes(host: Host, online: t.Sequence[int]) -> dict[int, list[int]]:
    """The online CPUs of every NUMA node, {0: all} on a kernel without NUMA."""
    numbers = parse_cpu_list(host.read_value(f"{NODES}/online") or "")
    if not numbers:
        return {0: list(online)}
    running = set(online)
    return {
        node: [cpu for cpu in parse_cpu_list(host.read_value(f"{NODES}/node{node}/cpulist") or "") if cpu in running]
        for node in numbers
    }


def total_memory_bytes(host: Host) -> int | None:
    """Memory the kernel manages on the whole host (MemTotal)."""
    return _mem_total(host.read_text("/proc/meminfo"))


def parse_cpu_list(text: str) -> list[int]:
    """The kernel's list format: "0-2,8" gives [0, 1, 2, 8]."""
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first_and_last = part.split("-")
        numbers.extend(range(int(first_and_last[0]), int(first_and_last[-1]) + 1))
    return numbers


def _cores(host: Host, online: t.Sequence[int], node_of: t.Mapping[int, int]) -> list[dict[str, t.Any]]:
    """One entry a core, in the order of its first CPU; only that CPU's files are read, its siblings' say the same."""
    running, seen, cores = set(online), set(), []
    for cpu in online:
        if cpu in seen:
            continue
        siblings = parse_cpu_list(host.read_value(f"{CPUS}/cpu{cpu}/topology/thread_siblings_list") or str(cpu))
        seen.update(siblings)
        cores.append(
            {
                "id": host.read_number(f"{CPUS}/cpu{cpu}/topology/core_id") or 0,
                "socket": max(host.read_number(f"{CPUS}/cpu{cpu}/topology/physical_package_id") or 0, 0),
                "numa_node": node_of.get(cpu, 0),
                "cpus": [sibling for sibling in siblings if sibling in running],
            }
        )
    return cores


def _memory_bytes(host: Host, node: int) -> int | None:
    if not host.exists(f"{NODES}/node{node}"):
        return total_memory_bytes(host)
    return _mem_total(host.read_text(f"{NODES}/node{node}/meminfo"))


def _mem_total(text: str | None) -> int | None:
    """Bytes in the line "MemTotal: 123 kB", which node files start with "Node 0"."""
    for line in (text or "").splitlines():
        words = line.split()
        if "MemTotal:" in words:
            return int(words[words.index("MemTotal:") + 1]) * KIB
    return None


def _hugepages(host: Host, node: int) -> dict[str, int]:
    """How many huge pages of each size the node has reserved: {"2Mi": 0, "1Gi": 4}."""
    folder = f"{NODES}/node{node}/hugepages"
    if not host.exists(f"{NODES}/node{node}"):
        folder = "/sys/kernel/mm/hugepages"
    pools = [name for name in host.names(folder) if name.startswith("hugepages-")]
    return {_size_name(pool): host.read_number(f"{folder}/{pool}/nr_hugepages") or 0 for pool in pools}


def _size_name(pool: str) -> str:
    """ "hugepages-2048kB" gives "2Mi"."""
    size = int(pool[len("hugepages-") : -len("kB")]) * KIB
    unit, letter = next((unit, letter) for unit, letter in SIZE_UNITS if size % unit == 0)
    return f"{size // unit}{letter}"
