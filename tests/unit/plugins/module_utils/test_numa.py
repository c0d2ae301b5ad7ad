# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.gpu.plugins.module_utils.numa import (
    Node,
    cores_to_reserve,
    cpu_list,
    cpus_from_list,
    reserved_cores,
    reserved_memory_mib,
)


def machine(cores_per_node: list[int], gpus: list[int] | None = None, memory_mib: int = 1000) -> list[Node]:
    """A machine with two threads a core, numbered as Linux does: all first threads, then all second ones."""
    total = sum(cores_per_node)
    nodes, first = [], 0
    for number, count in enumerate(cores_per_node):
        cores = tuple((cpu, cpu + total) for cpu in range(first, first + count))
        nodes.append(Node(number, cores, memory_mib, gpus[number] if gpus else 0))
        first += count
    return nodes


machines = st.lists(st.integers(1, 24), min_size=1, max_size=8).flatmap(
    lambda cores: st.lists(st.integers(0, 4), min_size=len(cores), max_size=len(cores)).map(
        lambda gpus: machine(cores, gpus)
    )
)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("", []), ("3", [3]), ("0-2,8", [0, 1, 2, 8]), ("8,0-1", [0, 1, 8]), ("0-1,64-65\n", [0, 1, 64, 65])],
)
def test_cpu_lists_are_read_as_linux_writes_them(text: str, cpus: list[int]) -> None:
    assert cpus_from_list(text) == cpus


@pytest.mark.parametrize("text", ["a", "3-1", "1-", "-1", "1;2"])
def test_what_is_no_cpu_list_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        cpus_from_list(text)


@given(st.sets(st.integers(0, 300)))
def test_cpu_lists_survive_being_written_and_read(cpus: set[int]) -> None:
    assert cpus_from_list(cpu_list(cpus)) == sorted(cpus)


@given(machines, st.data())
def test_reserved_are_whole_cores_and_some_are_left(nodes: list[Node], data: st.DataObject) -> None:
    present = [core for node in nodes for core in node.cores]
    count = data.draw(st.integers(0, len(present) - 1))
    reserved = reserved_cores(nodes, count)
    assert len(set(reserved)) == count
    assert set(reserved) <= set(present)


@given(machines, st.data())
def test_no_node_with_gpus_gives_while_one_without_has_more_than_half_left(
    nodes: list[Node], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, sum(len(node.cores) for node in nodes) - 1))
    reserved = set(reserved_cores(nodes, count))
    taken_near = any(node.gpus and reserved & set(node.cores) for node in nodes)
    halves_left = any(not node.gpus and len(reserved & set(node.cores)) < len(node.cores) // 2 for node in nodes)
    assert not (taken_near and halves_left)


def test_equal_nodes_give_equally_and_cpu_0_is_among_them() -> None:
    assert reserved_cores(machine([32, 32], [4, 4]), 4) == [(0, 64), (32, 96), (1, 65), (33, 97)]


def test_nodes_without_gpus_give_first() -> None:
    assert reserved_cores(machine([4, 4, 4, 4], [0, 2, 0, 2]), 4) == [(0, 16), (8, 24), (1, 17), (9, 25)]


def test_two_cores_can_give_one() -> None:
    assert reserved_cores([Node(0, ((0,), (1,)), 1000)], 1) == [(0,)]


@pytest.mark.parametrize("count", [2, 3, -1])
def test_reserving_everything_is_an_error(count: int) -> None:
    with pytest.raises(ValueError):
        reserved_cores([Node(0, ((0,), (1,)), 1000)], count)


@pytest.mark.parametrize(
    ("cores", "wanted"), [([1], 1), ([2], 1), ([8], 1), ([24], 1), ([32, 32], 2), ([48, 48], 3), ([16] * 8, 8)]
)
def test_bigger_machines_keep_more_cores(cores: list[int], wanted: int) -> None:
    assert cores_to_reserve(machine(cores)) == wanted


@given(machines, st.integers(0, 9000))
def test_reserved_memory_adds_up_exactly_and_fits(nodes: list[Node], total: int) -> None:
    available = sum(node.memory_mib for node in nodes)
    if total > available:
        with pytest.raises(ValueError):
            reserved_memory_mib(nodes, total)
        return
    reserved = reserved_memory_mib(nodes, total)
    assert sum(reserved.values()) == total
    assert all(0 < mib <= 1000 for mib in reserved.values())
    assert max(reserved.values(), default=0) - min(reserved.values(), default=0) <= 1 or len(reserved) < len(nodes)


def test_a_node_with_little_memory_gives_what_it_has() -> None:
    nodes = [Node(0, ((0,),), 100), Node(1, ((1,),), 5000)]
    assert reserved_memory_mib(nodes, 1000) == {0: 100, 1: 900}


def test_memory_of_a_gpu_that_shows_as_a_node_is_left_alone() -> None:
    assert reserved_memory_mib([Node(0, ((0,),), 5000), Node(1, (), 90000)], 1000) == {0: 1000}
