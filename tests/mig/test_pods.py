# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kubelet gave to a pod is in use, also when the pod computes nothing and NVML lists no process."""

from __future__ import annotations

import json
import typing as t

H100 = "H100-SXM"
CHECKPOINT = "var/lib/kubelet/device-plugins/kubelet_internal_checkpoint"
UID = "0b1e7b0e-8a7c-4d57-9d1a-2f0d6f2c1a11"


def give(host: t.Any, device: str, resource: str, running: bool = True) -> None:
    """Write what a kubelet leaves behind that gave a device to the pod team-a/train-0."""
    entry = {"PodUID": UID, "ContainerName": "main", "ResourceName": resource, "DeviceIDs": {"-1": [device]}}
    checkpoint = host.root / CHECKPOINT
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text(json.dumps({"Data": {"PodDeviceEntries": [entry]}, "Checksum": 1}))
    (host.root / "var/log/pods" / f"team-a_train-0_{UID}").mkdir(parents=True)
    if running:
        cgroup = host.root / "proc/4711/cgroup"
        cgroup.parent.mkdir(parents=True)
        cgroup.write_text(f"0::/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-1.scope\n")


def uuid_at(host: t.Any, start: int) -> str:
    [gpu] = host.run(True, selected="all-enabled")["before"]
    [instance] = [one for one in gpu["instances"] if one["start"] == start]
    return t.cast("str", instance["compute_instances"][0]["uuid"])


def test_a_slice_of_a_pod_stays_and_the_rest_is_made_around_it(machine: t.Any) -> None:
    host = machine(H100)
    host.prepare("1g.10gb@0", "1g.10gb@1", "1g.10gb@2", "1g.10gb@3", "1g.10gb@4", "1g.10gb@5", "1g.10gb@6")
    give(host, uuid_at(host, 2), "nvidia.com/mig-1g.10gb")
    kept = host.identities()[2]
    result = host.run(selected="all-balanced")
    assert not result["failed"], result["msg"]
    assert "1g.10gb@2" in host.present()
    assert host.identities()[2] == kept


def test_a_slice_of_a_pod_in_the_way_is_named_with_its_pod(machine: t.Any) -> None:
    host = machine(H100)
    host.prepare("1g.10gb@1")
    give(host, uuid_at(host, 1), "nvidia.com/mig-1g.10gb")
    result = host.layout("3g.40gb", "3g.40gb")
    assert (result["failed"], result["reason"], host.calls()) == (True, "in_use", [])
    assert "pod team-a/train-0" in result["msg"]
    [blocker] = result["blockers"]
    assert (blocker["users"], blocker["pods"]) == (["pod team-a/train-0"], ["team-a/train-0"])
    assert (blocker["gpu"], blocker["others"], blocker["enough"]) == (0, [], True)


def test_of_several_ways_to_a_layout_one_is_named(machine: t.Any) -> None:
    host = machine("A100-SXM-40GB")
    host.prepare(*(f"1g.5gb@{start}" for start in range(7)))
    for start in (1, 5):
        host.mark_busy(host._place(0, start) + ".ci.0", 1)
    result = host.layout("3g.20gb", "1g.5gb", "1g.5gb")
    assert [(blocker["start"], blocker["enough"]) for blocker in result["blockers"]] == [(1, True), (5, False)]
    assert [(blocker["pods"], len(blocker["others"])) for blocker in result["blockers"]] == [([], 1), ([], 1)]


def test_what_can_never_be_is_not_told_as_in_use(machine: t.Any) -> None:
    """A caller that frees slices in use would do so in vain."""
    host = machine(H100, H100)
    host.prepare("1g.10gb@1*")
    host.prepare(gpu=1)
    wanted = [
        {"devices": [0], "mig-enabled": True, "mig-devices": {"7g.80gb": 1}},
        {"devices": [1], "mig-enabled": True, "mig-devices": {"1g.10gb": 1, "no-such": 1}},
    ]
    assert host.run(layout=wanted)["reason"] == "invalid"
    wanted[1]["mig-devices"] = {"1g.5gb": 1}
    assert host.run(layout=wanted)["reason"] != "in_use"


def test_a_pod_that_is_over_holds_nothing(machine: t.Any) -> None:
    host = machine(H100)
    host.prepare("1g.10gb@1")
    give(host, uuid_at(host, 1), "nvidia.com/mig-1g.10gb", running=False)
    assert host.layout("3g.40gb", "3g.40gb")["failed"] is False


def test_a_gpu_that_was_given_whole_is_not_partitioned(machine: t.Any) -> None:
    host = machine(H100, H100)
    [first, _second] = host.run(True, selected="all-enabled")["before"]
    give(host, first["uuid"], "nvidia.com/gpu")
    result = host.run(selected="all-balanced")
    assert (result["failed"], result["reason"], host.calls()) == (True, "in_use", [])
    assert "pod team-a/train-0" in result["msg"]


def test_a_checkpoint_nobody_understands_stops_the_run(machine: t.Any) -> None:
    host = machine(H100)
    (host.root / CHECKPOINT).parent.mkdir(parents=True)
    (host.root / CHECKPOINT).write_text("{")
    result = host.run(selected="all-balanced")
    assert (result["failed"], result["reason"], host.calls()) == (True, "driver", [])
    assert "cannot be told which pods use GPUs" in result["msg"]
