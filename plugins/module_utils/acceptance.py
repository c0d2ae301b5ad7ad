# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a node may serve: checks of its host, of the node, and of pods that tried its GPUs.

    unsettled(nodes, targets) -> names of nodes that may still come to what is wanted
    checks(host, wishes, node, smoke, logs) -> list[Check]

Pure. A check is {check, passed, want, have, message}. passed: True, False, or None where nobody could judge; message
says what is wrong and what to do, or why nobody could judge.

`host` is the registered result of onprem.gpu.gpu_info, `node` an entry of onprem.gpu.nodes_info or None, `smoke` the
reports of smoke_pod.py for this node, `logs` what their pods said. `wishes`:

    node                name of the node
    gpus                GPUs the host must have, 0 = at least one
    driver_version      of the driver that is wanted
    fabric_manager      whether it is wanted to run
    mig_layout          name of the wanted layout, "" = whatever there is
    mig_differences     what onprem.gpu.survey found different from that layout
    expected            {resource: count} that the node should offer
    runtime_handler     of the RuntimeClass that GPU pods use, "" = they use none
    smoke_not_run       why there were no pods, "" = there were
"""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.driver_plan import gpus as gpus_on_bus
from ansible_collections.onprem.gpu.plugins.module_utils.operator_plan import missing_gpus
from ansible_collections.onprem.gpu.plugins.module_utils.smoke_pod import Report, resources

DEPLOY_LABELS = "nvidia.com/gpu.deploy."
LONGEST_LOG = 300  # characters, from its end

Facts = t.Mapping[str, t.Any]
Check = dict[str, t.Any]


def unsettled(nodes: t.Mapping[str, Facts], targets: t.Iterable[Facts]) -> list[str]:
    """Return the nodes that are not yet Ready, booted and offering as wanted.

    targets: {node, expected, boot_id, waits}. A node that is not there, or whose device plugin somebody keeps off, will
    not come by waiting; nor is one worth it whose host has failed already (waits).
    """
    return sorted(
        target["node"] for target in targets if target["waits"] and _is_unsettled(nodes.get(target["node"]), target)
    )


def _is_unsettled(node: Facts | None, target: Facts) -> bool:
    if node is None:
        return False
    name = target["node"]
    lacks = missing_gpus({name: node}, {name: target["expected"]}, nothing_else=True)
    return bool(lacks) or not node["ready"] or node["boot_id"] != target["boot_id"]


def checks(
    host: Facts,
    wishes: Facts,
    node: Facts | None,
    smoke: t.Sequence[Report] = (),
    logs: t.Mapping[str, str] | None = None,
) -> list[Check]:
    """Return all checks, in the order in which one follows from another."""
    return [*_of_host(host, wishes), *_of_node(host, wishes, node), *_of_pods(wishes, node, smoke, logs or {})]


def _check(name: str, want: str, have: str, trouble: str = "") -> Check:
    """A check that passed unless there is trouble, a sentence without its full stop."""
    return {"check": name, "passed": not trouble, "want": want, "have": have, "message": trouble}


def _unjudged(name: str, why: str, want: str = "") -> Check:
    return {"check": name, "passed": None, "want": want, "have": "", "message": f"not judged: {why}"}


# --- host -------------------------------------------------------------------------------------------------------------


def _of_host(host: Facts, wishes: Facts) -> list[Check]:
    found = [_gpus_on_bus(host, wishes)]
    names = [name for name in OF_DRIVER if name not in _not_wanted(wishes)]
    if not gpus_on_bus(host):
        why = "there is no GPU on the PCI bus"
        return found + [_unjudged(name, why) for name in ("driver_version", "driver_answers", *names)]
    found += [_driver_version(host, wishes), _driver_answers(host)]
    if host["nvml"]["state"] != "ok":
        return found + [_unjudged(name, "the driver does not answer") for name in names]
    return found + [OF_DRIVER[name](host, wishes) for name in names]


def _not_wanted(wishes: Facts) -> set[str]:
    wanted = {"fabric": wishes["fabric_manager"], "mig_layout": wishes["mig_layout"]}
    return {name for name, value in wanted.items() if not value}


def _gpus_on_bus(host: Facts, wishes: Facts) -> Check:
    have, want = len(gpus_on_bus(host)), int(wishes["gpus"])
    if want and have != want:
        text = f"{_count(have)} on the PCI bus, wanted {want}: look for a card that is dead or sits loose, replace it"
        return _check("gpus_on_bus", str(want), str(have), text)
    nothing = "there is no GPU on the PCI bus: look for one that is dead, or take the host out of the group gpu_nodes"
    return _check("gpus_on_bus", str(want or "at least 1"), str(have), "" if have else nothing)


def _driver_version(host: Facts, wishes: Facts) -> Check:
    have, want = host["driver"]["module_version"], wishes["driver_version"]
    trouble = ""
    if not have:
        trouble = f"no NVIDIA driver is loaded, wanted {want}: run onprem.gpu.prepare"
    elif have != want:
        trouble = f"driver {have} is loaded, wanted {want}: drain the node and run onprem.gpu.prepare"
    return _check("driver_version", str(want), have or "none", trouble)


def _driver_answers(host: Facts) -> Check:
    state, message = host["nvml"]["state"], host["nvml"]["message"]
    todo = {
        "no_library": "run onprem.gpu.prepare",
        "driver_not_loaded": "run onprem.gpu.prepare",
        "version_mismatch": "the loaded driver is not the installed one; reboot the host",
    }.get(state, "look into the kernel log for Xid errors and reboot the host")
    trouble = "" if state == "ok" else f"the driver's library does not answer ({state}, {message}): {todo}"
    return _check("driver_answers", "ok", state, trouble)


def _gpus_seen(host: Facts, _wishes: Facts) -> Check:
    lost = [gpu for gpu in host["gpus"] if not gpu["uuid"]]
    trouble = ""
    if lost:
        names = _named(lost)
        trouble = (
            f"the driver does not see {names}: reboot the host, and replace what stays lost (Xid 79 in its kernel log)"
        )
    return _check("gpus_seen", str(len(host["gpus"])), str(len(_seen(host))), trouble)


def _ecc_errors(host: Facts, _wishes: Facts) -> Check:
    counts = {gpu["pci_address"]: gpu.get("ecc_uncorrected") or 0 for gpu in _seen(host)}
    bad = [gpu for gpu in _seen(host) if counts[gpu["pci_address"]]]
    trouble = f"memory errors that ECC could not correct on {_named(bad)}: reset the GPU or reboot" if bad else ""
    return _check("ecc_errors", "0", str(sum(counts.values())), trouble)


def _row_remap(host: Facts, _wishes: Facts) -> Check:
    failed = [gpu for gpu in _seen(host) if gpu.get("row_remap_failed")]
    pending = [gpu for gpu in _seen(host) if gpu.get("row_remap_pending")]
    trouble = f"memory rows of {_named(pending)} wait for a reset: reset the GPU or reboot" if pending else ""
    if failed:
        trouble = f"no spare memory row is left for a broken one on {_named(failed)}: replace the GPU"
    have = "failed" if failed else "pending" if pending else "none"
    return _check("row_remap", "none", have, trouble)


def _persistence(host: Facts, _wishes: Facts) -> Check:
    off = [gpu for gpu in _seen(host) if gpu["persistence"] is False]
    trouble = (
        f"persistence is off on {_named(off)}: start nvidia-persistenced, or run onprem.gpu.prepare" if off else ""
    )
    return _check("persistence", "on", "off" if off else "on", trouble)


def _fabric(host: Facts, _wishes: Facts) -> Check:
    """GPUs before Hopper do not tell how far the fabric is; there the service's state has to do."""
    states = {str(gpu["fabric"]) for gpu in _seen(host) if gpu.get("fabric")} - {"completed"}
    if not host["nvswitch"].get("fabric_manager"):
        trouble = (
            "nvidia-fabricmanager does not run, so CUDA fails with error 802: see its journal, run onprem.gpu.prepare"
        )
        return _check("fabric", "completed", "no fabric manager", trouble)
    have = ", ".join(sorted(states)) or "completed"
    trouble = (
        f"the NVSwitch fabric is {have}: see the journal of nvidia-fabricmanager and reboot the host" if states else ""
    )
    return _check("fabric", "completed", have, trouble)


