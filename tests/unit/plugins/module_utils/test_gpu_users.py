# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.gpu_users import (
    CHECKPOINT,
    CheckpointError,
    described_process,
    pods_by_device,
)

TRAIN, SERVE, OVER = (f"{digit * 8}-0000-4000-8000-{digit * 12}" for digit in "abc")
SYSTEMD = "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/cri-containerd-1.scope\n"
CGROUPFS = "4:memory:/kubepods/burstable/pod{uid}/1f\n1:name=systemd:/kubepods/burstable/pod{uid}/1f\n"


def entry(uid, *devices, resource="nvidia.com/mig-1g.10gb"):
    return {
        "PodUID": uid,
        "ContainerName": "main",
        "ResourceName": resource,
        "DeviceIDs": {"-1": list(devices)},
        "AllocResp": "",
    }


@pytest.fixture
def node(host_tree):
    """A host whose kubelet gave devices to two running pods and to one that is over."""
    host_tree.write("/proc/10/cgroup", SYSTEMD.format(uid=TRAIN.replace("-", "_")))
    host_tree.write("/proc/10/comm", "python3\n")
    host_tree.write("/proc/20/cgroup", CGROUPFS.format(uid=SERVE))
    host_tree.write("/proc/30/cgroup", "0::/system.slice/sshd.service\n")
    host_tree.folder(f"/var/log/pods/team_train-0_{TRAIN}")
    host_tree.folder(f"/var/log/pods/team_over_{OVER}")
    entries = [
        entry(TRAIN, "MIG-1", "MIG-2"),
        entry(SERVE, "GPU-7::1", resource="nvidia.com/gpu.shared"),
        entry(OVER, "MIG-3"),
        entry(TRAIN, "fpga-1", resource="example.com/fpga"),
    ]
    host_tree.write(CHECKPOINT, json.dumps({"Data": {"PodDeviceEntries": entries}, "Checksum": 1}))
    return host_tree


def test_devices_name_the_running_pods_that_hold_them(node):
    assert pods_by_device(node.host()) == {
        "MIG-1": ["team/train-0"],
        "MIG-2": ["team/train-0"],
        "GPU-7": [f"pod {SERVE}"],
    }


def test_a_host_without_a_kubelet_has_no_pods(host_tree):
    assert pods_by_device(host_tree.host()) == {}


def test_a_kubelet_that_gave_nothing_away_writes_null(node):
    node.write(CHECKPOINT, json.dumps({"Data": {"PodDeviceEntries": None}, "Checksum": 1}))
    assert pods_by_device(node.host()) == {}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"Data": {}}', '{"Data": {"PodDeviceEntries": [{"PodUID": "x"}]}}']
)
def test_a_checkpoint_nobody_understands_is_an_error_and_not_idleness(node, content):
    node.write(CHECKPOINT, content)
    with pytest.raises(CheckpointError, match=CHECKPOINT):
        pods_by_device(node.host())


def test_a_process_is_told_with_its_pod(node):
    assert described_process(node.host(), 10) == "process 10 (python3) of pod team/train-0"
    assert described_process(node.host(), 20) == f"process 20 of pod {SERVE}"
    assert described_process(node.host(), 30) == "process 30"
    assert described_process(node.host(), 40) == "process 40"
