# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node serves only after a check that can fail: real breakages, each with its own message, and cleared when repaired.

One story on one host; each test looks at one side of it. The host ends in service and accepted.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

import observe
import pytest
import workloads

sys.path.insert(0, str(observe.ROOT / "tests" / "lab"))

import silicon

HOST = "gpu-l4-1"
PLAYBOOK = observe.ROOT / "playbooks" / "accept.yml"
SITE = observe.ROOT / "playbooks" / "site.yml"
SILICON = observe.LAB / "hosts" / HOST / "silicon"
KEY = "onprem.gpu/acceptance"
TAINT = {"key": KEY, "value": "failed", "effect": "NoSchedule"}
PLUGIN_LABEL = "nvidia.com/gpu.deploy.device-plugin"
NAMESPACE = "gpu-acceptance"
GPUS = 2
WAIT_SECONDS = 60


@dataclass(frozen=True)
class Seen:
    """A run, and what people find out about the node afterwards."""

    run: observe.Run
    failed: dict[str, str]  # check -> message
    unjudged: dict[str, str]
    report: str
    record: dict[str, t.Any]
    tainted: bool
    unschedulable: bool
    described: str  # the events that kubectl describe node shows
    pods_left: list[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("acceptance")


@dataclass(frozen=True)
class Story:
    first: Seen
    again: Seen
    check: Seen
    lost: Seen
    kept_off: Seen
    other_driver: Seen
    bad_image: Seen
    repaired: Seen  # on a cordoned node
    busy: Seen
    holder_went_on: bool  # the pod that held all GPUs


@pytest.fixture(scope="module")
def story(hosts: list[str], folder: Path) -> t.Iterator[Story]:
    observe.play(SITE, "--limit", HOST).require_success()
    yield told(folder)


def told(folder: Path) -> Story:
    first, again, check = accept(folder), accept(folder), accept(folder, "--check")
    with lost_gpu():
        lost = accept(folder)
    with device_plugin_kept_off():
        kept_off = accept(folder)
    other_driver = accept(folder, gpu_driver_version="580.159.03")
    bad_image = accept(folder, gpu_acceptance_command=["gpu-probe", "--no-such-flag"])
    with cordoned():
        repaired = accept(folder)
    with workloads.occupying("holds-all", workloads.Team("default", 0), GPUS, HOST) as pod:
        container = pod.container()
        busy = accept(folder)
        holder_went_on = (pod.container(), pod.restarts()) == (container, 0)
    return Story(first, again, check, lost, kept_off, other_driver, bad_image, repaired, busy, holder_went_on)


def accept(folder: Path, *words: str, **variables: t.Any) -> Seen:
    asked = {"gpu_acceptance_report_folder": str(folder), **variables}
    run = observe.play(PLAYBOOK, "--limit", HOST, "--extra-vars", json.dumps(asked), *words)
    report = (folder / f"{HOST}.json").read_text()
    checks = json.loads(report)["checks"]
    node = observe.cluster_objects("get", "node", HOST)
    return Seen(
        run=run,
        failed={one["check"]: one["message"] for one in checks if one["passed"] is False},
        unjudged={one["check"]: one["message"] for one in checks if one["passed"] is None},
        report=report,
        record=json.loads(node["metadata"]["annotations"][KEY]),
        tainted=TAINT in node["spec"].get("taints", []),
        unschedulable=bool(node["spec"].get("unschedulable")),
        described=observe.kubectl("describe", "node", HOST).partition("Events:")[2],
        pods_left=observe.kubectl("get", "pods", "--namespace", NAMESPACE, "--output=name").split(),
    )


@contextlib.contextmanager
def lost_gpu() -> t.Iterator[None]:
    with silicon.edit_state(SILICON) as state:
        state["gpu.1.lost"] = "1"
    try:
        yield
    finally:
        with silicon.edit_state(SILICON) as state:
            del state["gpu.1.lost"]


@contextlib.contextmanager
def device_plugin_kept_off() -> t.Iterator[None]:
    """By its label, as an admin would; until the node offers nothing, and afterwards until it does again."""
    observe.kubectl("label", "node", HOST, f"{PLUGIN_LABEL}=false", "--overwrite")
    try:
        wait_for_offer("0")
        yield
    finally:
        observe.kubectl("label", "node", HOST, f"{PLUGIN_LABEL}=true", "--overwrite")
    wait_for_offer(str(GPUS))


@contextlib.contextmanager
def cordoned() -> t.Iterator[None]:
    observe.kubectl("cordon", HOST)
    try:
        yield
    finally:
        observe.kubectl("uncordon", HOST)


def wait_for_offer(count: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while observe.cluster_objects("get", "node", HOST)["status"]["allocatable"].get(workloads.GPU) != count:
        assert time.monotonic() < deadline, f"{HOST} does not come to offer {count} {workloads.GPU}"
        time.sleep(0.5)


def refusal(seen: Seen) -> str:
    assert seen.run.exit_code != 0
    (failure,) = seen.run.failures()
    return failure


def assert_refused(seen: Seen, check: str, *words: str) -> None:
    """The one check failed, and table, report, annotation, taint and event all say so."""
    assert list(seen.failed) == [check]
    for word in words:
        assert word in seen.failed[check]
        assert word in refusal(seen)
        assert word in " ".join(seen.record["failed"])
        assert word in seen.described
    assert not seen.record["passed"] and seen.tainted
    assert "GPUAcceptanceFailed" in seen.described


def assert_accepted(seen: Seen) -> None:
    seen.run.require_success()
    assert seen.record["passed"] and seen.record["failed"] == [] and not seen.tainted
    assert seen.failed == {} and "GPUAcceptanceFailed" not in seen.described


def test_a_node_in_service_is_accepted(story: Story) -> None:
    assert_accepted(story.first)
    assert story.first.unjudged == {}
    assert story.first.record["driver"] == "580.173.02"


def test_a_second_run_changes_nothing(story: Story) -> None:
    assert story.again.run.require_success().changed_items() == {}
    assert (story.again.record, story.again.report) == (story.first.record, story.first.report)


def test_check_mode_runs_no_pod_and_would_write_nothing(story: Story) -> None:
    run = story.check.run.require_success()
    assert run.changed_items() == {}
    assert "check mode runs no pod" in run.log.read_text()
    assert "Make the pods" not in {event["task"] for event in run.results(("ok", "changed"))}


def test_no_pod_is_left(story: Story) -> None:
    seen = [one for one in vars(story).values() if isinstance(one, Seen)]
    assert [one.pods_left for one in seen] == [[]] * len(seen)


def test_a_gpu_that_fell_off_the_bus_refuses_the_node(story: Story) -> None:
    assert not story.lost.record["passed"] and story.lost.tainted
    (address,) = [word.strip(":") for word in story.lost.failed["gpus_seen"].split() if word.startswith("0000:")]
    for place in (refusal(story.lost), story.lost.record["failed"][0], story.lost.described):
        assert f"does not see GPU {address}" in place


def test_a_device_plugin_that_is_kept_off_refuses_the_node(story: Story) -> None:
    assert_refused(story.kept_off, "node_offers", f"{PLUGIN_LABEL}=false", "wanted 2")
    assert "offers no GPU" in story.kept_off.unjudged["smoke_pod"]


def test_a_repair_is_seen_by_the_next_run_though_something_else_is_wrong(story: Story) -> None:
    assert "gpus_seen" not in story.kept_off.described
    assert "node_offers" not in story.other_driver.described


def test_another_driver_than_wanted_refuses_the_node(story: Story) -> None:
    assert_refused(story.other_driver, "driver_version", "driver 580.173.02 is loaded, wanted 580.159.03")
    assert "gpu_driver_version" in refusal(story.other_driver)


def test_a_pod_that_fails_refuses_the_node_and_its_last_words_are_told(story: Story) -> None:
    assert_refused(story.bad_image, "smoke_pod", "exit code 2")
    assert "flag provided but not defined: -no-such-flag" in refusal(story.bad_image)


def test_a_pod_that_holds_all_gpus_is_left_alone_and_the_rest_judged(story: Story) -> None:
    assert_accepted(story.busy)
    assert "Insufficient nvidia.com/gpu" in story.busy.unjudged["smoke_pod"]
    assert story.holder_went_on


def test_a_repaired_node_is_accepted_and_nothing_is_left_of_the_refusal(story: Story) -> None:
    assert_accepted(story.repaired)


def test_a_cordoned_node_is_tried_as_well_and_stays_cordoned(story: Story) -> None:
    assert story.repaired.unjudged == {}
    assert story.repaired.unschedulable
