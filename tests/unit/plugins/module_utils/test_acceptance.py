# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A sound node passes every check; each kind of trouble fails its own check, with a message that says what to do."""

from __future__ import annotations

import copy
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.onprem.gpu.plugins.module_utils.acceptance import OF_DRIVER, checks, unsettled

ROOT = Path(__file__).resolve().parents[4]
NODE, GPU, SLICE = "node-a", "nvidia.com/gpu", "nvidia.com/mig-3g.40gb"
ADDRESSES = ["0000:1b:00.0", "0000:43:00.0"]
OF_EVERY_NODE = [
    "gpus_on_bus",
    "driver_version",
    "driver_answers",
    "gpus_seen",
    "ecc_errors",
    "row_remap",
    "persistence",
    "fabric",
    "mig_layout",
    "cdi_devices",
    "node_ready",
    "node_boot",
    "node_offers",
    "runtime_class",
    "smoke_pod",
]

Facts = dict[str, t.Any]


def sound_gpu(number: int) -> Facts:
    return {
        "pci_address": ADDRESSES[number],
        "uuid": f"GPU-{number}",
        "mig_mode": "disabled",
        "mig_uuids": [],
        "persistence": True,
        "ecc_uncorrected": 0,
        "row_remap_pending": False,
        "row_remap_failed": False,
        "fabric": "completed",
    }


class Case:
    """A sound node with NVSwitches, two GPUs, a layout and a runtime class; tests break one thing of it."""

    def __init__(self) -> None:
        self.host: Facts = {
            "os": {"boot_id": "boot-1"},
            "pci": [{"kind": "gpu", "address": address} for address in ADDRESSES] + [{"kind": "nvswitch"}],
            "gpus": [sound_gpu(0), sound_gpu(1)],
            "driver": {"module_version": "580.173.02"},
            "nvml": {"state": "ok", "message": ""},
            "nvswitch": {"present": True, "fabric_manager": True},
            "toolkit": {"cdi_devices": ["0", "1", "GPU-0", "GPU-1", "all"]},
        }
        self.wishes: Facts = {
            "node": NODE,
            "gpus": 0,
            "driver_version": "580.173.02",
            "fabric_manager": True,
            "mig_layout": "all-disabled",
            "mig_differences": [],
            "expected": {GPU: 2},
            "runtime_handler": "nvidia",
            "smoke_not_run": "",
        }
        self.node: Facts | None = {
            "uid": "u",
            "boot_id": "boot-1",
            "ready": True,
            "ready_message": "kubelet is posting ready status",
            "labels": {"nvidia.com/gpu.deploy.device-plugin": "true", "nvidia.com/gfd.timestamp": "1"},
            "annotations": {},
            "allocatable": {"cpu": "64", GPU: "2"},
            "runtime_handlers": ["runc", "nvidia"],
        }
        self.smoke: list[dict[str, str]] = [report("passed", "")]
        self.logs: dict[str, str] = {}

    def checks(self) -> list[Facts]:
        return checks(self.host, self.wishes, self.node, self.smoke, self.logs)

    def failed(self) -> dict[str, str]:
        return {one["check"]: one["message"] for one in self.checks() if one["passed"] is False}

    def unjudged(self) -> dict[str, str]:
        return {one["check"]: one["message"] for one in self.checks() if one["passed"] is None}


def report(state: str, told: str, resource: str = GPU) -> dict[str, str]:
    return {"node": NODE, "resource": resource, "pod": "gpu-acceptance-1", "state": state, "told": told}


def test_a_sound_node_passes_every_check_there_is() -> None:
    found = Case().checks()
    assert [one["check"] for one in found] == OF_EVERY_NODE
    assert {one["passed"] for one in found} == {True}
    assert {one["message"] for one in found} == {""}


