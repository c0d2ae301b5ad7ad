# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Everything gpu_info reports, put together from the files that each know one subject."""

from __future__ import annotations

import sys
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils import kubelet_facts, runtime_facts
from ansible_collections.onprem.gpu.plugins.module_utils.driver_facts import read_driver
from ansible_collections.onprem.gpu.plugins.module_utils.host import Host, HostError
from ansible_collections.onprem.gpu.plugins.module_utils.installed_packages import Package, locked_versions
from ansible_collections.onprem.gpu.plugins.module_utils.os_facts import os_family, read_disks, read_os, read_release
from ansible_collections.onprem.gpu.plugins.module_utils.package_queries import all_packages, versionlock_patterns
from ansible_collections.onprem.gpu.plugins.module_utils.pci import read_devices, switches
from ansible_collections.onprem.gpu.plugins.module_utils.topology import read_cpu, read_numa
from ansible_collections.onprem.gpu.plugins.module_utils.units import show_units

UNIT_PROPERTIES = ("ActiveState", "MainPID")
FABRIC_MANAGER = "nvidia-fabricmanager.service"
# From whether the driver is loaded to the library's state and its GPUs.
Nvml = t.Callable[[bool], tuple[dict[str, t.Any], list[dict[str, t.Any]]]]

# What only the driver's library tells of a GPU.
NVML_FACTS = (
    "index",
    "uuid",
    "name",
    "serial",
    "memory_mib",
    "minor",
    "compute_capability",
    "mig_mode",
    "mig_devices",
    "mig_uuids",
    "persistence",
    "ecc_uncorrected",
    "row_remap_pending",
    "row_remap_failed",
    "fabric",
)


def read_facts(host: Host, read_nvml: Nvml) -> dict[str, t.Any]:
    """All facts of a host by subject; what could not be read is missing there and named in `errors`."""
    devices = read_devices(host)
    gpus = [device for device in devices if device["kind"] == "gpu"]
    packages = _packages(host)
    units = _units(host)
    kubelet = kubelet_facts.read_kubelet(host, packages, units)
    driver = read_driver(host, packages)
    nvml, seen_by_driver = read_nvml(driver["module_version"] is not None)
    return {
        "os": read_os(host),
        "disks": read_disks(host, [kubelet["root_dir"]]),
        "pci": devices,
        "gpus": join_gpus(gpus, seen_by_driver),
        "nvswitch": {**switches(devices), "fabric_manager": runtime_facts.is_active(units, FABRIC_MANAGER)},
        "cpu": read_cpu(host),
        "numa": read_numa(host, gpus),
        "driver": driver,
        "nvml": nvml,
        "runtime": runtime_facts.read_runtime(host, packages, units, kubelet["cri_endpoint"]),
        "toolkit": runtime_facts.read_toolkit(host, packages),
        "kubelet": kubelet,
        "python": sys.executable,
        "errors": host.errors,
    }


def join_gpus(
    on_bus: t.Sequence[t.Mapping[str, t.Any]], seen_by_driver: t.Sequence[t.Mapping[str, t.Any]]
) -> list[dict[str, t.Any]]:
    """The GPUs of the PCI bus, each with what the driver tells of it; one that only the driver shows comes last."""
    told = {gpu["pci_address"]: gpu for gpu in seen_by_driver if gpu.get("pci_address")}
    joined = [_gpu(device["address"], device, told.get(device["address"], {})) for device in on_bus]
    addresses = {device["address"] for device in on_bus}
    return joined + [_gpu(address, {}, gpu) for address, gpu in told.items() if address not in addresses]


def _gpu(address: str, device: t.Mapping[str, t.Any], told: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {
        "pci_address": address,
        "device_id": device.get("device"),
        "model": device.get("model"),
        "architecture": device.get("architecture"),
        "form_factor": device.get("form_factor"),
        "numa_node": device.get("numa_node"),
        "kernel_driver": device.get("driver"),
        **{fact: told.get(fact) for fact in NVML_FACTS},
    }


def _packages(host: Host) -> list[Package]:
    family = os_family(read_release(host))
    try:
        packages = all_packages(host, family)
    except HostError as error:
        host.note_error("packages", str(error))
        return []
    return _with_locks(host, packages) if family == "redhat" else packages


def _with_locks(host: Host, packages: t.Sequence[Package]) -> list[Package]:
    patterns = versionlock_patterns(host)
    if not patterns:
        return list(packages)
    return [package._replace(held=bool(locked_versions(package.name, [package], patterns))) for package in packages]


def _units(host: Host) -> dict[str, dict[str, str]]:
    names = list(dict.fromkeys((*runtime_facts.UNITS, *kubelet_facts.UNITS, FABRIC_MANAGER)))
    try:
        return show_units(host, names, UNIT_PROPERTIES)
    except HostError as error:
        host.note_error("systemctl", str(error))
        return {}