def _mig_layout(_host: Facts, wishes: Facts) -> Check:
    differences = wishes["mig_differences"]
    want = "; ".join(f"{one['name']}: {one['want']}" for one in differences) or wishes["mig_layout"]
    have = "; ".join(f"{one['name']}: {one['have']}" for one in differences) or wishes["mig_layout"]
    names = ", ".join(one["name"] for one in differences)
    trouble = f"layout {wishes['mig_layout']} is not on {names}: run onprem.gpu.partition" if differences else ""
    return _check("mig_layout", want, have, trouble)


def _cdi_devices(host: Facts, _wishes: Facts) -> Check:
    """By UUID where the specifications name any, which tells a replaced board from the one before it."""
    devices = [device for gpu in _seen(host) for device in _devices(gpu)]
    listed = host["toolkit"].get("cdi_devices")
    names = [name for name in listed or [] if name != "all"]
    by_uuid = any(name.startswith(("GPU-", "MIG-")) for name in names)
    missing = [device for device in devices if device not in names] if by_uuid else devices[len(names) :]
    trouble = ""
    if listed is None:
        trouble = "NVIDIA's container toolkit is not installed: run onprem.gpu.prepare"
    elif missing:
        text = f"the CDI specification lacks {', '.join(missing)}"
        trouble = f"{text}: restart nvidia-cdi-refresh.service, or run onprem.gpu.prepare"
    return _check("cdi_devices", str(len(devices)), str(len(devices) - len(missing)), trouble)


