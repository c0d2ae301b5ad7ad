# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NVIDIA's GPUs and NVSwitches on the PCI bus, driver or not; also the switches of NVLink 5 boards, which say Mellanox.

Reads /sys/bus/pci/devices only. Addresses are written as sysfs does: "0000:1b:00.0".
"""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.gpu_models import gpu_model
from ansible_collections.onprem.gpu.plugins.module_utils.host import Host

DEVICES = "/sys/bus/pci/devices"
NVIDIA = "10de"
MELLANOX = "15b3"
GPU_CLASSES = ("0300", "0302")  # VGA controller, 3D controller
BRIDGE_CLASS = "0680"  # how NVSwitches of A100, H100 and H200 boards present themselves
INFINIBAND_CLASS = "0207"
# NVLink 5 boards (B200, B300): a ConnectX whose vital product data names the management of the switches.
SWITCH_MANAGEMENT_MARK = b"SW_MNG"
GPUS_ON_A_SWITCHED_BOARD = 8

Device = dict[str, t.Any]


def read_devices(host: Host) -> list[Device]:
    """Every GPU and NVSwitch of the host, by address. Virtual functions that the host itself created are left out."""
    devices = [_device(host, address) for address in host.names(DEVICES)]
    found = [device for device in devices if device]
    if any(_hides_its_switches(device) for device in found):
        found += _managed_switches(host)
    return sorted(found, key=lambda device: str(device["address"]))


def switches(devices: t.Sequence[Device]) -> dict[str, t.Any]:
    """The NVSwitches among the devices, and whether boards with these GPUs normally have some."""
    addresses = [device["address"] for device in devices if device["kind"] == "nvswitch"]
    on_boards = [device for device in devices if device["switched"]]
    return {
        "present": bool(addresses),
        "count": len(addresses),
        "addresses": addresses,
        "expected": len(on_boards) >= GPUS_ON_A_SWITCHED_BOARD,
    }


def _device(host: Host, address: str) -> Device | None:
    if _identifier(host, address, "vendor") != NVIDIA:
        return None
    kind = _kind(_pci_class(host, address))
    if kind is None or host.exists(f"{DEVICES}/{address}/physfn"):
        return None
    return _described(host, address, kind)


def _described(host: Host, address: str, kind: str) -> Device:
    folder = f"{DEVICES}/{address}"
    device = _identifier(host, address, "device")
    subsystem = ":".join(_identifier(host, address, f"subsystem_{part}") for part in ("vendor", "device"))
    known = gpu_model(device, subsystem) if kind == "gpu" else None
    return {
        "address": address,
        "kind": kind,
        "vendor": _identifier(host, address, "vendor"),
        "device": device,
        "class": _pci_class(host, address),
        "subsystem": subsystem,
        "numa_node": _numa_node(host, address),
        "driver": host.link_name(f"{folder}/driver"),
        "model": known.model if known else None,
        "architecture": known.architecture if known else None,
        "form_factor": known.form_factor if known else None,
        "switched": bool(known and known.switched),
    }


def _kind(pci_class: str) -> str | None:
    if pci_class in GPU_CLASSES:
        return "gpu"
    return "nvswitch" if pci_class == BRIDGE_CLASS else None


def _hides_its_switches(device: Device) -> bool:
    return bool(device["switched"]) and device["architecture"] == "blackwell"


def _managed_switches(host: Host) -> list[Device]:
    return [
        _described(host, address, "nvswitch")
        for address in host.names(DEVICES)
        if _identifier(host, address, "vendor") == MELLANOX
        and _pci_class(host, address) == INFINIBAND_CLASS
        and SWITCH_MANAGEMENT_MARK in (host.read_bytes(f"{DEVICES}/{address}/vpd") or b"")
    ]


def _identifier(host: Host, address: str, name: str) -> str:
    """A hexadecimal id without its 0x; 0000 when the device has none."""
    value = host.read_value(f"{DEVICES}/{address}/{name}") or ""
    return value[2:].lower() if value.startswith("0x") else "0000"


def _pci_class(host: Host, address: str) -> str:
    """Base class and sub-class, without the programming interface: "0302" of 0x030200."""
    return _identifier(host, address, "class")[:4]


def _numa_node(host: Host, address: str) -> int | None:
    """The device's NUMA node; None where the firmware tells none, which sysfs writes as -1."""
    node = host.read_number(f"{DEVICES}/{address}/numa_node")
    return node if node is not None and node >= 0 else None
