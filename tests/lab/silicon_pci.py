# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A /sys/bus/pci that lspci and everybody else can read."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from silicon_files import link, remove_others, write_in_place

NVIDIA = 0x10DE
MELLANOX = 0x15B3
CLASS_VGA = 0x030000
CLASS_BRIDGE_OTHER = 0x068000  # what an NVSwitch of the A100 and H100 generations calls itself
CLASS_SYSTEM_OTHER = 0x088000
CLASS_NVME = 0x010802
CLASS_ETHERNET = 0x020000
CLASS_INFINIBAND = 0x020700
CONFIG_SPACE_BYTES = 256
RESOURCES = 13  # lines of a device's "resource" file


@dataclass(frozen=True)
class PciDevice:
    """One PCI function. ``driver`` is what the stock kernel bound to it; GPUs get theirs from simulated modules."""

    address: str
    vendor: int
    device: int
    pci_class: int
    subsystem_vendor: int = 0
    subsystem_device: int = 0
    numa_node: int = -1  # -1: the firmware does not say
    local_cpus: str = ""
    driver: str = ""
    vpd: bytes = b""
    memory_bytes: tuple[int, ...] = (1 << 24,)  # size of each memory region

    @property
    def revision(self) -> int:
        return 0xA1 if self.vendor == NVIDIA else 0


def vital_product_data(product: str, fields: dict[str, str]) -> bytes:
    """Encode an identifier string and a read-only list (PCI Local Bus Specification 3.0, appendix I)."""
    entries = b"".join(
        key.encode() + bytes([len(value)]) + value.encode() for key, value in {**fields, "RV": "\0"}.items()
    )
    name = product.encode()
    return b"".join(
        [b"\x82", struct.pack("<H", len(name)), name, b"\x90", struct.pack("<H", len(entries)), entries, b"\x78"]
    )


def write_pci(tree: Path, devices: Sequence[PciDevice]) -> None:
    """Write the tree; the driver links that a running host has set are kept."""
    for name in ("devices", "drivers", "slots"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, text in {"rescan": "", "drivers_probe": "", "drivers_autoprobe": "1\n"}.items():
        write_in_place(tree / name, text)
    remove_others(tree / "devices", {device.address for device in devices})
    for device in devices:
        _write_device(tree, device)


def _write_device(tree: Path, device: PciDevice) -> None:
    folder = tree / "devices" / device.address
    folder.mkdir(exist_ok=True)
    texts = {
        "vendor": f"{device.vendor:#06x}",
        "device": f"{device.device:#06x}",
        "class": f"{device.pci_class:#08x}",
        "revision": f"{device.revision:#04x}",
        "subsystem_vendor": f"{device.subsystem_vendor:#06x}",
        "subsystem_device": f"{device.subsystem_device:#06x}",
        "numa_node": str(device.numa_node),
        "local_cpulist": device.local_cpus,
        "irq": "16",
        "enable": "1",
        "current_link_speed": "32.0 GT/s PCIe",
        "current_link_width": "16",
        "max_link_speed": "32.0 GT/s PCIe",
        "max_link_width": "16",
        "resource": "\n".join(_resources(device)),
        "modalias": _modalias(device),
        "uevent": "\n".join(_uevent(device)),
    }
    for name, text in texts.items():
        write_in_place(folder / name, text + "\n")
    write_in_place(folder / "config", _config_space(device))
    if device.vendor == NVIDIA:
        write_in_place(folder / "reset", "")
    if device.vpd:
        write_in_place(folder / "vpd", device.vpd)
    if device.driver:
        (tree / "drivers" / device.driver).mkdir(exist_ok=True)
        link(folder / "driver", f"../../drivers/{device.driver}")


def _modalias(device: PciDevice) -> str:
    base, sub, interface = device.pci_class >> 16, device.pci_class >> 8 & 0xFF, device.pci_class & 0xFF
    return (
        f"pci:v{device.vendor:08X}d{device.device:08X}sv{device.subsystem_vendor:08X}sd{device.subsystem_device:08X}"
        f"bc{base:02X}sc{sub:02X}i{interface:02X}"
    )


def _uevent(device: PciDevice) -> list[str]:
    return [
        f"PCI_CLASS={device.pci_class:X}",
        f"PCI_ID={device.vendor:04X}:{device.device:04X}",
        f"PCI_SUBSYS_ID={device.subsystem_vendor:04X}:{device.subsystem_device:04X}",
        f"PCI_SLOT_NAME={device.address}",
        f"MODALIAS={_modalias(device)}",
    ]


def _config_space(device: PciDevice) -> bytes:
    """A type 0 header without capabilities."""
    header = bytearray(CONFIG_SPACE_BYTES)
    struct.pack_into("<HHHH", header, 0x00, device.vendor, device.device, 0x0006, 0x0000)
    struct.pack_into("<I", header, 0x08, device.pci_class << 8 | device.revision)
    for number, (start, _size) in enumerate(_regions(device)):
        struct.pack_into("<Q", header, 0x10 + 8 * number, start | 0xC)  # memory, 64 bit, prefetchable
    struct.pack_into("<HH", header, 0x2C, device.subsystem_vendor, device.subsystem_device)
    struct.pack_into("<BB", header, 0x3C, 16, 1)
    return bytes(header)


def _regions(device: PciDevice) -> list[tuple[int, int]]:
    """Start and size of each memory region; sizes are rounded up to powers of two."""
    free = 0x2000_0000_0000 + (int(device.address[5:7], 16) << 40)
    regions = []
    for wanted in device.memory_bytes:
        size = 1 << (wanted - 1).bit_length()
        start = (free + size - 1) // size * size
        regions.append((start, size))
        free = start + size
    return regions


def _resources(device: PciDevice) -> list[str]:
    empty = f"{0:#018x} {0:#018x} {0:#018x}"
    lines = []
    for start, size in _regions(device):
        lines += [f"{start:#018x} {start + size - 1:#018x} {0x14220C:#018x}", empty]
    return list(itertools.islice(itertools.chain(lines, itertools.repeat(empty)), RESOURCES))
