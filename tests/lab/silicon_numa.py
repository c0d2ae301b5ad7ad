# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A /sys/devices/system/node with as many NUMA nodes as a host has, on the CPUs and the memory of this machine.

The kubelet of the host lives on it, so it deals out what is really there: CPUs in contiguous runs, memory equally.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from silicon_files import link, remove_others, write_in_place

CPU_ONLINE = Path("/sys/devices/system/cpu/online")
MEMORY = Path("/proc/meminfo")
NEAR, FAR = 10, 21  # distances as two-socket servers report them
HUGE_PAGE_SIZES_KB = (2048, 1048576)


def machine_cpus() -> list[int]:
    """Return the numbers of this machine's CPUs."""
    cpus: list[int] = []
    for part in CPU_ONLINE.read_text(encoding="ascii").strip().split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def cpus_of_node(node: int, nodes: int, cpus: Sequence[int]) -> list[int]:
    """Return the share of one node; with fewer CPUs than nodes some nodes get none."""
    return [cpu for position, cpu in enumerate(cpus) if position * nodes // len(cpus) == node]


def cpu_list(cpus: Sequence[int]) -> str:
    """Format CPU numbers as the kernel does: ``0-3,8``."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def write_numa(tree: Path, nodes: int) -> None:
    """Write the tree, also where the machine itself has that many nodes.

    A virtual machine's memory may grow and shrink, and a kubelet whose memory manager is Static does not start again on
    another amount than it has noted. So a host keeps the memory it was prepared with.
    """
    tree.mkdir(parents=True, exist_ok=True)
    cpus = machine_cpus()
    everything = f"0-{nodes - 1}" if nodes > 1 else "0"
    with_cpus = [node for node in range(nodes) if cpus_of_node(node, nodes, cpus)]
    texts = dict.fromkeys(("online", "possible", "has_memory", "has_normal_memory"), everything)
    texts |= {"has_cpu": cpu_list(with_cpus), "has_generic_initiator": ""}
    for name, text in texts.items():
        write_in_place(tree / name, text + "\n")
    remove_others(tree, {*texts, *(f"node{node}" for node in range(nodes))})
    for node in range(nodes):
        _write_node(tree / f"node{node}", node, nodes, cpus_of_node(node, nodes, cpus))


def _write_node(folder: Path, node: int, nodes: int, cpus: Sequence[int]) -> None:
    folder.mkdir(exist_ok=True)
    distances = " ".join(str(NEAR if other == node else FAR) for other in range(nodes))
    mask = sum(1 << cpu for cpu in cpus)
    texts = {
        "cpulist": cpu_list(cpus),
        "cpumap": _mask(mask),
        "distance": distances,
        "meminfo": _kept(folder / "meminfo") or "\n".join(_memory(node, nodes)),
        "numastat": "\n".join(f"{name} 0" for name in ("numa_hit", "numa_miss", "numa_foreign", "interleave_hit")),
        "vmstat": "nr_free_pages 0",
    }
    for name, text in texts.items():
        write_in_place(folder / name, text + "\n")
    for size in HUGE_PAGE_SIZES_KB:
        pages = folder / "hugepages" / f"hugepages-{size}kB"
        pages.mkdir(parents=True, exist_ok=True)
        for name in ("nr_hugepages", "free_hugepages", "surplus_hugepages"):
            write_in_place(pages / name, "0\n")
    links = {f"cpu{cpu}" for cpu in cpus}
    remove_others(folder, {*texts, *links, "hugepages"})
    for cpu in cpus:
        link(folder / f"cpu{cpu}", f"../../cpu/cpu{cpu}")


def _kept(file: Path) -> str:
    return file.read_text(encoding="ascii").rstrip("\n") if file.exists() else ""


def _mask(mask: int) -> str:
    """Format a bit mask as the kernel does: groups of 32 bits, highest first."""
    groups: list[str] = []
    while mask or not groups:
        groups.append(f"{mask & 0xFFFFFFFF:08x}")
        mask >>= 32
    return ",".join(reversed(groups))


def _memory(node: int, nodes: int) -> list[str]:
    """Lines of a node's meminfo: an equal share of the machine's memory, in kB."""
    machine = {}
    for line in MEMORY.read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        machine[name] = int(rest.split()[0])
    total, free = machine["MemTotal"] // nodes, machine["MemAvailable"] // nodes
    values = {"MemTotal": total, "MemFree": free, "MemUsed": total - free, "HugePages_Total": 0, "HugePages_Free": 0}
    return [
        f"Node {node} {name + ':':<16}{value:>9}" + ("" if name.startswith("Huge") else " kB")
        for name, value in values.items()
    ]
