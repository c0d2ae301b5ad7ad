# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Partitioning a node in service while things go wrong: killed runs, failing calls, layouts no boot can restore.

Part of the slow suite. The host ends as whole GPUs in service.
"""

from __future__ import annotations

import json
import typing as t

import observe
import partition
import pytest
from documents import converged
from partition import HOST, SLICE

ONES = {SLICE: 56}
BALANCED = {"nvidia.com/mig-3g.40gb": 8, "nvidia.com/mig-2g.20gb": 8, SLICE: 16}
LAYOUTS = {"all-balanced": BALANCED, "all-1g.10gb": ONES}
# After the results of these tasks of the role the run is killed.
KILLED_AFTER = (
    "Take the node out of service",
    "Keep the operator's pods off the node",
    "Wait until the node offers no GPU",
    "Bring the GPUs to the layout",
    "Write the other files",
    "Enable, start and restart services",
    "Make the CDI specification again",
    "Let the operator's pods come back",
    "Wait until the node offers its slices",
    "Put the node back",
)


@pytest.fixture(scope="module", autouse=True)
def served(hosts: list[str]) -> t.Iterator[None]:
    partition.serve()
    partition.run("all-1g.10gb").require_success()
    try:
        yield
    finally:
        partition.give_whole_gpus_back()


def assert_in_service(offers: dict[str, int], *, cordoned: bool = False) -> None:
    node = partition.node()
    assert partition.offers() == offers
    assert bool(node["spec"].get("unschedulable")) is cordoned
    assert partition.ANNOTATION not in node["metadata"]["annotations"]
    assert {value for name, value in node["metadata"]["labels"].items() if "/gpu.deploy." in name} == {"true"}


def other_layout() -> str:
    return "all-balanced" if partition.offers() == ONES else "all-1g.10gb"


@pytest.mark.parametrize("task", KILLED_AFTER)
def test_a_killed_run_is_finished_by_the_next(task: str) -> None:
    layout = other_layout()
    with observe.started_play(partition.PLAYBOOK, *partition.words(layout)) as running:
        seen = partition.until(running, task)
        running.kill()
    assert seen, f"{task} did not run"
    partition.run(layout).require_success()
    assert_in_service(LAYOUTS[layout])
    assert partition.run(layout).require_success().changed_items() == {}


def test_a_killed_run_is_ended_also_when_no_layout_is_wanted_any_more() -> None:
    offers = partition.offers()
    with observe.started_play(partition.PLAYBOOK, *partition.words(other_layout())) as running:
        assert partition.until(running, "Keep the operator's pods off the node")
        running.kill()
    partition.run("").require_success()
    assert_in_service(offers)


def test_a_call_that_fails_leaves_gpus_and_node_as_they_were() -> None:
    before, layout = partition.layout(), other_layout()
    offers = partition.offers()
    with partition.fault("create_gi 3 999 1"):
        run = partition.run(layout)
    assert run.exit_code != 0
    assert "The GPUs are as they were before" in run.failures()[-1]
    assert f"Node {HOST} is as it was before" in run.failures()[-1]
    assert partition.layout() == before
    partition.wait_for(lambda: partition.offers() == offers)
    assert_in_service(offers)


def test_a_node_whose_gpus_are_no_longer_as_they_were_stays_out_of_service_until_a_run_succeeds() -> None:
    layout = other_layout()
    with partition.fault("create_gi 3 999 1000"):
        run = partition.run(layout)
    assert run.exit_code != 0
    assert "What is there now: GPU" in run.failures()[-1]
    assert f"Node {HOST} stays out of service" in run.failures()[-1]
    node = partition.node()
    assert node["spec"]["unschedulable"] is True
    assert "What is there now" in json.loads(node["metadata"]["annotations"][partition.ANNOTATION])["problem"]
    partition.run(layout).require_success()
    assert_in_service(LAYOUTS[layout])


def test_a_node_that_somebody_had_cordoned_stays_cordoned() -> None:
    layout = other_layout()
    observe.kubectl("cordon", HOST)
    try:
        partition.run(layout).require_success()
        assert_in_service(LAYOUTS[layout], cordoned=True)
    finally:
        observe.kubectl("uncordon", HOST)


def test_a_layout_that_no_boot_can_restore_keeps_the_node_out_of_service() -> None:
    """And the next run, which writes the wanted layout again, brings it back."""
    layout = other_layout()
    partition.run(layout).require_success()
    wish = json.dumps({"config": None, "selected": "all-9g.999gb", "reset": False})
    observe.on_host(HOST, "cat > /etc/onprem-gpu/mig.json", wish)
    partition.reboot_and_wait()
    assert observe.on_host(HOST, "systemctl is-active gpu-mig.service || true").strip() == "failed"
    assert observe.on_host(HOST, "systemctl is-active kubelet.service || true").strip() == "inactive"
    state = json.loads(observe.on_host(HOST, "cat /run/onprem-gpu/mig.json"))
    assert (state["state"], state["selected"]) == ("failed", "all-9g.999gb")
    assert "all-9g.999gb" in state["message"]
    partition.wait_for(lambda: not partition.is_ready())
    partition.run(layout).require_success()
    partition.wait_for(lambda: partition.is_ready() and partition.offers() == LAYOUTS[layout])


@pytest.mark.parametrize(
    "mutation",
    [
        "rm /usr/local/lib/onprem-gpu/ansible_collections/onprem/gpu/plugins/module_utils/mig_run.py",
        "echo >> /usr/local/sbin/gpu-mig",
        "systemctl disable gpu-mig.service",
        "echo '{}' > /etc/onprem-gpu/mig.json",
    ],
)
def test_what_keeps_the_layout_is_looked_after_while_the_node_serves(mutation: str) -> None:
    layout = "all-balanced" if partition.offers() == BALANCED else "all-1g.10gb"
    observe.on_host(HOST, mutation)
    before = partition.calls()
    run = partition.run(layout).require_success()
    assert not converged(run, HOST)
    assert partition.calls() == before
    assert "Take the node out of service" not in [event.get("task") for event in run.events]
    assert partition.run(layout).require_success().changed_items() == {}


def test_an_instance_that_somebody_destroyed_is_made_again() -> None:
    layout = "all-balanced" if partition.offers() == BALANCED else "all-1g.10gb"
    before = partition.layout()
    partition.forget_an_instance()
    assert partition.layout() != before
    partition.run(layout).require_success()
    assert partition.layout() == before
    assert_in_service(LAYOUTS[layout])
    full = partition.run(layout, "--extra-vars", "gpu_survey_fast=false")
    assert full.require_success().changed_items() == {}


def test_site_does_not_partition_under_a_pod() -> None:
    layout = other_layout()
    before = partition.layout()
    with partition.pod_on_a_slice() as pod:
        run = partition.site(layout)
        assert run.exit_code != 0
        assert pod.name in " ".join(run.failures())
        assert pod.restarts() == 0
    assert partition.layout() == before
    assert not partition.node()["spec"].get("unschedulable")