def _devices(gpu: Facts) -> list[str]:
    """UUIDs of what containers can be given of a GPU."""
    return list(gpu.get("mig_uuids") or []) if gpu["mig_mode"] == "enabled" else [gpu["uuid"]]


def _seen(host: Facts) -> list[Facts]:
    return [gpu for gpu in host["gpus"] if gpu["uuid"]]


def _named(gpus: t.Iterable[Facts]) -> str:
    return "GPU " + ", ".join(str(gpu["pci_address"]) for gpu in gpus)


def _count(gpus: int) -> str:
    return "1 GPU" if gpus == 1 else f"{gpus} GPUs"


# What only a driver that answers can tell.
OF_DRIVER: dict[str, t.Callable[[Facts, Facts], Check]] = {
    "gpus_seen": _gpus_seen,
    "ecc_errors": _ecc_errors,
    "row_remap": _row_remap,
    "persistence": _persistence,
    "fabric": _fabric,
    "mig_layout": _mig_layout,
    "cdi_devices": _cdi_devices,
}


# --- node -------------------------------------------------------------------------------------------------------------


def _of_node(host: Facts, wishes: Facts, node: Facts | None) -> list[Check]:
    name, handler = wishes["node"], wishes["runtime_handler"]
    if node is None:
        trouble = f"the cluster has no node {name}: join the host with onprem.gpu.site, or set gpu_node_name"
        names = ("node_boot", "node_offers", *(["runtime_class"] if handler else []))
        later = [_unjudged(check, "there is no such node") for check in names]
        return [_check("node_ready", "Ready", "no node", trouble), *later]
    found = [_ready(name, node), _boot(name, node, host), _offers(name, node, wishes["expected"])]
    return [*found, _runtime_class(name, node, handler)] if handler else found


