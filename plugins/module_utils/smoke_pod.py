# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pods that try the GPUs of nodes, one for each resource a node offers, and what became of them.

Pure. Nodes are as onprem.gpu.nodes_info returns them, pods are objects of the API.

A pod goes through the scheduler, pinned to its node by name (matchFields, as DaemonSets do; the label with the host's
name may say another) and tolerating every taint. So it reaches nodes that are cordoned, which have the taint
node.kubernetes.io/unschedulable, kept for GPU pods or refused by an earlier acceptance, and still never gets a device
that the scheduler has given to somebody. With spec.nodeName it would bypass the scheduler, and a team's pod that is
bound at the same moment would be the one that fails.

Its priority class is the lowest there is and never preempts: where no device is free the pod waits in vain, which is
told as no verdict, and nobody is evicted.
"""

from __future__ import annotations

import hashlib
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.gpu_pods import GPU_RESOURCE

NODE_ANNOTATION = "onprem.gpu/acceptance-node"
RESOURCE_ANNOTATION = "onprem.gpu/acceptance-resource"
PRIORITY_CLASS = "gpu-acceptance"
NOBODY = 65534
# A pod that a killed run left ends by itself, a little after a run would have given up on it.
SPARE_SECONDS = 60
# What the scheduler says of a node that has no room for a pod.
NO_ROOM = ("Insufficient", "Too many pods")

Node = t.Mapping[str, t.Any]
Pod = dict[str, t.Any]
Report = dict[str, str]


def resources(node: Node) -> list[str]:
    """Return the GPU resources that a node offers now, by name."""
    offers = node["allocatable"].items()
    return sorted(name for name, count in offers if GPU_RESOURCE.match(name) and int(count or 0))


def pods(nodes: t.Mapping[str, Node], settings: t.Mapping[str, t.Any]) -> list[Pod]:
    """Return a pod for each resource of each Ready node; it asks for one device.

    settings: image, command (may be empty), namespace, runtime_class (may be empty), timeout_seconds and run, a value
    that no other run has.
    """
    return [
        _pod(name, resource, settings)
        for name, node in sorted(nodes.items())
        for resource in (resources(node) if node["ready"] else [])
    ]


def _pod(node: str, resource: str, settings: t.Mapping[str, t.Any]) -> Pod:
    unique = hashlib.sha256(f"{node} {resource} {settings['run']}".encode()).hexdigest()[:12]
    container = {
        "name": "smoke",
        "image": settings["image"],
        "imagePullPolicy": "IfNotPresent",
        # Extended resources are asked for by their limit alone.
        "resources": {"limits": {resource: "1"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": _only(node)}},
        "tolerations": [{"operator": "Exists"}],
        "priorityClassName": PRIORITY_CLASS,
        "restartPolicy": "Never",
        "activeDeadlineSeconds": int(settings["timeout_seconds"]) + SPARE_SECONDS,
        "terminationGracePeriodSeconds": 5,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # As the pods of teams run, who are not root either.
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{**container, **({"command": settings["command"]} if settings["command"] else {})}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"gpu-acceptance-{unique}",
            "namespace": settings["namespace"],
            "labels": {"app.kubernetes.io/name": "gpu-acceptance"},
            "annotations": {NODE_ANNOTATION: node, RESOURCE_ANNOTATION: resource},
        },
        "spec": {**spec, **({"runtimeClassName": settings["runtime_class"]} if settings["runtime_class"] else {})},
    }


def _only(node: str) -> dict[str, t.Any]:
    by_name = {"key": "metadata.name", "operator": "In", "values": [node]}
    return {"nodeSelectorTerms": [{"matchFields": [by_name]}]}


def reports(wanted: t.Iterable[Pod], found: t.Iterable[Pod]) -> list[Report]:
    """Return what became of each wanted pod: {node, resource, pod, state, told}.

    found: pods of the API. state: running, passed, failed, or no_verdict where the pod never got a device or was taken
    away.
    """
    there = {pod["metadata"]["name"]: pod for pod in found}
    return [_report(pod, there.get(pod["metadata"]["name"])) for pod in wanted]


def _report(wanted: Pod, found: Pod | None) -> Report:
    metadata = wanted["metadata"]
    state, told = _became(found) if found else ("no_verdict", "somebody removed it before it ended")
    return {
        "node": metadata["annotations"][NODE_ANNOTATION],
        "resource": metadata["annotations"][RESOURCE_ANNOTATION],
        "pod": metadata["name"],
        "state": state,
        "told": told,
    }


def _became(pod: Pod) -> tuple[str, str]:
    status = pod.get("status") or {}
    phase = status.get("phase")
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    disruption, scheduled = conditions.get("DisruptionTarget", {}), conditions.get("PodScheduled", {})
    if phase == "Succeeded":
        return "passed", ""
    if disruption.get("status") == "True":
        return "no_verdict", str(disruption.get("message") or disruption.get("reason"))
    if phase == "Failed":
        return "failed", _failure(status)
    unschedulable = str(scheduled.get("message", "")) if scheduled.get("status") == "False" else ""
    if any(word in unschedulable for word in NO_ROOM):
        return "no_verdict", f"all devices are taken by other pods (scheduler: {unschedulable})"
    return "running", unschedulable or _waiting(status)


def _failure(status: t.Mapping[str, t.Any]) -> str:
    if status.get("reason"):
        return f"{status['reason']}: {status.get('message') or 'no more is told'}"
    ended = _container(status).get("terminated") or {}
    told = " ".join(filter(None, (ended.get("reason"), ended.get("message"))))
    return f"it ended with exit code {ended.get('exitCode')} ({told or 'no more is told'})"


def _waiting(status: t.Mapping[str, t.Any]) -> str:
    waiting = _container(status).get("waiting") or {}
    told = ": ".join(filter(None, (waiting.get("reason"), waiting.get("message"))))
    return told or str(status.get("phase") or "Pending")


def _container(status: t.Mapping[str, t.Any]) -> t.Mapping[str, t.Any]:
    """State of the only container, in which Kubernetes keeps what it is doing now."""
    (container, *_others) = status.get("containerStatuses") or [{}]
    return container.get("state") or {}
