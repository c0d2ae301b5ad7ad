# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's operands behave as the real ones: health by XID, kubelet restarts, labels, switches.

Needs a host that `make site` has put into service; the operator is installed by the playbook where it is not there yet.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import observe
import pytest
from workloads import teams, what_a_pod_sees

sys.path.insert(0, str(observe.ROOT / "tests" / "lab"))
settings, silicon = (importlib.import_module(name) for name in ("settings", "silicon"))

HOST, GPUS = "gpu-l4-1", 2
RESOURCE = "nvidia.com/gpu"
PLUGIN = "app=nvidia-device-plugin-daemonset"
SECONDS = 90  # the kubelet reports changes of devices to the API server every ten seconds


@pytest.fixture(scope="module")
def node(kubeconfig: Path) -> t.Iterator[str]:
    """A node that offers all its GPUs, and does so again afterwards."""
    if HOST not in [one["metadata"]["name"] for one in observe.cluster_objects("get", "node")["items"]]:
        pytest.fail(f"{HOST} is not in service: make site", pytrace=False)
    observe.play(observe.ROOT / "playbooks" / "operator.yml", "--limit", HOST).require_success()
    yield HOST
    restart_plugin()
    wait_for(allocatable, GPUS)


def allocatable() -> int:
    return int(observe.cluster_objects("get", "node", HOST)["status"]["allocatable"].get(RESOURCE, 0))


def labels() -> dict[str, str]:
    return t.cast("dict[str, str]", observe.cluster_objects("get", "node", HOST)["metadata"]["labels"])


def plugin_pods() -> list[str]:
    place = ("--namespace", "gpu-operator", "-l", PLUGIN, "--field-selector", f"spec.nodeName={HOST}")
    return [one["metadata"]["name"] for one in observe.cluster_objects("get", "pod", *place)["items"]]


def restart_plugin() -> None:
    """A new plugin takes every GPU for healthy, like the real one."""
    observe.kubectl("delete", "pod", "--namespace", "gpu-operator", *plugin_pods())
    wait_for(lambda: [plugin_log(pod).count("registered") for pod in plugin_pods()], [1])


def plugin_log(pod: str) -> str:
    """What the plugin wrote; nothing while the kubelet, which has it, cannot be asked."""
    try:
        return observe.kubectl("logs", "--namespace", "gpu-operator", pod)
    except observe.ObservationError:
        return ""


def wait_for(look: t.Callable[[], t.Any], wanted: t.Any) -> None:
    deadline = time.monotonic() + SECONDS
    while (found := look()) != wanted:
        assert time.monotonic() < deadline, f"after {SECONDS} s it is {found}, wanted {wanted}"
        time.sleep(1)


def test_the_operands_own_tests() -> None:
    """The Go programs' unit tests; the compiler is the one the lab built them with."""
    go = shutil.which("go") or str(settings.CACHE / "go" / "bin" / "go")
    environment = {**os.environ, "CGO_CFLAGS": "-Wno-deprecated-declarations", "GOTOOLCHAIN": "local"}
    command = [go, "test", "./..."]
    done = subprocess.run(
        command,
        cwd=settings.LAB_SOURCE / "go" / "operands",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_labels_tell_driver_and_product(node: str) -> None:
    report = what_a_pod_sees("operands-labels", teams()[0], 1, node)
    found = labels()
    assert found["feature.node.kubernetes.io/pci-10de.present"] == found["nvidia.com/gpu.present"] == "true"
    assert found["nvidia.com/cuda.driver-version.full"] == report["driver_version"]
    assert found["nvidia.com/gpu.product"] == report["gpus"][0]["name"].replace(" ", "-")
    assert found["nvidia.com/gpu.count"] == str(GPUS)


def test_a_label_that_somebody_removed_comes_back(node: str) -> None:
    observe.kubectl("label", "node", node, "nvidia.com/gpu.present-")
    wait_for(lambda: labels().get("nvidia.com/gpu.present"), "true")


def test_a_pod_gets_device_nodes_of_its_gpu_only(node: str) -> None:
    report = what_a_pod_sees("operands-one", teams()[0], 1, node)
    assert report["nvml"] == "SUCCESS" and len(report["gpus"]) == 1
    assert len([path for path in report["device_nodes"] if re.fullmatch(r"/dev/nvidia\d+", path)]) == 1


def test_the_plugin_registers_again_after_the_kubelet_restarts(node: str) -> None:
    (pod,) = plugin_pods()
    observe.on_host(node, "systemctl restart kubelet")
    wait_for(lambda: plugin_log(pod).count("registered"), 2)
    wait_for(allocatable, GPUS)
    assert plugin_pods() == [pod]


def test_an_xid_takes_one_gpu_out_and_application_errors_none(node: str) -> None:
    restart_plugin()
    wait_for(allocatable, GPUS)
    hardware = observe.LAB / "hosts" / HOST / "silicon"
    silicon.inject_xid(hardware, 1, 31)
    silicon.inject_xid(hardware, 0, 79)
    wait_for(allocatable, GPUS - 1)
    (pod,) = plugin_pods()
    log = plugin_log(pod)
    assert "XID 31 is the application's" in log and "is unhealthy: XID 79" in log and log.count("unhealthy") == 1
    restart_plugin()
    wait_for(allocatable, GPUS)


def test_an_admin_can_keep_the_plugin_off_a_node(node: str) -> None:
    switch = "nvidia.com/gpu.deploy.device-plugin"
    observe.kubectl("label", "--overwrite", "node", node, f"{switch}=false")
    try:
        wait_for(plugin_pods, [])
        wait_for(allocatable, 0)
        time.sleep(5)  # the operator looks every two seconds, and must leave the admin's word alone
        assert labels()[switch] == "false"
    finally:
        observe.kubectl("label", "--overwrite", "node", node, f"{switch}=true")
    wait_for(allocatable, GPUS)
