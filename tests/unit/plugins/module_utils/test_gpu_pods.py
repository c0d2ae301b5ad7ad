# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils import gpu_pods

GPU = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}


def pod(name="train", node="gpu-a", phase="Running", owners=(), **spec):
    return {
        "metadata": {"namespace": "vision", "name": name, "ownerReferences": list(owners)},
        "spec": {"nodeName": node, "containers": [{}], **spec},
        "status": {"phase": phase},
    }


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": [GPU]},
        {"containers": [{}, {"resources": {"requests": {"nvidia.com/mig-1g.10gb": "1"}}}]},
        {"containers": [{"resources": {"limits": {"nvidia.com/gpu.shared": "1"}}}]},
        {"initContainers": [GPU]},
        {"ephemeralContainers": [GPU]},
        {"resourceClaims": [{"name": "gpu"}]},
        {"runtimeClassName": "nvidia"},
        {"containers": [{"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}]},
    ],
)
def test_a_pod_that_has_or_may_have_a_gpu_holds_one(spec):
    assert gpu_pods.holds_gpu(pod(**spec))


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown"])
def test_a_pod_holds_its_gpu_until_it_is_finished(phase):
    assert gpu_pods.holds_gpu(pod(phase=phase, containers=[GPU]))


@pytest.mark.parametrize(
    "harmless",
    [
        pod(),
        pod(phase="Succeeded", containers=[GPU]),
        pod(phase="Failed", containers=[GPU]),
        pod(containers=[{"resources": {"limits": {"cpu": "1", "example.com/nvidia.com": "1"}}}]),
        pod(containers=[{"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]}]),
        pod(containers=[GPU], owners=[{"kind": "DaemonSet", "controller": True}]),
    ],
)
def test_other_pods_do_not(harmless):
    assert not gpu_pods.holds_gpu(harmless)


def test_only_pods_of_the_node_count():
    pods = [pod("b", containers=[GPU]), pod("a", containers=[GPU]), pod("c", node="gpu-b", containers=[GPU]), pod("d")]
    assert gpu_pods.pods_with_gpus(pods, "gpu-a") == ["vision/a", "vision/b"]


def test_a_disruption_names_node_pods_and_what_is_disrupted():
    (found,) = gpu_pods.disruption_refusals([pod(containers=[GPU])], "gpu-a", ["none", "runtime", "gpu"])
    assert found["severity"] == "error"
    for part in ("gpu-a", "vision/train", "gpu, runtime"):
        assert part in found["message"]


def test_many_pods_are_counted_rather_than_listed():
    pods = [pod(f"p{number:02}", containers=[GPU]) for number in range(25)]
    (found,) = gpu_pods.disruption_refusals(pods, "gpu-a", ["reboot"])
    assert "15 more" in found["message"]


@pytest.mark.parametrize(
    ("pods", "disrupts"), [([pod(containers=[GPU])], ["none"]), ([pod()], ["gpu"]), ([], ["reboot"])]
)
def test_without_disruption_or_without_pods_there_is_nothing_against_it(pods, disrupts):
    assert gpu_pods.disruption_refusals(pods, "gpu-a", disrupts) == []
