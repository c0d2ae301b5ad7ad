# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which CPU cores and how much memory of each NUMA node are kept for the system.

Whole cores only, because a hyper-thread of a core that runs a pod is no good place for the system. Spread over the NUMA
nodes, because the system's work is there as well; nodes without a GPU give first, because a pod wants the cores next to
its GPU. Within a node the lowest core comes first: CPU 0 takes the interrupts nobody steered elsewhere.
"""

from __future__ import annotations

import math
import typing as t

CORES_PER_RESERVED_CORE = 32
CORES_OF_A_BIG_NODE = 16

Core = tuple[int, ...]


class Node(t.NamedTuple):
    """One NUMA node. cores: the CPU numbers of each core, threads together; memory in MiB; gpus: how many hang on
    it."""

    number: int
    cores: tuple[Core, ...]
    memory_mib: int
    gpus: int = 0


def cpus_from_list(text: str) -> list[int]:
    """Return the CPU numbers of a Linux CPU list ("0-1,64-65"); raise ValueError for anything else."""
    numbers: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        start, end = int(first), int(last if dash else first)
        if start > end:
            raise ValueError(f"{part} counts down")
        numbers.update(range(start, end + 1))
    return sorted(numbers)


def cpu_list(cpus: t.Iterable[int]) -> str:
    """Return CPU numbers as Linux writes them: "0-1,64-65"."""
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def cores_to_reserve(nodes: t.Sequence[Node]) -> int:
    """Return how many cores a machine of this size keeps: one in 32, at least one, and one on every big node."""
    total = sum(len(node.cores) for node in nodes)
    big = sum(len(node.cores) >= CORES_OF_A_BIG_NODE for node in nodes)
    return max(1, big, math.ceil(total / CORES_PER_RESERVED_CORE))


def reserved_cores(nodes: t.Sequence[Node], count: int) -> list[Core]:
    """Return `count` whole cores, by the rules in the head of this file.

    No node gives more than half of its cores before all nodes have given half. Raises ValueError when no core is left.
    """
    total = sum(len(node.cores) for node in nodes)
    if not 0 <= count < total:
        raise ValueError(f"{count} of {total} cores leave none for pods")
    order = _giving_order(nodes)
    return order[:count]


def reserved_memory_mib(nodes: t.Sequence[Node], total_mib: int) -> dict[int, int]:
    """Return {node number: MiB}, as even as possible, never more than a node has; nodes that give nothing are left out.

    Only nodes with CPUs count: memory of a GPU or a CXL card that shows up as a node of its own is not the system's.
    Raises ValueError when the machine has less.
    """
    left = {node.number: node.memory_mib for node in nodes if node.cores}
    if total_mib > sum(left.values()):
        raise ValueError(f"{total_mib} MiB of {sum(left.values())} MiB")
    given = dict.fromkeys(left, 0)
    while total_mib > 0:
        open_nodes = [number for number, room in left.items() if room > 0]
        for position, number in enumerate(open_nodes):
            share = min(left[number], math.ceil(total_mib / (len(open_nodes) - position)))
            given[number] += share
            left[number] -= share
            total_mib -= share
    return {number: mib for number, mib in given.items() if mib}


def _giving_order(nodes: t.Sequence[Node]) -> list[Core]:
    """All cores in the order they would be given: half of every node first, nodes without GPU before the others."""
    far = [node for node in nodes if not node.gpus]
    near = [node for node in nodes if node.gpus]
    first = [node._replace(cores=node.cores[: len(node.cores) // 2]) for node in (*far, *near)]
    second = [node._replace(cores=node.cores[len(node.cores) // 2 :]) for node in (*far, *near)]
    split = len(far)
    return [
        core
        for group in (first[:split], first[split:], second[:split], second[split:])
        for core in _turn_by_turn(group)
    ]


def _turn_by_turn(nodes: t.Sequence[Node]) -> list[Core]:
    """One core of each node in turn; the node with the lowest CPU starts."""
    queues = [sorted(node.cores) for node in nodes if node.cores]
    queues.sort(key=lambda cores: cores[0])
    longest = max(map(len, queues), default=0)
    return [cores[turn] for turn in range(longest) for cores in queues if turn < len(cores)]