def _ready(name: str, node: Facts) -> Check:
    said = node["ready_message"] or "its kubelet says nothing"
    trouble = "" if node["ready"] else f"node {name} is not Ready ({said}): see the journal of its kubelet"
    return _check("node_ready", "Ready", "Ready" if node["ready"] else "not Ready", trouble)


def _boot(name: str, node: Facts, host: Facts) -> Check:
    """The node is this host, and its kubelet has reported since the host booted."""
    want, have = host["os"]["boot_id"], node["boot_id"]
    text = (
        f"node {name} tells of another boot than the host: its kubelet has not reported since the host booted, or "
        "another machine has the node's name; see the journal of its kubelet"
    )
    return _check("node_boot", str(want), str(have), "" if want == have else text)


def _offers(name: str, node: Facts, expected: t.Mapping[str, int]) -> Check:
    """Whoever keeps the device plugin off has a reason, and a node that must not serve all the same."""
    switches = {label: value for label, value in node["labels"].items() if label.startswith(DEPLOY_LABELS)}
    bare = {**node, "labels": {label: node["labels"][label] for label in node["labels"] if label not in switches}}
    wrong = missing_gpus({name: bare}, {name: expected}, nothing_else=True).get(name)
    off = [f"{label}={value}" for label, value in switches.items() if value != "true" and _is_vital(label)]
    trouble = ""
    if not expected:
        trouble = (
            "the MIG devices become no resource: set gpu_operator_mig_strategy to mixed, or another gpu_mig_layout"
        )
    elif wrong:
        todo = f"label {', '.join(off)} keeps the device plugin off" if off else "see the device plugin's pod on it"
        trouble = f"node {name} {wrong}: {todo}"
    have = {resource: int(node["allocatable"][resource]) for resource in resources(node)}
    return _check("node_offers", _told(expected), _told(have), trouble)


def _is_vital(label: str) -> bool:
    return label[len(DEPLOY_LABELS) :] in ("operands", "device-plugin")


def _told(counts: t.Mapping[str, int]) -> str:
    return ", ".join(f"{count} {resource}" for resource, count in sorted(counts.items())) or "nothing"


def _runtime_class(name: str, node: Facts, handler: str) -> Check:
    """Containerd before 2.0 does not tell its handlers."""
    have = ", ".join(sorted(node["runtime_handlers"]))
    if not have:
        return _unjudged("runtime_class", "the container runtime does not tell its handlers", handler)
    text = f"the container runtime of node {name} has no handler {handler}, only {have}: run onprem.gpu.prepare"
    return _check("runtime_class", handler, have, "" if handler in node["runtime_handlers"] else text)


# --- pods -------------------------------------------------------------------------------------------------------------


def _of_pods(wishes: Facts, node: Facts | None, smoke: t.Sequence[Report], logs: t.Mapping[str, str]) -> list[Check]:
    if smoke:
        return [_smoke_pod(report, logs.get(report["pod"], "")) for report in smoke]
    return [_unjudged("smoke_pod", _why_no_pod(wishes, node), "a pod that ends well")]


def _why_no_pod(wishes: Facts, node: Facts | None) -> str:
    if wishes["smoke_not_run"]:
        return str(wishes["smoke_not_run"])
    if node is None or not node["ready"]:
        return "the node is not Ready"
    return "the node offers no GPU"


def _smoke_pod(report: Report, log: str) -> Check:
    want = f"a pod with 1 {report['resource']} that ends well"
    subject = f"the pod that asked for 1 {report['resource']}"
    if report["state"] == "passed":
        return _check("smoke_pod", want, "it did")
    if report["state"] == "no_verdict":
        return {**_unjudged("smoke_pod", f"{subject} got no device: {report['told']}", want), "have": "no device free"}
    said = f". It said: {' '.join(log.split())[-LONGEST_LOG:]}" if log.strip() else ""
    if report["state"] == "running":
        return _check("smoke_pod", want, "no end", f"{subject} did not end in time: {report['told']}{said}")
    return _check("smoke_pod", want, "failed", f"{subject} failed: {report['told']}{said}")