def test_every_check_can_be_given_another_severity() -> None:
    specification = yaml.safe_load((ROOT / "roles/gpu_acceptance/meta/argument_specs.yml").read_text())
    options = specification["argument_specs"]["main"]["options"]["gpu_acceptance_severity"]["options"]
    assert list(options) == OF_EVERY_NODE


# --- each check fails ---


def set_gpu(case: Case, **facts: t.Any) -> None:
    case.host["gpus"][1].update(facts)


def partitioned(case: Case) -> None:
    for number in (0, 1):
        case.host["gpus"][number] |= {"mig_mode": "enabled", "mig_uuids": [f"MIG-{number}-a", f"MIG-{number}-b"]}
    case.wishes |= {"mig_layout": "own", "expected": {SLICE: 4}}
    case.host["toolkit"]["cdi_devices"] = ["0:0", "0:1", "1:0", "1:1", "MIG-0-a", "MIG-0-b", "MIG-1-a", "MIG-1-b"]
    assert case.node is not None
    case.node["allocatable"] = {SLICE: "4"}
    case.node["labels"][f"{SLICE}.count"] = "4"


def stale_cdi(case: Case) -> None:
    partitioned(case)
    case.host["toolkit"]["cdi_devices"].remove("MIG-1-b")


def another_layout(case: Case) -> None:
    partitioned(case)
    assert case.node is not None
    case.node["allocatable"][GPU] = "2"


def label(case: Case, name: str, value: str) -> None:
    assert case.node is not None
    case.node["labels"][f"nvidia.com/gpu.deploy.{name}"] = value
    case.node["allocatable"][GPU] = "0"


def edit_node(case: Case, **facts: t.Any) -> None:
    assert case.node is not None
    case.node.update(facts)


def smoke(case: Case, state: str, told: str, log: str = "") -> None:
    case.smoke = [report(state, told)]
    case.logs = {"gpu-acceptance-1": log}


