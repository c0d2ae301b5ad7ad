# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver as the host itself sees it."""

from __future__ import annotations

import re
import typing as t

Host = t.Any


def loaded_version(host: Host) -> str:
    match = re.search(r"(\d{3}\.\d+\.\d+)", host.file("/proc/driver/nvidia/version").content_string)
    assert match, "the kernel tells no driver version"
    return match.group(1)


def has_nvswitch(host: Host) -> bool:
    return "0x068000" in host.run("cat /sys/bus/pci/devices/*/class").stdout


def package_version(host: Host, name: str) -> str:
    return re.sub(r"^\d+:|-[^-]*$", "", host.package(name).version)


def persistence_package(host: Host) -> str:
    """Ubuntu has the daemon in a package of several programs."""
    ubuntu = host.system_info.distribution == "ubuntu"
    return "nvidia-compute-utils-580" if ubuntu else "nvidia-persistenced"


def test_loaded_module_is_the_wanted_branch(host: Host) -> None:
    assert loaded_version(host).startswith("580.")


def test_every_gpu_has_its_device_node(host: Host) -> None:
    classes = host.run("for d in /sys/bus/pci/devices/*; do cat $d/vendor $d/class | tr '\\n' ' '; echo; done").stdout
    gpus = len(re.findall(r"0x10de 0x030[02]00", classes))
    nodes = [name for name in host.run("ls /dev").stdout.split() if re.fullmatch(r"nvidia\d+", name)]
    assert gpus > 0
    assert len(nodes) == gpus


def test_nouveau_is_kept_out_at_boot(host: Host) -> None:
    assert "blacklist nouveau" in host.file("/etc/modprobe.d/blacklist-nouveau.conf").content_string
    assert "nouveau" not in host.run("cat /proc/modules").stdout


def test_persistence_daemon_runs_and_survives_a_reboot(host: Host) -> None:
    service = host.service("nvidia-persistenced")
    assert service.is_running
    assert service.is_enabled
    assert package_version(host, persistence_package(host)) == loaded_version(host)


def test_packages_are_held(host: Host) -> None:
    if host.exists("dnf"):
        assert persistence_package(host) in host.run("dnf -q -C versionlock list").stdout
    else:
        assert persistence_package(host) in host.run("apt-mark showhold").stdout.split()


def test_fabric_manager_is_where_nvswitch_is_and_nowhere_else(host: Host) -> None:
    service = host.service("nvidia-fabricmanager")
    assert service.is_running == has_nvswitch(host)
    if has_nvswitch(host):
        assert package_version(host, "nvidia-fabricmanager") == loaded_version(host)
