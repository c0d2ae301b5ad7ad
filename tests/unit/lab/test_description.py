# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab writes for others: inventory, pod network, nodes, commands that build its programs."""

from __future__ import annotations

import json
from pathlib import Path

import binaries
import fleet
import inventory
import kwok
import network
import pytest
import settings
import silicon
import yaml


@pytest.fixture
def default_fleet() -> fleet.Fleet:
    return fleet.read(settings.DEFAULT_FLEET, silicon.MODELS)


@pytest.fixture
def written(default_fleet: fleet.Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict]:
    monkeypatch.setattr(settings, "INVENTORY", tmp_path / "inventory.yml")
    monkeypatch.setattr(settings, "REPOSITORIES", tmp_path)
    (tmp_path / "keys").mkdir()
    names = ("cuda", "extras", "toolkit", "kubernetes", "runtime")
    fingerprints = {name: str(number) * 40 for number, name in enumerate(names)}
    (tmp_path / "keys/fingerprints.json").write_text(json.dumps(fingerprints))
    inventory.write(default_fleet)
    return yaml.safe_load(settings.INVENTORY.read_text())["all"]


def test_every_host_is_a_gpu_node_and_a_kube_node(written: dict[str, dict]) -> None:
    names = ["gpu-h100-1", "gpu-a100-1", "gpu-l4-1"]
    assert list(written["hosts"]) == names
    assert list(written["children"]["gpu_nodes"]["hosts"]) == names
    assert list(written["children"]["kube_node"]["hosts"]) == names


def test_host_keys_are_pinned(written: dict[str, dict]) -> None:
    arguments = written["children"]["gpu_nodes"]["vars"]["ansible_ssh_common_args"]
    assert "StrictHostKeyChecking=yes" in arguments
    assert f"UserKnownHostsFile={settings.KNOWN_HOSTS}" in arguments


def test_each_system_gets_its_own_repositories_and_each_key_its_fingerprint(written: dict[str, dict]) -> None:
    el, debian = (written["children"][f"os_{name}"]["vars"] for name in ("el9", "debian12"))
    assert el["gpu_driver_repository_url"] == "http://10.88.0.1:8480/cuda/rhel9"
    assert debian["gpu_driver_repository_url"] == "http://10.88.0.1:8480/cuda/debian12"
    assert el["gpu_driver_repository_key_fingerprint"] == "0" * 40
    assert el["gpu_kubelet_repository_key_fingerprint"] == "3" * 40
    assert el["gpu_toolkit_extra_repositories"][0]["url"] == "http://10.88.0.1:8480/runtime/rpm"


def test_pods_of_a_host_get_addresses_from_its_own_network(default_fleet: fleet.Fleet) -> None:
    bridge, ports = json.loads(network.cni_configuration(default_fleet.hosts[1]))["plugins"]
    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.89.12.0/24"}]]
    assert ports["type"] == "portmap"


def test_nodes_without_machines_keep_real_pods_away() -> None:
    assert kwok.node_names(fleet.Kwok(nodes=2, gpus=8)) == ["kwok-0000", "kwok-0001"]
    node = kwok.node("kwok-0000", gpus=4)
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "4"
    assert node["spec"]["taints"] == [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]


def test_kubernetes_programs_know_their_version() -> None:
    kubelet = next(program for program in binaries.PROGRAMS if program.name == "kubelet")
    flags = kubelet.arguments[1]
    assert f"k8s.io/component-base/version.gitVersion=v{settings.KUBERNETES_VERSION}" in flags
    assert f"k8s.io/client-go/pkg/version.gitVersion=v{settings.KUBERNETES_VERSION}" in flags


def test_kubernetes_version_is_the_one_the_module_file_pins() -> None:
    pinned = (binaries.GO_SOURCES / "kubernetes/go.mod").read_text()
    assert f"k8s.io/kubernetes v{settings.KUBERNETES_VERSION}" in pinned
    assert f"v{settings.ETCD_VERSION}" in (binaries.GO_SOURCES / "etcd/go.mod").read_text()
