# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run leaves a host alone that runs pods with GPUs, as far as a change would disrupt them, and no further."""

from __future__ import annotations

import json
import time
import typing as t
from pathlib import Path

import observe
import pytest
import workloads
import yaml

SITE = observe.ROOT / "playbooks" / "site.yml"
HOST, OTHER = "gpu-l4-1", "gpu-h100-1"
POD = "runs-on"
PAUSE = "registry.k8s.io/pause:3.10.2"
START_SECONDS = 60
# Written by gpu_driver, read by nothing before the next boot.
HARMLESS_FILE = "/etc/modprobe.d/blacklist-nouveau.conf"


@pytest.fixture(scope="module")
def team(hosts: list[str]) -> workloads.Team:
    """A team of a cluster in which all hosts serve."""
    observe.play(SITE, "--limit", f"{HOST},{OTHER}").require_success()
    return workloads.teams()[0]


@pytest.fixture
def pod(team: workloads.Team) -> t.Iterator[dict[str, t.Any]]:
    """A pod that holds a GPU of the host and never ends."""
    place = ("--namespace", team.namespace)
    wanted = workloads.gpu_pod(POD, team, 1, HOST)
    container = wanted["spec"]["containers"][0]
    container["image"] = PAUSE
    del container["command"]
    observe.kubectl("delete", "pod", POD, *place, "--ignore-not-found", "--wait=true")
    observe.kubectl("create", "-f", "-", text=json.dumps(wanted))
    try:
        yield running(team)
    finally:
        observe.kubectl("delete", "pod", POD, *place, "--wait=true", "--grace-period=1")


def running(team: workloads.Team) -> dict[str, t.Any]:
    deadline = time.monotonic() + START_SECONDS
    while True:
        found: dict[str, t.Any] = observe.cluster_objects("get", "pod", POD, "--namespace", team.namespace)
        if found["status"]["phase"] == "Running":
            return found
        assert time.monotonic() < deadline, json.dumps(found["status"])
        time.sleep(0.5)


def assert_undisturbed(before: dict[str, t.Any], team: workloads.Team) -> None:
    after = running(team)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["containerStatuses"] == before["status"]["containerStatuses"]


def test_another_driver_is_refused_while_a_pod_holds_a_gpu(
    pod: dict[str, t.Any], team: workloads.Team, tmp_path: Path
) -> None:
    wishes = tmp_path / "wishes.yml"
    wishes.write_text(yaml.safe_dump({"all": {"hosts": {HOST: {"gpu_driver_version": "580.159.03"}}}}))
    before = observe.host_state(HOST)
    run = observe.play(SITE, "-i", str(wishes), "--limit", f"{HOST},{OTHER}")
    assert run.exit_code != 0
    (failure,) = run.failures()
    for word in (HOST, f"{team.namespace}/{POD}", "disrupt gpu"):
        assert word in " ".join(failure.split())
    assert observe.differing(before, observe.host_state(HOST)) == {}
    assert_undisturbed(pod, team)


def test_what_disrupts_nothing_is_written_while_a_pod_holds_a_gpu(pod: dict[str, t.Any], team: workloads.Team) -> None:
    observe.on_host(HOST, f"chmod 0600 {HARMLESS_FILE}")
    run = observe.play(SITE, "--limit", HOST).require_success()
    assert any(HARMLESS_FILE in item for item in run.changed_items()[HOST])
    assert_undisturbed(pod, team)
