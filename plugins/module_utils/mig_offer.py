# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What GPUs become for pods: resources by MIG strategy, and whom a layout makes go or leaves without a limit.

Pure. Strategies are those of NVIDIA's device plugin (k8s-device-plugin, internal/rm): none offers whole GPUs only;
single offers MIG devices as nvidia.com/gpu where all GPUs of a node have the same profile, and nothing where they do
not; mixed offers each profile under a name of its own, nvidia.com/mig-1g.10gb.me for 1g.10gb+me. With a compute
instance that is smaller than its GPU instance the plugin ends with an error, and the node offers nothing.
"""

from __future__ import annotations

import collections
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.findings import Finding, finding
from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import Gpu

GPU = "nvidia.com/gpu"
MIG_PREFIX = "nvidia.com/mig-"
STRATEGIES = ("none", "single", "mixed")
QUOTA_PREFIXES = ("requests.", "limits.")

# Profiles of a GPU's MIG devices; None for a GPU that is not in MIG mode.
Devices = t.Optional[t.Sequence[str]]


def offered(gpus: t.Sequence[Devices], strategy: str) -> dict[str, int]:
    """Return {resource: count} of a node with these GPUs."""
    if strategy == "none" or all(devices is None for devices in gpus):
        return {GPU: len(gpus)}
    if any(_is_part(name) for devices in gpus for name in devices or ()):
        return {}
    if strategy == "single":
        return _offered_single(gpus)
    counts: collections.Counter[str] = collections.Counter()
    for devices in gpus:
        counts.update([GPU] if devices is None else map(resource_name, devices))
    return dict(counts)


def _offered_single(gpus: t.Sequence[Devices]) -> dict[str, int]:
    profiles = {name for devices in gpus for name in devices or ()}
    if len(profiles) != 1 or not all(gpus):
        return {}
    return {GPU: sum(len(devices or ()) for devices in gpus)}


def resource_name(profile: str) -> str:
    """Return nvidia.com/mig-1g.10gb.me for 1g.10gb+me."""
    return MIG_PREFIX + profile.replace("+", ".")


def _is_part(name: str) -> bool:
    """Whether a MIG device is a compute instance smaller than its GPU instance: 1c.3g.40gb."""
    return name.partition(".")[0].endswith("c")


def devices_of_facts(gpus: t.Iterable[t.Mapping[str, t.Any]]) -> list[Devices]:
    """The GPUs as onprem.gpu.gpu_info reports them."""
    return [gpu.get("mig_devices") if gpu.get("mig_mode") == "enabled" else None for gpu in gpus]


def devices_of_run(gpus: t.Iterable[t.Mapping[str, t.Any]]) -> list[Devices]:
    """The GPUs as onprem.gpu.mig returns them in `before` and `after`."""
    return [
        [
            _device_name(instance["profile"], compute["slices"])
            for instance in gpu["instances"]
            for compute in instance["compute_instances"]
        ]
        if gpu["mode"]["current"]
        else None
        for gpu in gpus
    ]


def devices_of_layout(gpus: t.Iterable[Gpu]) -> list[Devices]:
    """The GPUs as the planner knows them."""
    return [
        [
            _device_name(gpu.profile_name(instance.profile_id), compute.slices)
            for instance in gpu.instances
            for compute in instance.compute_instances
        ]
        if gpu.mode.current
        else None
        for gpu in gpus
    ]


def _device_name(profile: str, slices: int) -> str:
    return profile if profile.startswith(f"{slices}g.") else f"{slices}c.{profile}"


def not_as_offered(node: t.Mapping[str, t.Any], wanted: t.Mapping[str, int]) -> list[str]:
    """Return sentences on what a node offers besides what is wanted, and on labels that still tell of another layout.

    node: as onprem.gpu.nodes_info returns it. Labels are compared where feature discovery has written some.
    """
    stale = [
        f"still offers {count} {resource}"
        for resource, count in sorted(node["allocatable"].items())
        if (resource == GPU or resource.startswith(MIG_PREFIX)) and resource not in wanted and int(count or 0)
    ]
    return stale + _stale_labels(node["labels"], wanted)


def _stale_labels(labels: t.Mapping[str, str], wanted: t.Mapping[str, int]) -> list[str]:
    if "nvidia.com/gfd.timestamp" not in labels:
        return []
    suffix = ".count"
    told = {
        label[: -len(suffix)]: value
        for label, value in labels.items()
        if label.startswith(MIG_PREFIX) and label.endswith(suffix)
    }
    due = {resource: str(count) for resource, count in wanted.items() if resource.startswith(MIG_PREFIX)}
    return [
        f"has label {resource}{suffix}={told.get(resource, 'missing')}, wanted {due.get(resource, 'none')}"
        for resource in sorted({*told, *due})
        if told.get(resource) != due.get(resource)
    ]


def evictions(blockers: t.Iterable[t.Mapping[str, t.Any]]) -> dict[str, list[str]]:
    """Return {"pods": who has to go for a layout, "others": who stands in its way and is no pod}, both sorted.

    blockers: those of onprem.gpu.mig. Of several ways to the layout it is the one that the planner names.
    """
    chosen = [blocker for blocker in blockers if blocker["enough"]]
    return {key: sorted({name for blocker in chosen for name in blocker[key]}) for key in ("pods", "others")}


# --- quotas -----------------------------------------------------------------------------------------------------------


def quota_findings(
    quotas: t.Iterable[t.Mapping[str, t.Any]], nodes: t.Mapping[str, t.Mapping[str, t.Any]]
) -> list[Finding]:
    """Return warnings on quotas that limit GPUs nobody offers, and on GPUs that a team with a quota can take freely.

    quotas: ResourceQuota objects. nodes: as onprem.gpu.nodes_info returns them.
    """
    there = sorted(
        {
            resource
            for node in nodes.values()
            for resource, count in node["allocatable"].items()
            if (resource == GPU or resource.startswith(MIG_PREFIX)) and int(count or 0)
        }
    )
    limits: dict[str, dict[str, str]] = {}
    for quota in quotas:
        hard = (quota.get("spec") or {}).get("hard") or {}
        named = {_unprefixed(key): str(value) for key, value in hard.items()}
        gpus = {name: value for name, value in named.items() if name.startswith("nvidia.com/")}
        if gpus:
            limits.setdefault(quota["metadata"]["namespace"], {}).update(gpus)
    return [found for namespace in sorted(limits) for found in _of_namespace(namespace, limits[namespace], there)]


def _unprefixed(key: str) -> str:
    return next((key[len(prefix) :] for prefix in QUOTA_PREFIXES if key.startswith(prefix)), key)


def _of_namespace(namespace: str, limits: t.Mapping[str, str], there: t.Sequence[str]) -> list[Finding]:
    offers = ", ".join(there) or "no GPU at all"
    unmatched = [
        finding(
            "quota_matches_nothing",
            f"{resource}: {limits[resource]}",
            f"The quota of namespace {namespace} limits {resource}, which no node offers; nodes offer {offers}",
            "",
            "gpu_teams",
            severity="warning",
        )
        for resource in sorted(limits)
        if resource not in there and limits[resource] != "0"
    ]
    unlimited = [
        finding(
            "quota_misses_resource",
            resource,
            f"Namespace {namespace} has a quota on GPUs that does not name {resource}, so it can take all of them",
            "",
            "gpu_teams",
            severity="warning",
        )
        for resource in there
        if resource not in limits
    ]
    return unmatched + unlimited
