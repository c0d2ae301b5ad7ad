# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rolling maintenance on the lab's hosts: a new driver under load, one that is not accepted, runs that are disturbed.

Part of the slow suite. The hosts end in service with the driver of the inventory, as new ones do.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import typing as t
from dataclasses import dataclass, field

import observe
import partition
import pytest
from observe import ObservationError, cluster_objects, kubectl, on_host
from workloads import IMAGE

MAINTAIN = observe.ROOT / "playbooks" / "maintain.yml"
RESTORE = observe.ROOT / "playbooks" / "restore.yml"
SITE = observe.ROOT / "playbooks" / "site.yml"
SPACE = "maintain"
PAUSE = "registry.k8s.io/pause:3.10.2"
OLD = {"gpu_driver_branch": "580", "gpu_driver_version": "580.173.02"}
OTHER = {"gpu_driver_branch": "580", "gpu_driver_version": "580.159.03"}
NEW = {"gpu_driver_branch": "595", "gpu_driver_version": "595.91.07"}
JOB_SECONDS = 45
TOLERATIONS = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
HOLDER = "/run/holds-a-gpu.py"


@pytest.fixture(scope="module", autouse=True)
def served(hosts: list[str], reset_hosts: t.Callable[..., None]) -> t.Iterator[None]:
    observe.play(SITE).require_success()
    try:
        yield
    finally:
        reset_hosts()
        observe.play(SITE).require_success()


def maintain(wishes: dict[str, t.Any], *hosts: str, **more: t.Any) -> observe.Run:
    return observe.play(MAINTAIN, *words(wishes, *hosts, **more))


def words(wishes: dict[str, t.Any], *hosts: str, **more: t.Any) -> list[str]:
    limit = ["--limit", ",".join(hosts)] if hosts else []
    return [*limit, "--extra-vars", json.dumps({**wishes, **more})]


def driver(host: str) -> str:
    return on_host(host, "cat /sys/module/nvidia/version").strip()


def drivers(hosts: t.Iterable[str]) -> dict[str, t.Any]:
    return observe.on_hosts(hosts, driver)


def nodes() -> dict[str, dict[str, t.Any]]:
    return {node["metadata"]["name"]: node for node in cluster_objects("get", "nodes")["items"]}


def assert_all_serve(hosts: list[str]) -> None:
    for name, node in nodes().items():
        if name in hosts:
            traces = [key for key in node["metadata"]["annotations"] if "onprem.gpu/maint" in key]
            assert (name, node["spec"].get("unschedulable"), traces) == (name, None, [])
            assert [taint["key"] for taint in node["spec"]["taints"]] == ["nvidia.com/gpu"]


# -- what is watched meanwhile ----------------------------------------------------------------------------------------


@dataclass
class Watch:
    """What was seen of nodes and of a Deployment with a budget, twice a second."""

    most_out: int = 0
    fewest_ready: int = 99
    out: list[str] = field(default_factory=list)  # nodes in the order in which they went out of service
    job_ended: float | None = None
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stopped.wait(0.5):
            with contextlib.suppress(ObservationError, KeyError):
                self.look()

    def look(self) -> None:
        out = [name for name, node in nodes().items() if node["spec"].get("unschedulable")]
        self.out += [name for name in out if name not in self.out]
        self.most_out = max(self.most_out, len(out))
        ready = cluster_objects("get", "deployment", "web", "--namespace", SPACE)["status"].get("readyReplicas", 0)
        self.fewest_ready = min(self.fewest_ready, ready)
        job = cluster_objects("get", "job", "train", "--namespace", SPACE)["status"]
        if job.get("succeeded") and self.job_ended is None:
            self.job_ended = time.monotonic()


@contextlib.contextmanager
def load(job_host: str) -> t.Iterator[Watch]:
    """A Deployment that may lose one of its pods, a Job that takes a while, and somebody who watches both."""
    kubectl("create", "namespace", SPACE)
    try:
        for thing in (deployment(), budget(), job(job_host)):
            kubectl("create", "--namespace", SPACE, "-f", "-", text=json.dumps(thing))
        kubectl("rollout", "status", "deployment/web", "--namespace", SPACE, "--timeout=90s")
        watch = Watch()
        thread = threading.Thread(target=watch.run)
        thread.start()
        try:
            yield watch
        finally:
            watch.stopped.set()
            thread.join()
    finally:
        kubectl("delete", "namespace", SPACE, "--wait=true")


def pod(image: str, command: list[str] | None, labels: dict[str, str], **spec: t.Any) -> dict[str, t.Any]:
    container: dict[str, t.Any] = {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}
    if command:
        container["command"] = command
    limits = spec.pop("limits", None)
    if limits:
        container["resources"] = {"limits": limits}
    base = {"terminationGracePeriodSeconds": 1, "tolerations": TOLERATIONS, "containers": [container]}
    return {"metadata": {"labels": labels}, "spec": {**base, **spec}}


def deployment() -> dict[str, t.Any]:
    """Two pods with a GPU each, on different nodes."""
    apart = {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}}
    template = pod(IMAGE, ["gpu-probe", "--hold"], {"app": "web"}, affinity=affinity, limits={"nvidia.com/gpu": 1})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    }


def budget() -> dict[str, t.Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    }


def job(host: str) -> dict[str, t.Any]:
    template = pod(
        PAUSE,
        ["sleep", str(JOB_SECONDS)],
        {"app": "train"},
        restartPolicy="Never",
        nodeSelector={"kubernetes.io/hostname": host},
        limits={"nvidia.com/gpu": 1},
    )
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train"},
        "spec": {"backoffLimit": 0, "template": template},
    }


# -- the rolling upgrade ----------------------------------------------------------------------------------------------


