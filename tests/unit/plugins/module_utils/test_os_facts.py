# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.os_facts import os_family, read_disks, read_os, read_release

UBUNTU = """\
PRETTY_NAME="Ubuntu 24.04.3 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
"""
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def test_release_of_ubuntu(host_tree):
    host_tree.write("/etc/os-release", UBUNTU)
    found = read_os(host_tree.host())
    assert (found["id"], found["version_id"], found["codename"], found["like"]) == (
        "ubuntu",
        "24.04",
        "noble",
        ["debian"],
    )
    assert (found["family"], found["package_manager"], found["name"]) == ("debian", "apt", "Ubuntu 24.04.3 LTS")


def test_release_falls_back_to_the_vendors_file(host_tree):
    host_tree.write("/usr/lib/os-release", 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.6"\n')
    assert read_os(host_tree.host())["package_manager"] == "dnf"


def test_a_system_without_release_file_has_nothing(host_tree):
    found = read_os(host_tree.host())
    assert (found["id"], found["family"], found["package_manager"]) == (None, None, None)


@pytest.mark.parametrize(
    ("release", "family"),
    [
        ({"ID": "debian"}, "debian"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "debian"),
        ({"ID": "almalinux", "ID_LIKE": "rhel centos fedora"}, "redhat"),
        ({"ID": "rhel", "ID_LIKE": "fedora"}, "redhat"),
        ({"ID": "sles", "ID_LIKE": "suse"}, None),
    ],
)
def test_families(release, family):
    assert os_family(release) == family


def test_values_with_odd_quotes_are_kept(host_tree):
    host_tree.write("/etc/os-release", "ID='a'\nNAME=\"it's\nEMPTY=\n# comment\nlower=no\n")
    assert read_release(host_tree.host()) == {"ID": "a", "NAME": "it's", "EMPTY": ""}


@pytest.mark.parametrize(("value", "on"), [(b"\x06\0\0\0\x01", True), (b"\x06\0\0\0\0", False)])
def test_secure_boot_is_the_variables_last_byte(host_tree, value, on):
    host_tree.write(SECURE_BOOT, value)
    assert read_os(host_tree.host())["secure_boot"] is on


def test_secure_boot_is_off_without_efi_and_unknown_without_variables(host_tree):
    assert read_os(host_tree.host())["secure_boot"] is False
    host_tree.folder("/sys/firmware/efi/efivars")
    assert read_os(host_tree.host())["secure_boot"] is None
    host_tree.write("/sys/firmware/efi/efivars/Boot0000-8be4df61-93ca-11d2-aa0d-00e098032b8c", b"1234x")
    assert read_os(host_tree.host())["secure_boot"] is False


def test_control_groups(host_tree):
    assert read_os(host_tree.host())["cgroup_version"] is None
    host_tree.folder("/sys/fs/cgroup/cpu")
    assert read_os(host_tree.host())["cgroup_version"] == 1
    host_tree.write("/sys/fs/cgroup/cgroup.controllers", "cpu memory\n")
    assert read_os(host_tree.host())["cgroup_version"] == 2


def test_swap_counts_all_areas(host_tree):
    host_tree.write(
        "/proc/swaps",
        "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1024 0 -2\n/swapfile file 2048 0 -3\n",
    )
    assert read_os(host_tree.host())["swap_bytes"] == 3 << 20


def test_disks_of_paths_that_are_not_there_yet(host_tree):
    host_tree.folder("/var")
    disks = read_disks(host_tree.host(), ["/var/lib/kubelet"])
    assert list(disks) == ["/", "/boot", "/usr", "/var", "/var/lib/kubelet"]
    assert disks["/var/lib/kubelet"]["total_bytes"] > disks["/var/lib/kubelet"]["free_bytes"] > 0