GPU_1 = "GPU 0000:43:00.0"
TROUBLES: list[tuple[str, t.Callable[[Case], object], tuple[str, ...]]] = [
    ("gpus_on_bus", lambda case: case.wishes.update(gpus=3), ("2 GPUs", "wanted 3", "replace it")),
    ("gpus_on_bus", lambda case: case.wishes.update(gpus=1), ("2 GPUs", "wanted 1")),
    ("driver_version", lambda case: case.host.update(driver={"module_version": None}), ("no NVIDIA driver", "prepare")),
    (
        "driver_version",
        lambda case: case.host.update(driver={"module_version": "580.9"}),
        ("580.9", "wanted 580.173.02", "drain"),
    ),
    (
        "driver_answers",
        lambda case: case.host.update(nvml={"state": "version_mismatch", "message": "not the same"}),
        ("version_mismatch", "not the same", "reboot"),
    ),
    (
        "driver_answers",
        lambda case: case.host.update(nvml={"state": "error", "message": "Unknown Error"}),
        ("Unknown Error", "Xid"),
    ),
    ("gpus_seen", lambda case: set_gpu(case, uuid=None), (GPU_1, "reboot", "Xid 79")),
    ("ecc_errors", lambda case: set_gpu(case, ecc_uncorrected=4), (GPU_1, "reset the GPU")),
    ("row_remap", lambda case: set_gpu(case, row_remap_pending=True), (GPU_1, "wait for a reset")),
    (
        "row_remap",
        lambda case: set_gpu(case, row_remap_failed=True, row_remap_pending=True),
        (GPU_1, "replace the GPU"),
    ),
    ("persistence", lambda case: set_gpu(case, persistence=False), (GPU_1, "nvidia-persistenced")),
    ("fabric", lambda case: case.host["nvswitch"].update(fabric_manager=False), ("nvidia-fabricmanager", "802")),
    ("fabric", lambda case: set_gpu(case, fabric="in_progress"), ("in_progress", "reboot")),
    (
        "mig_layout",
        lambda case: case.wishes.update(mig_differences=[{"name": "GPU 1", "want": "MIG off", "have": "MIG on"}]),
        ("all-disabled", "GPU 1", "onprem.gpu.partition"),
    ),
    ("cdi_devices", lambda case: case.host["toolkit"].update(cdi_devices=None), ("toolkit is not installed",)),
    ("cdi_devices", lambda case: case.host["toolkit"].update(cdi_devices=[]), ("GPU-0, GPU-1", "nvidia-cdi-refresh")),
    ("cdi_devices", lambda case: case.host["toolkit"].update(cdi_devices=["0", "1", "GPU-old", "GPU-0"]), ("GPU-1",)),
    ("cdi_devices", lambda case: case.host["toolkit"].update(cdi_devices=["0", "all"]), ("GPU-1",)),
    ("cdi_devices", stale_cdi, ("lacks MIG-1-b",)),
    (
        "node_ready",
        lambda case: edit_node(case, ready=False, ready_message="container runtime is down"),
        (NODE, "container runtime is down", "kubelet"),
    ),
    ("node_boot", lambda case: edit_node(case, boot_id="boot-0"), (NODE, "another boot", "kubelet")),
    ("node_offers", lambda case: edit_node(case, allocatable={GPU: "1"}), ("offers 1", "wanted 2", "device plugin")),
    ("node_offers", lambda case: label(case, "device-plugin", "false"), ("deploy.device-plugin=false keeps",)),
    ("node_offers", lambda case: label(case, "operands", "paused"), ("deploy.operands=paused keeps",)),
    ("node_offers", another_layout, ("still offers 2 nvidia.com/gpu",)),
    ("node_offers", lambda case: case.wishes.update(expected={}), ("gpu_operator_mig_strategy",)),
    (
        "runtime_class",
        lambda case: edit_node(case, runtime_handlers=["runc", "gvisor"]),
        (NODE, "no handler nvidia", "gvisor, runc", "onprem.gpu.prepare"),
    ),
    (
        "smoke_pod",
        lambda case: smoke(case, "failed", "it ended with exit code 1 (Error)", "line one\nno CUDA device"),
        ("1 nvidia.com/gpu", "exit code 1", "It said: line one no CUDA device"),
    ),
    (
        "smoke_pod",
        lambda case: smoke(case, "running", "ErrImagePull: not found"),
        ("did not end in time", "ErrImagePull"),
    ),
]


@pytest.mark.parametrize(
    ("check", "breaks", "words"), TROUBLES, ids=[f"{name}-{n}" for n, (name, *_) in enumerate(TROUBLES)]
)
def test_each_trouble_fails_its_own_check_alone(
    check: str, breaks: t.Callable[[Case], object], words: tuple[str, ...]
) -> None:
    case = Case()
    breaks(case)
    failed = case.failed()
    assert list(failed) == [check]
    assert [word for word in words if word not in failed[check]] == []


def test_every_check_is_among_those_made_to_fail() -> None:
    assert {name for name, *_ in TROUBLES} == set(OF_EVERY_NODE)


# --- what cannot be judged ---


def test_without_a_gpu_on_the_bus_the_host_fails_and_nothing_of_it_is_judged() -> None:
    case = Case()
    case.host |= {"pci": [], "gpus": []}
    assert "take the host out of the group gpu_nodes" in case.failed()["gpus_on_bus"]
    assert set(case.unjudged()) == {"driver_version", "driver_answers", *OF_DRIVER}


def test_a_driver_that_does_not_answer_leaves_its_gpus_unjudged() -> None:
    case = Case()
    case.host["nvml"] = {"state": "driver_not_loaded", "message": ""}
    for gpu in case.host["gpus"]:
        gpu.update(dict.fromkeys(set(gpu) - {"pci_address"}))
    assert list(case.failed()) == ["driver_answers"]
    assert set(case.unjudged()) == set(OF_DRIVER)


