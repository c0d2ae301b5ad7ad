# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who uses GPUs and MIG devices of this host, by the host's own files: no API server and no program is asked.

NVML's list of processes is a hint: a pod that was given a MIG device and computes nothing at the moment is not on it.
The kubelet's checkpoint of its device manager names the devices of each pod by UUID, whatever the pod does with them.

Sources: pkg/kubelet/cm/devicemanager/checkpoint of Kubernetes (PodDeviceEntries; DeviceIDs by NUMA node since 1.20);
the kubelet's log folders /var/log/pods/NAMESPACE_NAME_UID; cgroup paths .../pod<UID>, with the systemd driver written
with underscores.
"""

from __future__ import annotations

import json
import re
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.host import Host

CHECKPOINT = "/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint"
POD_LOGS = "/var/log/pods"
RESOURCE_PREFIX = "nvidia.com/"
POD_USER = re.compile(r"(?:^|.* of )pod ([a-z0-9.-]+/[a-z0-9.-]+)$")
POD_CGROUP = re.compile(r"/(?:kubepods[^/]*-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})")


class CheckpointError(Exception):
    """The kubelet's list of devices is there and cannot be understood, so nobody may be taken for idle."""


def pods_by_device(host: Host) -> dict[str, list[str]]:
    """Device id ("GPU-...", "MIG-...") -> pods that hold it, as "namespace/name"; pods without a process are over.

    Raises CheckpointError when the kubelet's checkpoint cannot be read or is none.
    """
    entries = _pod_entries(host)
    if not entries:
        return {}
    running, names = _running_pods(host), _pod_names(host)
    holders: dict[str, set[str]] = {}
    for uid, devices in entries:
        if uid in running:
            for device in devices:
                holders.setdefault(device, set()).add(names.get(uid, f"pod {uid}"))
    return {device: sorted(pods) for device, pods in holders.items()}


def described_process(host: Host, pid: int) -> str:
    """ "process 4711 (python3) of pod team/train-0", with what can be known of it."""
    command = host.read_value(f"/proc/{pid}/comm")
    uid = _pod_of(host.read_text(f"/proc/{pid}/cgroup"))
    pod = f" of pod {_pod_names(host).get(uid, uid)}" if uid else ""
    return f"process {pid}{f' ({command})' if command else ''}{pod}"


def pods_and_others(users: t.Iterable[str]) -> tuple[list[str], list[str]]:
    """Of users as this file names them: the pods, as "namespace/name", and those who are of no pod known by name."""
    found = {user: POD_USER.match(user) for user in users}
    pods = dict.fromkeys(match.group(1) for match in found.values() if match)
    return list(pods), [user for user, match in found.items() if not match]


def _pod_entries(host: Host) -> list[tuple[str, list[str]]]:
    content = host.read_text(CHECKPOINT)
    if content is None:
        if host.exists(CHECKPOINT):
            raise CheckpointError(f"{CHECKPOINT} cannot be read")
        return []
    try:
        entries = json.loads(content)["Data"]["PodDeviceEntries"] or []
        return [
            (entry["PodUID"], _device_ids(entry["DeviceIDs"]))
            for entry in entries
            if entry["ResourceName"].startswith(RESOURCE_PREFIX)
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{CHECKPOINT} is not as kubelets since 1.20 write it: {error!r}") from error


def _device_ids(by_numa_node: t.Mapping[str, list[str]]) -> list[str]:
    """Replicas of a shared device carry its id and "::0", "::1" and so on."""
    return [device.split("::", 1)[0] for devices in by_numa_node.values() for device in devices or []]


def _running_pods(host: Host) -> set[str]:
    """UIDs of pods that have a process."""
    pods = (_pod_of(host.read_text(f"/proc/{name}/cgroup")) for name in host.names("/proc") if name.isdigit())
    return {uid for uid in pods if uid}


def _pod_of(cgroups: str | None) -> str | None:
    found = POD_CGROUP.search(cgroups or "")
    return found.group(1).replace("_", "-") if found else None


def _pod_names(host: Host) -> dict[str, str]:
    """UID -> "namespace/name"; neither of them can contain an underscore."""
    parts = (name.split("_") for name in host.names(POD_LOGS))
    return {words[2]: f"{words[0]}/{words[1]}" for words in parts if len(words) == 3}
