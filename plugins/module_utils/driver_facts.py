# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NVIDIA's driver on a host: its packages, the module that is loaded, the one on disk, and who uses it."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.host import Host
from ansible_collections.onprem.gpu.plugins.module_utils.installed_packages import Package

LOADED_MODULES = "/proc/modules"
MODULE_FOLDERS = "/sys/module"
LOADED_VERSION = "/sys/module/nvidia/version"
# "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (...)"
# "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 22:20:39 UTC 2023"
DRIVER_BANNER = "/proc/driver/nvidia/version"
BANNER_VERSION = re.compile(r"Kernel Module\s+(?:for\s+\S+\s+)?(\d+(?:\.\d+)+)")
DEVICE_PREFIX = "/dev/nvidia"

# Packages that carry one version with the driver, by the names of NVIDIA's, Debian's, Ubuntu's and RPM repositories.
DRIVER_PACKAGE = re.compile(r"nvidia|^cuda-drivers|^libcuda1|^libcudadebugger1|^libnvcuvid1|^libnvoptix1|^libnvsdm")
# What has NVIDIA in its name and goes its own way: container toolkit, CUDA, file system and MIG tools, pinning.
OTHER_PACKAGE = re.compile(r"container|docker|pinning|^dnf-plugin|^nvidia-(cuda|cudnn|fs|gds|mig-manager|mlnx|release)")
OPEN_LICENSES = ("Dual MIT/GPL", "GPL")


def read_driver(host: Host, packages: t.Sequence[Package]) -> dict[str, t.Any]:
    """The driver as installed and as loaded; every version may be missing."""
    loaded = loaded_modules(host)
    on_disk = _module_on_disk(host)
    nvidia = sorted(name for name in loaded if name == "nvidia" or name.startswith("nvidia_"))
    version = loaded_driver_version(host)
    return {
        "packages": {package.name: package.version for package in packages if is_driver_package(package)},
        "held": [package.name for package in packages if is_driver_package(package) and package.held],
        "module_version": version,
        "installed_module_version": on_disk.get("version"),
        "flavour": _flavour(host.read_text(DRIVER_BANNER), on_disk.get("license")),
        "nouveau_loaded": "nouveau" in loaded,
        "modules": nvidia,
        # Looking through all processes is dear, and without the driver there is nothing to hold open.
        "users": host.open_files(DEVICE_PREFIX) if nvidia or version else [],
    }


def is_driver_package(package: Package) -> bool:
    """Whether an installed package belongs to the set that must be at the driver's version."""
    return package.installed and bool(DRIVER_PACKAGE.search(package.name)) and not OTHER_PACKAGE.search(package.name)


def loaded_modules(host: Host) -> set[str]:
    """The loadable kernel modules that are loaded; from sysfs where /proc/modules is hidden."""
    listed = host.read_text(LOADED_MODULES)
    if listed is not None:
        return {line.split()[0] for line in listed.splitlines() if line.strip()}
    # Built-in modules have a folder too, but no initstate.
    folders = host.names(MODULE_FOLDERS)
    return {name for name in folders if host.read_value(f"{MODULE_FOLDERS}/{name}/initstate") == "live"}


def loaded_driver_version(host: Host) -> str | None:
    """Version of the nvidia module that is loaded, or None."""
    banner = BANNER_VERSION.search(host.read_text(DRIVER_BANNER) or "")
    return host.read_value(LOADED_VERSION) or (banner.group(1) if banner else None)


def _module_on_disk(host: Host) -> dict[str, str]:
    """What modinfo says of the module the next load would take; {} when there is none."""
    result = host.run(("modinfo", "nvidia"))
    if result is None or result.rc != 0:
        return {}
    pairs = (line.split(":", 1) for line in result.stdout.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs if name.strip() in ("version", "license")}


def _flavour(banner: str | None, license_on_disk: str | None) -> str | None:
    """open or proprietary, of the loaded module, else of the one on disk; None when there is neither."""
    if banner and "NVRM" in banner:
        return "open" if "Open Kernel Module" in banner else "proprietary"
    if license_on_disk is None:
        return None
    return "open" if license_on_disk in OPEN_LICENSES else "proprietary"
