# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.driver_facts import (
    is_driver_package,
    loaded_modules,
    read_driver,
)
from ansible_collections.onprem.gpu.plugins.module_utils.installed_packages import Package

OPEN = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.03  Release Build  (dvs-builder@U22)  Mon Sep  1 2026
GCC version:  gcc version 12.2.0 (Debian 12.2.0-14+deb12u1)
"""
PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 22:20:39 UTC 2023\n"
LOADED = """\
nvidia_uvm 4861952 0 - Live 0xffffffffc3000000 (OE)
nvidia_modeset 1581056 0 - Live 0xffffffffc2000000 (OE)
nvidia 11567104 3 nvidia_uvm,nvidia_modeset, Live 0xffffffffc1000000 (OE)
"""


def package(name: str, version: str = "580.159.03-1", installed: bool = True, held: bool = False) -> Package:
    return Package(name, "amd64", version, installed, "", held)


@pytest.mark.parametrize(
    "name",
    [
        "nvidia-open",
        "nvidia-driver-cuda",
        "nvidia-kernel-open-dkms",
        "nvidia-dkms-580-open",
        "kmod-nvidia-open-dkms",
        "linux-modules-nvidia-580-server-open-generic",
        "libnvidia-compute-580",
        "libnvidia-ml",
        "libnvidia-nscq",
        "libnvsdm",
        "libcuda1",
        "cuda-drivers",
        "cuda-drivers-580",
        "firmware-nvidia-gsp",
        "nvidia-fabricmanager-580",
        "nvidia-imex",
        "nvidia-persistenced",
        "nvidia-utils-580",
        "xserver-xorg-video-nvidia-580",
    ],
)
def test_packages_of_the_driver(name):
    assert is_driver_package(package(name))
    assert not is_driver_package(package(name, installed=False))


@pytest.mark.parametrize(
    "name",
    [
        "nvidia-container-toolkit",
        "libnvidia-container1",
        "nvidia-docker2",
        "nvidia-cuda-toolkit",
        "cuda-toolkit-13-0",
        "cuda-keyring",
        "nvidia-gds-13-0",
        "nvidia-driver-pinning-580",
        "dnf-plugin-nvidia",
        "bash",
    ],
)
def test_packages_that_go_their_own_way(name):
    assert not is_driver_package(package(name))


def test_a_host_without_driver(host_tree):
    assert read_driver(host_tree.host(), []) == {
        "packages": {},
        "held": [],
        "module_version": None,
        "installed_module_version": None,
        "flavour": None,
        "nouveau_loaded": False,
        "modules": [],
        "users": [],
    }


def test_a_loaded_driver_with_users(host_tree):
    host_tree.write("/proc/modules", LOADED)
    host_tree.write("/proc/driver/nvidia/version", OPEN)
    host_tree.write("/sys/module/nvidia/version", "580.159.03\n")
    host_tree.write("/proc/77/comm", "nvidia-persiste\n")
    host_tree.link("/proc/77/fd/4", "/dev/nvidiactl")
    host_tree.program(
        "modinfo", "filename:       /lib/nvidia.ko\nversion:        580.173.02\nlicense:        Dual MIT/GPL\n"
    )
    packages = [package("nvidia-open", "580.173.02-1", held=True), package("bash")]
    assert read_driver(host_tree.host(), packages) == {
        "packages": {"nvidia-open": "580.173.02-1"},
        "held": ["nvidia-open"],
        "module_version": "580.159.03",
        "installed_module_version": "580.173.02",
        "flavour": "open",
        "nouveau_loaded": False,
        "modules": ["nvidia", "nvidia_modeset", "nvidia_uvm"],
        "users": [{"pid": 77, "command": "nvidia-persiste"}],
    }


def test_processes_are_not_looked_through_without_the_driver(host_tree):
    host_tree.write("/proc/modules", "overlay 151552 12 - Live 0xffffffffc0800000\n")
    host_tree.write("/proc/77/comm", "impossible\n")
    host_tree.link("/proc/77/fd/4", "/dev/nvidiactl")
    assert read_driver(host_tree.host(), [])["users"] == []


@pytest.mark.parametrize(
    ("banner", "license_line", "flavour"),
    [
        (OPEN, None, "open"),
        (PROPRIETARY, None, "proprietary"),
        (PROPRIETARY, "Dual MIT/GPL", "proprietary"),
        (None, "Dual MIT/GPL", "open"),
        (None, "NVIDIA", "proprietary"),
        (None, None, None),
    ],
)
def test_the_flavour_is_that_of_the_loaded_module_else_of_the_one_on_disk(host_tree, banner, license_line, flavour):
    if banner:
        host_tree.write("/proc/driver/nvidia/version", banner)
    if license_line:
        host_tree.program("modinfo", f"license:        {license_line}\nversion:        1.2\n")
    else:
        host_tree.program("modinfo", rc=1, stderr="modinfo: ERROR: Module nvidia not found.\n")
    assert read_driver(host_tree.host(), [])["flavour"] == flavour


@pytest.mark.parametrize(("banner", "version"), [(OPEN, "580.159.03"), (PROPRIETARY, "535.54.03")])
def test_the_version_in_proc_is_enough(host_tree, banner, version):
    host_tree.write("/proc/driver/nvidia/version", banner)
    assert read_driver(host_tree.host(), [])["module_version"] == version


def test_nouveau_is_seen(host_tree):
    host_tree.write("/proc/modules", "nouveau 2633728 1 - Live 0xffffffffc1000000\n")
    found = read_driver(host_tree.host(), [])
    assert found["nouveau_loaded"] is True
    assert found["modules"] == []


def test_modules_are_found_in_sysfs_where_the_list_is_hidden(host_tree: t.Any) -> None:
    for name, state in (("nvidia", "live"), ("nvidia_uvm", "live"), ("nouveau", "going")):
        host_tree.write(f"/sys/module/{name}/initstate", f"{state}\n")
    host_tree.folder("/sys/module/kernel")
    assert loaded_modules(host_tree.host()) == {"nvidia", "nvidia_uvm"}
