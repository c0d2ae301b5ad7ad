# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the GPU operator is given, how its release differs from that, and which GPUs are still missing. Pure.

Names and defaults are those of the chart gpu-operator v26.7.0.
"""

from __future__ import annotations

import json
import re
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.mig_offer import (
    GPU,
    Devices,
    devices_of_facts,
    devices_of_run,
    not_as_offered,
    offered,
)

Values = dict[str, t.Any]

ACCEPTANCE = "onprem.gpu/acceptance"  # the taint of a node that the role gpu_acceptance refused, and its annotation
DEFAULT_TAINTS = ({"key": GPU, "value": "present", "effect": "NoSchedule"},)
LONGEST_SHOWN_VALUE = 100  # characters; a list of tolerations would fill the screen
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
UNFINISHED = ("failed", "pending-install", "pending-upgrade", "pending-rollback", "uninstalling")

PAUSED_FOR_MIG = "paused-for-mig-change"  # the word of NVIDIA's MIG manager, and of our role gpu_mig

# Labels by which an admin keeps the device plugin off a node.
_SWITCHES = ("nvidia.com/gpu.deploy.operands", "nvidia.com/gpu.deploy.device-plugin")
# Helm replaces lists, so what the chart tolerates by default is said again.
_CONTROL_PLANE = [
    {"key": f"node-role.kubernetes.io/{name}", "operator": "Equal", "value": "", "effect": "NoSchedule"}
    for name in ("master", "control-plane")
]


class TaintError(ValueError):
    """A taint in the inventory that Kubernetes does not know."""


# --- values ---


def values(
    hosts: t.Iterable[t.Mapping[str, t.Any]],
    *,
    mig_strategy: str = "single",
    cdi: bool = True,
    overrides: t.Mapping[str, t.Any] | None = None,
) -> Values:
    """Return the chart's values for these hosts.

    hosts: their variables; gpu_node_taints counts, and where it is not set the default of the role gpu_node.
    overrides: values that win over all others; mappings are merged, lists replaced.
    Raises TaintError.
    """
    hosts = list(hosts)
    tolerated = tolerations(hosts)
    # In a cluster whose nodes are all tainted, the pods that run once have nowhere else to go; the chart prefers nodes
    # of the control plane for them all the same.
    everywhere = {"tolerations": _CONTROL_PLANE + tolerated}
    computed = {
        "driver": {"enabled": False},
        "toolkit": {"enabled": False},
        "cdi": {"enabled": cdi},
        "mig": {"strategy": mig_strategy},
        "operator": dict(everywhere),
        "daemonsets": {"tolerations": tolerated},
        "node-feature-discovery": {name: dict(everywhere) for name in ("worker", "master", "gc")},
    }
    if any(host.get("gpu_mig_layout") for host in hosts):
        computed["migManager"] = {"enabled": False}  # by default it would bring every node to all-disabled
    return merged(computed, overrides or {})


def tolerations(hosts: t.Iterable[t.Mapping[str, t.Any]]) -> list[dict[str, str]]:
    """Return one toleration per key and effect that any host is tainted with; whatever the taint's value is.

    A node that was refused is tainted too, and without its device plugin it could never be accepted again.
    """
    found = {(GPU, "NoSchedule"), (ACCEPTANCE, "NoSchedule")}
    for host in hosts:
        for taint in host.get("gpu_node_taints", DEFAULT_TAINTS):
            if taint.get("state", "present") == "present":
                found.add(_key_and_effect(taint, str(host.get("inventory_hostname", "a host"))))
    return [{"key": key, "operator": "Exists", "effect": effect} for key, effect in sorted(found)]


def _key_and_effect(taint: t.Mapping[str, t.Any], host: str) -> tuple[str, str]:
    key, effect = taint.get("key"), taint.get("effect")
    if not key or effect not in EFFECTS:
        raise TaintError(
            f"{host}: gpu_node_taints has {dict(taint)!r}. Allowed: a key, and an effect of {', '.join(EFFECTS)}."
        )
    return str(key), str(effect)


def merged(base: t.Mapping[str, t.Any], over: t.Mapping[str, t.Any]) -> Values:
    """Return both, where `over` wins; mappings are merged, everything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if both else value
    return result


# --- release ---


