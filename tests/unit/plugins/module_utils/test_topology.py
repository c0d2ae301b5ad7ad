# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.topology import parse_cpu_list, read_cpu, read_numa

NO_GPUS: list[dict[str, object]] = []


def add_cpus(tree, online: str, siblings: dict[int, tuple[str, int, int]], nodes: dict[int, str]) -> None:
    """siblings: CPU -> (thread_siblings_list, core_id, physical_package_id); nodes: node -> cpulist."""
    tree.write("/sys/devices/system/cpu/online", online + "\n")
    for cpu, (threads, core, socket) in siblings.items():
        folder = f"/sys/devices/system/cpu/cpu{cpu}/topology"
        tree.write(f"{folder}/thread_siblings_list", threads + "\n")
        tree.write(f"{folder}/core_id", f"{core}\n")
        tree.write(f"{folder}/physical_package_id", f"{socket}\n")
    if nodes:
        tree.write("/sys/devices/system/node/online", ",".join(map(str, nodes)) + "\n")
    for node, cpus in nodes.items():
        folder = f"/sys/devices/system/node/node{node}"
        tree.write(f"{folder}/cpulist", cpus + "\n")
        tree.write(f"{folder}/meminfo", f"Node {node} MemTotal:       1048576 kB\nNode {node} MemFree: 1 kB\n")
        tree.write(f"{folder}/hugepages/hugepages-2048kB/nr_hugepages", "16\n")
        tree.write(f"{folder}/hugepages/hugepages-1048576kB/nr_hugepages", f"{node}\n")


TWO_SOCKETS = {0: ("0,4", 0, 0), 1: ("1,5", 1, 0), 2: ("2,6", 0, 1), 3: ("3,7", 1, 1)}


def test_two_sockets_with_two_threads_a_core(host_tree):
    add_cpus(host_tree, "0-7", TWO_SOCKETS, {0: "0-1,4-5", 1: "2-3,6-7"})
    cpu = read_cpu(host_tree.host())
    assert cpu["count"] == 8
    assert cpu["cores"] == [
        {"id": 0, "socket": 0, "numa_node": 0, "cpus": [0, 4]},
        {"id": 1, "socket": 0, "numa_node": 0, "cpus": [1, 5]},
        {"id": 0, "socket": 1, "numa_node": 1, "cpus": [2, 6]},
        {"id": 1, "socket": 1, "numa_node": 1, "cpus": [3, 7]},
    ]


def test_a_cpu_that_is_offline_belongs_to_nothing(host_tree):
    add_cpus(host_tree, "0-3,5-7", TWO_SOCKETS, {0: "0-1,4-5", 1: "2-3,6-7"})
    assert read_cpu(host_tree.host())["cores"][0]["cpus"] == [0]
    assert read_numa(host_tree.host(), NO_GPUS)[0]["cpus"] == [0, 1, 5]


def test_numa_nodes_with_memory_huge_pages_and_gpus(host_tree):
    add_cpus(host_tree, "0-7", TWO_SOCKETS, {0: "0-1,4-5", 1: "2-3,6-7"})
    gpus = [{"address": "0000:1b:00.0", "numa_node": 0}, {"address": "0000:9b:00.0", "numa_node": 1}]
    gpus.append({"address": "0000:cb:00.0", "numa_node": None})
    assert read_numa(host_tree.host(), gpus) == [
        {
            "node": 0,
            "cpus": [0, 1, 4, 5],
            "memory_bytes": 1 << 30,
            "hugepages": {"1Gi": 0, "2Mi": 16},
            "gpus": ["0000:1b:00.0"],
        },
        {
            "node": 1,
            "cpus": [2, 3, 6, 7],
            "memory_bytes": 1 << 30,
            "hugepages": {"1Gi": 1, "2Mi": 16},
            "gpus": ["0000:9b:00.0"],
        },
    ]


def test_on_one_node_every_gpu_is_there_even_without_a_node_of_its_own(host_tree):
    add_cpus(host_tree, "0-1", {0: ("0", 0, 0), 1: ("1", 1, 0)}, {0: "0-1"})
    assert read_numa(host_tree.host(), [{"address": "a", "numa_node": None}])[0]["gpus"] == ["a"]


def test_a_node_of_memory_only_has_no_cpus(host_tree):
    add_cpus(host_tree, "0-1", {0: ("0", 0, 0), 1: ("1", 1, 0)}, {0: "0-1", 2: ""})
    assert [(node["node"], node["cpus"]) for node in read_numa(host_tree.host(), NO_GPUS)] == [(0, [0, 1]), (2, [])]


def test_a_kernel_without_numa_is_one_node(host_tree):
    add_cpus(host_tree, "0-1", {}, {})
    host_tree.write("/proc/meminfo", "MemTotal:        2097152 kB\nMemFree: 5 kB\n")
    host_tree.write("/sys/kernel/mm/hugepages/hugepages-64kB/nr_hugepages", "3\n")
    assert read_numa(host_tree.host(), NO_GPUS) == [
        {"node": 0, "cpus": [0, 1], "memory_bytes": 2 << 30, "hugepages": {"64Ki": 3}, "gpus": []}
    ]
    assert [core["cpus"] for core in read_cpu(host_tree.host())["cores"]] == [[0], [1]]


@pytest.mark.parametrize(
    ("text", "numbers"), [("", []), ("0", [0]), ("0-2,8", [0, 1, 2, 8]), ("0-1,64-65", [0, 1, 64, 65])]
)
def test_cpu_lists(text, numbers):
    assert parse_cpu_list(text) == numbers
