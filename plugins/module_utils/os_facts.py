# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operating system of a host: release, kernel, boot, Secure Boot, swap, disks. No program is started."""

from __future__ import annotations

import os
import re
import shlex
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.host import Host
from ansible_collections.onprem.gpu.plugins.module_utils.topology import total_memory_bytes

RED_HAT_IDS = {"rhel", "fedora", "centos", "rocky", "almalinux", "ol", "amzn"}
DEBIAN_IDS = {"debian", "ubuntu"}
PACKAGE_MANAGERS = {"debian": "apt", "redhat": "dnf"}
DEB_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el"}

EFI = "/sys/firmware/efi"
# The variable's value follows four bytes of attributes.
SECURE_BOOT_VARIABLE = EFI + "/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

KIB = 1024
DISK_PATHS = ("/", "/boot", "/usr", "/var")


def read_os(host: Host) -> dict[str, t.Any]:
    """Release, kernel and state of the operating system; see the module's documentation for every key."""
    release = read_release(host)
    family = os_family(release)
    return {
        "id": release.get("ID"),
        "version_id": release.get("VERSION_ID"),
        "codename": release.get("VERSION_CODENAME"),
        "like": release.get("ID_LIKE", "").split(),
        "name": release.get("PRETTY_NAME"),
        "family": family,
        "package_manager": PACKAGE_MANAGERS.get(family or ""),
        "machine": os.uname().machine,
        "arch": _package_architecture(family, os.uname().machine),
        "kernel": read_kernel(host),
        "hostname": host.read_value("/proc/sys/kernel/hostname"),
        "boot_id": host.read_value("/proc/sys/kernel/random/boot_id"),
        "cgroup_version": _cgroup_version(host),
        "secure_boot": _secure_boot(host),
        "memory_bytes": total_memory_bytes(host),
        "swap_bytes": _swap_bytes(host),
        "time_synchronized": host.time_synchronized(),
    }


def read_release(host: Host) -> dict[str, str]:
    """The variables of os-release(5)."""
    text = host.read_text("/etc/os-release") or host.read_text("/usr/lib/os-release") or ""
    pairs = (line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z_]+=", line))
    return {name: _unquoted(value) for name, value in pairs}


def os_family(release: t.Mapping[str, str]) -> str | None:
    """debian, redhat, or None for a system of neither family."""
    ids = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    if ids & RED_HAT_IDS:
        return "redhat"
    return "debian" if ids & DEBIAN_IDS else None


def read_kernel(host: Host) -> str:
    """The release of the running kernel, as `uname -r` prints it."""
    return host.read_value("/proc/sys/kernel/osrelease") or ""


def read_disks(host: Host, extra: t.Sequence[str]) -> dict[str, dict[str, int]]:
    """Free and total bytes by path; a path that is not there yet shows the file system it would be made on."""
    spaces = {path: host.space(_nearest_existing(host, path)) for path in (*DISK_PATHS, *extra)}
    return {path: space for path, space in spaces.items() if space}


def _nearest_existing(host: Host, path: str) -> str:
    while path != "/" and not host.exists(path):
        path = os.path.dirname(path)
    return path


def _unquoted(value: str) -> str:
    try:
        return "".join(shlex.split(value)) if value.strip() else ""
    except ValueError:
        return value.strip().strip("\"'")


def _package_architecture(family: str | None, machine: str) -> str:
    return DEB_ARCHITECTURES.get(machine, machine) if family == "debian" else machine


def _cgroup_version(host: Host) -> int | None:
    if host.exists("/sys/fs/cgroup/cgroup.controllers"):
        return 2
    return 1 if host.exists("/sys/fs/cgroup") else None


def _secure_boot(host: Host) -> bool | None:
    """True or False; None when the host booted by EFI and the variables cannot be seen."""
    if not host.exists(EFI):
        return False
    value = host.read_bytes(SECURE_BOOT_VARIABLE)
    if value:
        return value[-1] == 1
    return False if host.names(os.path.dirname(SECURE_BOOT_VARIABLE)) else None


def _swap_bytes(host: Host) -> int:
    """The sizes in /proc/swaps, whose third column counts KiB."""
    rows = [line.split() for line in (host.read_text("/proc/swaps") or "").splitlines()[1:]]
    return sum(int(row[2]) for row in rows if len(row) > 2) * KIB
