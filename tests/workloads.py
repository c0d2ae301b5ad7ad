# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GPU pods as a team would run them, to see whether they get what they asked for and nothing else."""

from __future__ import annotations

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


def gpu_pod(name: str, team: Team, gpus: int, node: str | None = None) -> dict[str, t.Any]:
    """A pod that says as JSON which GPUs it sees. It keeps to the strictest Pod Security level."""
    resources = {"cpu": "100m", "memory": "64Mi", **({GPU: str(gpus)} if gpus else {})}
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


def what_a_pod_sees(name: str, team: Team, gpus: int, node: str) -> dict[str, t.Any]:
    """Run a pod on NODE to its end and return its report: device_nodes, nvml, driver_version, gpus."""
    place = ("--namespace", team.namespace)
    kubectl("delete", "pod", name, *place, "--ignore-not-found", "--wait=true")
    kubectl("apply", "-f", "-", text=json.dumps(gpu_pod(name, team, gpus, node)))
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


def refusal(name: str, team: Team, gpus: int) -> str:
    """What the API server says to a pod that asks for GPUS GPUs; an error when it lets the pod in."""
    pod = json.dumps(gpu_pod(name, team, gpus))
    try:
        kubectl("create", "-f", "-", text=pod)
    except ObservationError as error:
        return str(error).split("Error from server ", 1)[-1]
    kubectl("delete", "pod", name, "--namespace", team.namespace, "--wait=false")
    raise ObservationError(f"a pod with {gpus} GPUs was let into {team.namespace}, whose quota is {team.gpus}")
