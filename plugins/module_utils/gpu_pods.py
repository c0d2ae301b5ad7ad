# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which pods hold GPUs of a node, by what the API server says of them.

Pure. A pod holds a GPU when it is not finished and one of its containers has an NVIDIA resource, when it has a resource
claim (dynamic allocation; whose driver the claim names is not looked up, so a claim counts), or when it asks for an
nvidia runtime class or NVIDIA_VISIBLE_DEVICES without a request. Privileged pods that open /dev/nvidia* by themselves
are invisible here: the host knows them.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.findings import Finding, finding

FINISHED = ("Succeeded", "Failed")
GPU_RESOURCE = re.compile(r"nvidia\.com/(gpu|mig-)")
CONTAINER_LISTS = ("containers", "initContainers", "ephemeralContainers")
MOST_NAMED_PODS = 10

Pod = t.Mapping[str, t.Any]


def holds_gpu(pod: Pod) -> bool:
    """Return whether a Pod object of the API holds a GPU, or may hold one."""
    phase = (pod.get("status") or {}).get("phase")
    return phase not in FINISHED and not _is_daemon(pod) and bool(gpu_evidence(pod))


def gpu_evidence(pod: Pod) -> set[str]:
    """Return what speaks for a pod using a GPU while it runs: "resource", "claim", "hidden"; nothing does: empty."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    containers = list(_containers(spec))
    signs = {
        "resource": any(map(_asks_for_gpu, containers)),
        "claim": bool(spec.get("resourceClaims") or status.get("extendedResourceClaimStatus")),
        "hidden": str(spec.get("runtimeClassName") or "").startswith("nvidia") or any(map(_sees_gpu, containers)),
    }
    return {name for name, present in signs.items() if present}


def pods_with_gpus(pods: t.Iterable[Pod], node: str) -> list[str]:
    """Return "namespace/name" of the pods on a node that hold GPUs, sorted."""
    return sorted(
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in pods
        if (pod.get("spec") or {}).get("nodeName") == node and holds_gpu(pod)
    )


def disruption_refusals(pods: t.Iterable[Pod], node: str, disrupts: t.Iterable[str]) -> list[Finding]:
    """Return one finding when a change that disrupts something would meet pods with GPUs on the node."""
    disturbed = ", ".join(sorted(set(disrupts) - {"none"}))
    names = pods_with_gpus(pods, node) if disturbed else []
    if not names:
        return []
    return [
        finding(
            check="gpu_pods_running",
            value=node,
            message=(
                f"Node {node} runs pods with GPUs, and what differs would disrupt {disturbed}: {first_of(names)}."
            ),
            allowed="a node that was cordoned and drained of these pods first",
            variable="",
        )
    ]


def first_of(texts: t.Sequence[str]) -> str:
    """As many texts about pods as a message can bear, and how many more there are."""
    more = f" and {len(texts) - MOST_NAMED_PODS} more" if len(texts) > MOST_NAMED_PODS else ""
    return ", ".join(texts[:MOST_NAMED_PODS]) + more


def _is_daemon(pod: Pod) -> bool:
    """Pods of a DaemonSet (device plugin, exporters) serve the others and come back by themselves."""
    owners = pod["metadata"].get("ownerReferences") or []
    return any(owner.get("controller") and owner.get("kind") == "DaemonSet" for owner in owners)


def _containers(spec: t.Mapping[str, t.Any]) -> t.Iterator[t.Mapping[str, t.Any]]:
    for name in CONTAINER_LISTS:
        yield from spec.get(name) or []


def _asks_for_gpu(container: t.Mapping[str, t.Any]) -> bool:
    resources = container.get("resources") or {}
    names = [*(resources.get("limits") or {}), *(resources.get("requests") or {})]
    return any(GPU_RESOURCE.match(name) for name in names)


def _sees_gpu(container: t.Mapping[str, t.Any]) -> bool:
    variables = {variable["name"]: variable.get("value") for variable in container.get("env") or []}
    return variables.get("NVIDIA_VISIBLE_DEVICES", "void") not in ("void", "none", "")
