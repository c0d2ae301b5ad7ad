# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MIG on a node in service: who keeps a slice goes on, who is in the way is evicted, and a boot brings the layout back.

One story on the lab's biggest host; each test looks at one side of it. The host ends as whole GPUs in service.
"""

from __future__ import annotations

import json
import typing as t
from dataclasses import dataclass

import observe
import partition
import pytest
import workloads
from partition import HOST, OWN, SLICE, WHOLE_SLICES

TEAM = workloads.Team("partition", 0)
QUOTA = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "whole-gpus", "namespace": TEAM.namespace},
    "spec": {"hard": {"requests.nvidia.com/mig-9g.99gb": "1"}},
}
BALANCED = {"nvidia.com/mig-3g.40gb": 8, "nvidia.com/mig-2g.20gb": 8, SLICE: 16}


@dataclass(frozen=True)
class Story:
    first: observe.Run
    check: observe.Run
    real: observe.Run
    again: observe.Run
    calls_of_check: list[str]
    calls_of_again: list[str]
    before: dict[str, str]  # start of each instance of GPU 0 -> what the simulation knows of it
    after: dict[str, str]
    keeper: dict[str, t.Any]  # the pod's status before and after, and the slices it saw
    other_is_gone: bool
    offers: dict[str, int]
    node: dict[str, t.Any]
    boot: dict[str, t.Any]


@pytest.fixture(scope="module")
def story(hosts: list[str]) -> t.Iterator[Story]:
    partition.serve()
    observe.kubectl("create", "namespace", TEAM.namespace)
    observe.kubectl("create", "-f", "-", text=json.dumps(QUOTA))
    try:
        yield told()
    finally:
        observe.kubectl("delete", "namespace", TEAM.namespace, "--wait=true")
        partition.give_whole_gpus_back()


def told() -> Story:
    first = partition.run(OWN).require_success()
    with (
        workloads.occupying("keeper", TEAM, 1, HOST, resource=SLICE) as keeper,
        workloads.occupying("in-the-way", TEAM, 1, HOST, resource=WHOLE_SLICES),
    ):
        before, status = partition.instances(0), keeper.status()
        check, calls_of_check = partition.with_calls("all-balanced", "--check", "--diff")
        real = partition.run("all-balanced")
        story_of_keeper = {"before": status, "after": keeper.status(), "uuids": keeper.uuids}
        other_is_gone = partition.pod_is_gone("in-the-way", TEAM.namespace)
        after = partition.instances(0)
        again, calls_of_again = partition.with_calls("all-balanced")
    node = partition.node()
    return Story(
        first,
        check,
        real,
        again,
        calls_of_check,
        calls_of_again,
        before,
        after,
        story_of_keeper,
        other_is_gone,
        partition.offers(),
        node,
        partition.rebooted(BALANCED),
    )


def test_a_layout_of_ones_own_is_made_and_offered(story: Story) -> None:
    assert story.first.changed_items()[HOST]


def test_check_mode_changes_nothing_and_names_who_would_have_to_go(story: Story) -> None:
    assert story.calls_of_check == []
    assert "partition/in-the-way" in story.check.log.read_text()


def test_the_layout_is_there_and_the_node_offers_it(story: Story) -> None:
    story.real.require_success()
    assert story.offers == BALANCED


def test_a_pod_whose_slice_the_layout_keeps_goes_on(story: Story) -> None:
    (uuid,) = story.keeper["uuids"]
    before, after = story.keeper["before"], story.keeper["after"]
    assert after["containerStatuses"][0]["restartCount"] == 0
    assert after["containerStatuses"][0]["containerID"] == before["containerStatuses"][0]["containerID"]
    (start,) = [start for start, told in story.before.items() if uuid in told]
    assert story.after[start] == story.before[start]


def test_a_pod_that_is_in_the_way_is_evicted(story: Story) -> None:
    assert story.other_is_gone


def test_the_node_is_returned_as_it_was_found(story: Story) -> None:
    assert not story.node["spec"].get("unschedulable")
    assert partition.ANNOTATION not in story.node["metadata"]["annotations"]
    assert {value for name, value in story.node["metadata"]["labels"].items() if "/gpu.deploy." in name} == {"true"}


def test_a_quota_that_matches_nothing_is_a_loud_warning(story: Story) -> None:
    log = story.real.log.read_text()
    assert "quota_matches_nothing" in log
    assert "The quota of namespace partition limits nvidia.com/mig-9g.99gb, which no node offers" in log
    assert "quota_misses_resource" in log


def test_a_second_run_changes_nothing(story: Story) -> None:
    assert story.again.require_success().changed_items() == {}
    assert story.calls_of_again == []


def test_a_boot_brings_the_layout_back_before_the_kubelet_starts(story: Story) -> None:
    assert story.boot["new_instances"] == 2 * sum(BALANCED.values())  # each with one compute instance
    assert story.boot["tool_ended"] < story.boot["kubelet_started"]
    assert story.boot["offers"] == BALANCED


def test_a_pod_that_asks_for_a_slice_runs_on_one(story: Story) -> None:
    report = workloads.what_a_pod_sees("asks", TEAM, 1, HOST, resource=SLICE)
    (gpu,) = report["gpus"]
    (device,) = gpu["mig_devices"]
    assert device["profile"] == "1g.10gb"


def test_site_finds_nothing_to_do_on_the_host(story: Story) -> None:
    """The operator learns that hosts have layouts, and teams are given a number for each new resource."""
    changed = partition.site("all-balanced").require_success().changed_items().get(HOST, [])
    assert [item for item in changed if "gpu_operator" not in item and "gpu_tenancy" not in item] == []