def test_a_new_driver_under_load(hosts: list[str]) -> None:
    """One node after the other, no budget violated, the Job may finish, fabric manager in step."""
    rules = [{"policy": "wait", "pod_selector": "app=train"}]
    with load(hosts[0]) as watch:
        preview = maintain(NEW, gpu_maintenance_dry_run=True, gpu_maintenance_wait_rules=rules).require_success()
        assert drivers(hosts) == dict.fromkeys(hosts, OLD["gpu_driver_version"])
        assert "maintain/train" in preview.log.read_text()
        assert watch.out == []
        maintain(NEW, gpu_maintenance_wait_rules=rules).require_success()
    assert drivers(hosts) == dict.fromkeys(hosts, NEW["gpu_driver_version"])
    assert (watch.most_out, sorted(watch.out)) == (1, sorted(hosts))
    assert watch.fewest_ready >= 1
    assert watch.job_ended is not None, "the Job was not allowed to finish"
    fabric = on_host(partition.HOST, "dpkg-query -W -f '${Version}' nvidia-fabricmanager")
    assert fabric.startswith(NEW["gpu_driver_version"])
    assert_all_serve(hosts)


def test_nothing_is_done_where_nothing_disrupts(hosts: list[str]) -> None:
    run = maintain(NEW)
    assert [
        item for items in run.require_success().changed_items().values() for item in items if "lock" not in item
    ] == []
    assert_all_serve(hosts)


def test_a_driver_that_is_not_accepted_is_taken_back_by_itself(hosts: list[str]) -> None:
    """And the stop rule keeps it from the next nodes."""
    before = drivers(hosts)
    refuses = 'case $(gpu-probe) in *\'"driver_version":"580.159\'*) exit 1;; esac'
    run = maintain(OTHER, gpu_acceptance_command=["sh", "-c", refuses])
    assert run.exit_code != 0
    told = "\n".join(run.failures())
    assert f"went back to driver {before[hosts[-1]]}" in told
    assert "was not begun" in told
    assert drivers(hosts) == before
    assert all(not node["spec"].get("unschedulable") for name, node in nodes().items() if name in hosts)
    observe.play(RESTORE, "--extra-vars", "gpu_maintenance_abort_to_service=true").require_success()


# -- disturbed --------------------------------------------------------------------------------------------------------


def test_a_hidden_user_of_a_gpu_stops_the_change_by_name(hosts: list[str]) -> None:
    host = hosts[-1]
    before = driver(host)
    # It asks the API server for nothing: only the host knows of it.
    on_host(host, f"cat > {HOLDER}", "import os, time; os.open('/dev/nvidia0', os.O_PATH); time.sleep(600)")
    on_host(host, f"systemd-run --unit=holder python3 {HOLDER}")
    try:
        run = maintain(OTHER, host)
        assert run.exit_code != 0
        assert "python3" in "\n".join(run.failures())
        assert driver(host) == before
        assert nodes()[host]["metadata"]["annotations"]["onprem.gpu/maint-state"] == "failed"
    finally:
        on_host(host, f"systemctl stop holder; rm {HOLDER}")
    maintain(OTHER, host).require_success()
    assert driver(host) == OTHER["gpu_driver_version"]
    assert_all_serve([host])


@pytest.mark.parametrize(
    "task",
    [
        "Take the lock",
        "Claim, waiting for a slot if there is none",
        "Evict them",
        "Install packages at their exact versions",
        "Load the module",
        "Make the pods",
        "Give it back as it was found",
    ],
)
def test_a_killed_run_goes_on_by_its_name(hosts: list[str], task: str) -> None:
    host = hosts[-1]
    wishes = OTHER if driver(host) != OTHER["gpu_driver_version"] else NEW
    name = f"run-{abs(hash(task)) % 10**8}"
    with observe.started_play(MAINTAIN, *words(wishes, host, gpu_maintenance_run=name)) as running:
        assert partition.until(running, task), f"{task} did not run"
        running.kill()
    maintain(wishes, host, gpu_maintenance_run=name).require_success()
    assert driver(host) == wishes["gpu_driver_version"]
    assert_all_serve([host])


def test_a_second_run_says_who_holds_the_lock(hosts: list[str]) -> None:
    host = hosts[-1]
    wishes = OTHER if driver(host) != OTHER["gpu_driver_version"] else NEW
    with observe.started_play(MAINTAIN, *words(wishes, host, gpu_maintenance_run="first")) as first:
        assert partition.until(first, "Claim, waiting for a slot if there is none")
        second = maintain(wishes, host)
        assert second.exit_code != 0
        assert "first" in "\n".join(second.failures())
        first.finish().require_success()
    assert driver(host) == wishes["gpu_driver_version"]
    assert_all_serve([host])


def test_a_node_that_somebody_had_cordoned_stays_cordoned(hosts: list[str]) -> None:
    host = hosts[-1]
    wishes = OTHER if driver(host) != OTHER["gpu_driver_version"] else NEW
    kubectl("cordon", host)
    try:
        maintain(wishes, host, gpu_maintenance_max_unavailable=2).require_success()
        assert driver(host) == wishes["gpu_driver_version"]
        assert nodes()[host]["spec"]["unschedulable"] is True
    finally:
        kubectl("uncordon", host)


def test_a_mere_reboot_is_proven_by_the_boot_id(hosts: list[str]) -> None:
    host = hosts[-1]
    wishes = {"gpu_driver_branch": driver(host).split(".")[0], "gpu_driver_version": driver(host)}
    before = nodes()[host]["status"]["nodeInfo"]["bootID"]
    maintain(wishes, host, gpu_maintenance_reboot=True).require_success()
    assert nodes()[host]["status"]["nodeInfo"]["bootID"] != before
    assert_all_serve([host])
