# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GPU pods as a team would run them, to see whether they get what they asked for and nothing else."""

from __future__ import annotations

import contextlib
import json
import time
import typing as t
from dataclasses import dataclass

from observe import ObservationError, cluster_objects, kubectl

GPU = "nvidia.com/gpu"
IMAGE = "lab.invalid/gpu-smoke:1"
POD_SECONDS = 90


@dataclass(frozen=True)
class Team:
    """A namespace whose quota allows `gpus` GPUs."""

    namespace: str
    gpus: int


def teams() -> list[Team]:
    """Every namespace with a quota on GPUs, the most generous first."""
    quotas = cluster_objects("get", "resourcequota", "--all-namespaces")["items"]
    found = [
        Team(quota["metadata"]["namespace"], int(quota["spec"]["hard"][f"requests.{GPU}"]))
        for quota in quotas
        if f"requests.{GPU}" in quota["spec"]["hard"]
    ]
    if not found:
        raise ObservationError(f"no namespace has a quota on requests.{GPU}")
    return sorted(found, key=lambda team: -team.gpus)


def gpu_pod(name: str, team: Team, gpus: int, node: str | None = None, *, resource: str = GPU) -> dict[str, t.Any]:
    """A pod that says as JSON which GPUs it sees. It keeps to the strictest Pod Security level.

    ``resource`` is what it asks ``gpus`` of: whole GPUs, or MIG devices as in ``nvidia.com/mig-1g.10gb``.
    """
    resources = {"cpu": "100m", "memory": "64Mi", **({resource: str(gpus)} if gpus else {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": team.namespace},
        "spec": {
            "restartPolicy": "Never",
            "nodeSelector": {"kubernetes.io/hostname": node} if node else {},
            "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65534,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "probe",
                    "image": IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["gpu-probe"],
                    "resources": {"limits": resources, "requests": resources},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }


def what_a_pod_sees(name: str, team: Team, gpus: int, node: str, *, resource: str = GPU) -> dict[str, t.Any]:
    """Run a pod on NODE to its end and return its report: device_nodes, nvml, driver_version, gpus."""
    place = ("--namespace", team.namespace)
    kubectl("delete", "pod", name, *place, "--ignore-not-found", "--wait=true")
    kubectl("apply", "-f", "-", text=json.dumps(gpu_pod(name, team, gpus, node, resource=resource)))
    try:
        wait_for_end(name, team)
        return t.cast("dict[str, t.Any]", json.loads(kubectl("logs", name, *place)))
    finally:
        kubectl("delete", "pod", name, *place, "--wait=true", "--grace-period=1")


def wait_for_end(name: str, team: Team) -> None:
    deadline = time.monotonic() + POD_SECONDS
    while True:
        status = cluster_objects("get", "pod", name, "--namespace", team.namespace)["status"]
        if status["phase"] == "Succeeded":
            return
        if status["phase"] == "Failed" or time.monotonic() > deadline:
            raise ObservationError(f"pod {team.namespace}/{name} did not succeed: {json.dumps(status)}")
        time.sleep(0.5)


@dataclass(frozen=True)
class Occupant:
    """A pod that computes on its devices until it is deleted, started by `occupying`."""

    name: str
    namespace: str
    report: dict[str, t.Any]  # as of its start: what `what_a_pod_sees` says, and held, the names of its devices

    @property
    def uuids(self) -> list[str]:
        """Of its devices: MIG-..., or GPU-... for whole GPUs."""
        slices = [device["uuid"] for gpu in self.report["gpus"] for device in gpu["mig_devices"]]
        return slices or [gpu["uuid"] for gpu in self.report["gpus"]]

    def status(self) -> dict[str, t.Any]:
        """The pod's status now; an error when the pod is gone."""
        pod = cluster_objects("get", "pod", self.name, "--namespace", self.namespace)
        return t.cast("dict[str, t.Any]", pod["status"])

    def restarts(self) -> int:
        return t.cast("int", self.status()["containerStatuses"][0]["restartCount"])

    def container(self) -> str:
        """The id of its container, which a restart changes."""
        return t.cast("str", self.status()["containerStatuses"][0]["containerID"])


@contextlib.contextmanager
def occupying(name: str, team: Team, gpus: int, node: str, *, resource: str = GPU) -> t.Iterator[Occupant]:
    """A pod on NODE that computes on GPUS devices while the context lasts; a container that ends starts again."""
    place = ("--namespace", team.namespace)
    pod = gpu_pod(name, team, gpus, node, resource=resource)
    pod["spec"] |= {"restartPolicy": "Always", "terminationGracePeriodSeconds": 5}
    pod["spec"]["containers"][0]["command"] = ["gpu-probe", "--hold"]
    kubectl("delete", "pod", name, *place, "--ignore-not-found", "--wait=true")
    kubectl("create", "-f", "-", text=json.dumps(pod))
    try:
        yield Occupant(name, team.namespace, _wait_for_report(name, team))
    finally:
        kubectl("delete", "pod", name, *place, "--ignore-not-found", "--wait=true")


def _wait_for_report(name: str, team: Team) -> dict[str, t.Any]:
    deadline = time.monotonic() + POD_SECONDS
    place = ("--namespace", team.namespace)
    while True:
        status = cluster_objects("get", "pod", name, *place)["status"]
        (container,) = status.get("containerStatuses") or [{}]
        if container.get("ready") and (said := kubectl("logs", name, *place)):
            return t.cast("dict[str, t.Any]", json.loads(said))
        if status["phase"] == "Failed" or container.get("restartCount") or time.monotonic() > deadline:
            raise ObservationError(f"pod {team.namespace}/{name} does not run: {json.dumps(status)}")
        time.sleep(0.5)


def refusal(name: str, team: Team, gpus: int) -> str:
    """What the API server says to a pod that asks for GPUS GPUs; an error when it lets the pod in."""
    pod = json.dumps(gpu_pod(name, team, gpus))
    try:
        kubectl("create", "-f", "-", text=pod)
    except ObservationError as error:
        return str(error).split("Error from server ", 1)[-1]
    kubectl("delete", "pod", name, "--namespace", team.namespace, "--wait=false")
    raise ObservationError(f"a pod with {gpus} GPUs was let into {team.namespace}, whose quota is {team.gpus}")
