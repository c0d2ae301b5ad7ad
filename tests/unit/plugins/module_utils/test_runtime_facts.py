# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.installed_packages import Package
from ansible_collections.onprem.gpu.plugins.module_utils.runtime_facts import (
    program_version,
    read_runtime,
    read_toolkit,
)

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
NOT_THERE = {"version": None, "active": False, "socket": None}


def package(name: str, version: str) -> Package:
    return Package(name, "amd64", version, True, "", False)


def test_a_bare_host_has_no_runtime(host_tree):
    found = read_runtime(host_tree.host(), [], {}, None)
    assert found == {
        "containerd": NOT_THERE,
        "crio": NOT_THERE,
        "docker": NOT_THERE,
        "embedded": {"active": False, "socket": None},
        "cri_socket": None,
    }


def test_a_runtime_from_a_package_is_not_started_for_its_version(host_tree):
    host_tree.program("containerd", "containerd containerd.io 9.9.9 abcdef\n")
    host_tree.write(CONTAINERD_SOCKET)
    units = {"containerd.service": {"ActiveState": "active"}}
    packages = [package("containerd.io", "2.4.2-1~debian.12~bookworm")]
    found = read_runtime(host_tree.host(), packages, units, None)
    assert found["containerd"] == {"version": "2.4.2", "active": True, "socket": CONTAINERD_SOCKET}
    assert found["cri_socket"] == f"unix://{CONTAINERD_SOCKET}"
    assert host_tree.calls == []


def test_a_runtime_without_package_tells_its_own_version(host_tree):
    host_tree.program("containerd", "containerd github.com/containerd/containerd/v2 v2.4.2 1234abcd\n")
    assert read_runtime(host_tree.host(), [], {}, None)["containerd"]["version"] == "2.4.2"


def test_with_two_runtimes_only_the_kubelet_says_which_counts(host_tree):
    host_tree.write(CONTAINERD_SOCKET)
    host_tree.write("/run/crio/crio.sock")
    assert read_runtime(host_tree.host(), [], {}, None)["cri_socket"] is None
    endpoint = "unix:///run/crio/crio.sock"
    assert read_runtime(host_tree.host(), [], {}, endpoint)["cri_socket"] == endpoint


def test_the_containerd_inside_k3s(host_tree):
    host_tree.write("/run/k3s/containerd/containerd.sock")
    found = read_runtime(host_tree.host(), [], {"k3s-agent.service": {"ActiveState": "active"}}, None)
    assert found["embedded"] == {"active": True, "socket": "/run/k3s/containerd/containerd.sock"}
    assert found["cri_socket"] == "unix:///run/k3s/containerd/containerd.sock"


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("Kubernetes v1.37.1\n", "1.37.1"),
        ("NVIDIA Container Toolkit CLI version 1.20.1\ncommit: abc\n", "1.20.1"),
        ("Docker version 28.1.0, build 4d8c241\n", "28.1.0"),
        ("k3s version v1.37.1+k3s1 (abcdef)\n", "1.37.1+k3s1"),
        ("crio version 1.34.0\n   GitCommit: x\n", "1.34.0"),
        ("no version at all\n", None),
    ],
)
def test_versions_that_programs_print(host_tree, printed, version):
    host_tree.program("it", printed)
    assert program_version(host_tree.host(), "it") == version


def test_a_program_that_fails_has_no_version_and_is_noted(host_tree):
    host_tree.program("it", rc=127, stderr="missing library\n")
    host = host_tree.host()
    assert program_version(host, "it") is None
    assert host.errors == [{"path": "it", "reason": "exit status 127: missing library"}]


def test_the_toolkit_by_its_packages(host_tree):
    packages = [package("nvidia-container-toolkit", "1.20.1-1"), package("libnvidia-container1", "1.20.1-1")]
    assert read_toolkit(host_tree.host(), packages) == {
        "version": "1.20.1",
        "packages": {"nvidia-container-toolkit": "1.20.1-1", "libnvidia-container1": "1.20.1-1"},
        "cdi_devices": None,
    }


def test_the_toolkit_without_packages(host_tree):
    assert read_toolkit(host_tree.host(), []) == {"version": None, "packages": {}, "cdi_devices": None}
    host_tree.program("nvidia-ctk", "NVIDIA Container Toolkit CLI version 1.19.1\n")
    assert read_toolkit(host_tree.host(), [])["version"] == "1.19.1"


def test_the_toolkit_tells_the_gpus_of_all_cdi_specifications(host_tree):
    listed = (
        "example.com/nic=0\nnvidia.com/gpu=0\nnvidia.com/gpu=1:0\nnvidia.com/gpu=MIG-4240152e\nnvidia.com/gpu=all\n"
    )
    host_tree.program("nvidia-ctk", listed)
    packages = [package("nvidia-container-toolkit", "1.20.1-1")]
    assert read_toolkit(host_tree.host(), packages)["cdi_devices"] == ["0", "1:0", "MIG-4240152e", "all"]