def release_changes(release: t.Mapping[str, t.Any], version: str, wanted: t.Mapping[str, t.Any]) -> list[str]:
    """Return, one line each, how a release differs from what it should be; nothing when it does not.

    release: status of the release as kubernetes.core.helm_info returns it, empty when there is none. version: of the
    chart; with or without a leading v.
    """
    if not release:
        return [f"chart: none -> {version}", *value_changes({}, wanted)]
    lines = []
    if release.get("status") in UNFINISHED:
        lines.append(f"release: {release['status']} -> deployed")
    if not _is_version(release.get("chart", ""), version):
        lines.append(f"chart: {release.get('chart')} -> {version}")
    return lines + value_changes(release.get("values") or {}, wanted)


def _is_version(chart: str, version: str) -> bool:
    """helm writes chart and version as one word, gpu-operator-v26.7.0."""
    return re.search(rf"-v?{re.escape(version.lstrip('v'))}$", chart) is not None


def value_changes(have: t.Any, want: t.Any, path: str = "values") -> list[str]:
    """Return, one line for each leaf, where two trees of values differ."""
    if isinstance(have, dict) and isinstance(want, dict):
        keys = sorted({*have, *want}, key=str)
        return [line for key in keys for line in value_changes(have.get(key), want.get(key), f"{path}.{key}")]
    if isinstance(want, dict) and have is None:
        return value_changes({}, want, path) if want else []
    return [] if have == want else [f"{path}: {_shown(have)} -> {_shown(want)}"]


def _shown(value: t.Any) -> str:
    if value is None:
        return "not set"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= LONGEST_SHOWN_VALUE else f"{text[: LONGEST_SHOWN_VALUE - 4]} ..."


# --- GPUs ---


def expected_gpus(hosts: t.Iterable[t.Mapping[str, t.Any]], mig_strategy: str = "single") -> dict[str, dict[str, int]]:
    """Return {node: {resource: count}} from the variables of hosts; hosts that were not looked at are left out.

    mig_strategy: of the device plugin. A layout that this run wrote counts, else the one that was found.
    """
    looked_at = [host for host in hosts if host.get("gpu_survey_host")]
    return {node_of(host): offered(_devices(host), mig_strategy) for host in looked_at}


def _devices(host: t.Mapping[str, t.Any]) -> list[Devices]:
    run = host.get("gpu_survey_mig") or {}
    gpus = run.get("after") or run.get("before")
    return devices_of_run(gpus) if gpus else devices_of_facts(host["gpu_survey_host"]["gpus"])


def node_of(host: t.Mapping[str, t.Any]) -> str:
    """Return the Node of a host: what this run made of it, what its kubelet says, or what the inventory wants."""
    joined = (host.get("gpu_survey_host") or {}).get("kubelet") or {}
    return str(
        (host.get("gpu_node_object") or {}).get("name")
        or (joined.get("node_name") if joined.get("joined") else None)
        or host.get("gpu_node_name")
        or host["inventory_hostname"]
    )


def missing_gpus(
    nodes: t.Mapping[str, t.Mapping[str, t.Any]],
    expected: t.Mapping[str, t.Mapping[str, int]],
    nothing_else: bool = False,
) -> dict[str, str]:
    """Return {node: sentence} for every node that offers less than it should.

    nodes: as onprem.gpu.nodes_info returns them. More than expected is fine: GPUs may be shared. A node that an admin
    keeps the device plugin off is not expected to offer anything. nothing_else: resources and labels of another MIG
    layout are wrong as well.
    """
    found = {}
    for name, wanted in sorted(expected.items()):
        node = nodes.get(name)
        if node is None:
            found[name] = "is not a node of the cluster"
        elif not any(node["labels"].get(switch) == "false" for switch in _SWITCHES):
            wrong = [_shortage(resource, node, count) for resource, count in sorted(wanted.items())]
            wrong += not_as_offered(node, wanted) if nothing_else else []
            if any(wrong):
                found[name] = " and ".join(filter(None, wrong)) + _why(node)
    return found


def _why(node: t.Mapping[str, t.Any]) -> str:
    if not node["ready"]:
        return "; it is not Ready"
    if any(node["labels"].get(switch) == PAUSED_FOR_MIG for switch in _SWITCHES):
        return "; a change of its MIG layout is going on or was interrupted, and onprem.gpu.partition ends it"
    return ""


def _shortage(resource: str, node: t.Mapping[str, t.Any], count: int) -> str:
    offered = node["allocatable"].get(resource)
    if int(offered or 0) >= count:
        return ""
    if offered is None:
        return f"offers no {resource} yet, wanted {count}"
    return f"offers {offered} {resource}, wanted {count}"