def test_a_host_that_is_no_node_fails_once() -> None:
    case = Case()
    case.node, case.smoke = None, []
    assert list(case.failed()) == ["node_ready"]
    assert set(case.unjudged()) == {"node_boot", "node_offers", "runtime_class", "smoke_pod"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ready": False}, "the node is not Ready"),
        ({"allocatable": {}}, "the node offers no GPU"),
    ],
)
def test_why_there_was_no_pod(change: Facts, why: str) -> None:
    case = Case()
    edit_node(case, **change)
    case.smoke = []
    assert case.unjudged() == {"smoke_pod": f"not judged: {why}"}


def test_the_play_may_say_why_there_was_no_pod() -> None:
    case = Case()
    case.smoke = []
    case.wishes["smoke_not_run"] = "check mode runs no pod"
    assert case.unjudged() == {"smoke_pod": "not judged: check mode runs no pod"}


def test_a_pod_without_a_device_is_no_verdict_on_the_node() -> None:
    case = Case()
    case.smoke = [report("no_verdict", "all devices are taken"), report("passed", "", SLICE)]
    assert case.failed() == {}
    assert "all devices are taken" in case.unjudged()["smoke_pod"]


# --- what is not asked for ---


def test_what_is_not_wanted_is_not_checked() -> None:
    case = Case()
    case.wishes |= {"fabric_manager": False, "mig_layout": "", "runtime_handler": ""}
    case.host["nvswitch"] = {"present": False, "fabric_manager": False}
    assert [one["check"] for one in case.checks()] == [
        name for name in OF_EVERY_NODE if name not in ("fabric", "mig_layout", "runtime_class")
    ]
    assert case.failed() == {}


def test_what_a_gpu_does_not_tell_is_no_trouble() -> None:
    case = Case()
    unknown = ("persistence", "ecc_uncorrected", "row_remap_pending", "row_remap_failed", "fabric")
    set_gpu(case, **dict.fromkeys(unknown))
    assert case.failed() == {}


def test_a_runtime_that_does_not_tell_its_handlers_is_not_judged_by_them() -> None:
    case = Case()
    edit_node(case, runtime_handlers=[])
    assert case.failed() == {}
    assert "does not tell its handlers" in case.unjudged()["runtime_class"]


def test_mig_devices_are_what_containers_are_given() -> None:
    case = Case()
    partitioned(case)
    assert case.failed() == {}


def test_gpus_of_specifications_without_uuids_are_counted() -> None:
    case = Case()
    case.host["toolkit"]["cdi_devices"] = ["gpu0", "gpu1", "all"]
    assert case.failed() == {}


def test_more_devices_than_gpus_are_fine_since_gpus_may_be_shared() -> None:
    case = Case()
    edit_node(case, allocatable={GPU: "8"})
    assert case.failed() == {}


def test_judging_leaves_its_inputs_alone() -> None:
    case, untouched = Case(), Case()
    case.checks()
    assert (case.host, case.wishes, case.node) == (untouched.host, untouched.wishes, untouched.node)


# --- waiting ---

TARGET = {"node": NODE, "expected": {GPU: 2}, "boot_id": "boot-1", "waits": True}


def waited_for(target: Facts | None = None, **facts: t.Any) -> list[str]:
    node = copy.deepcopy(Case().node)
    assert node is not None
    return unsettled({NODE: {**node, **facts}}, [{**TARGET, **(target or {})}])


def test_a_node_as_wanted_is_not_waited_for() -> None:
    assert waited_for() == []


@pytest.mark.parametrize("facts", [{"ready": False}, {"boot_id": "boot-0"}, {"allocatable": {GPU: "1"}}])
def test_what_may_still_come_is_waited_for(facts: Facts) -> None:
    assert waited_for(**facts) == [NODE]


def test_what_will_not_come_is_not_waited_for() -> None:
    off = {"labels": {"nvidia.com/gpu.deploy.device-plugin": "false"}, "allocatable": {}}
    assert waited_for(**off) == []
    assert waited_for({"waits": False}, ready=False) == []
    assert unsettled({}, [TARGET]) == []
