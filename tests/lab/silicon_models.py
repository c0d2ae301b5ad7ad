# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPU products the lab can simulate."""

from __future__ import annotations

from dataclasses import dataclass

CLASS_3D = 0x030200
# NVML's numbers of the architectures (nvmlDeviceArchitecture_t)
ARCHITECTURES = {"volta": 5, "turing": 6, "ampere": 7, "ada": 8, "hopper": 9, "blackwell": 10}


@dataclass(frozen=True)
class Model:
    """One GPU product. Memory in MiB as NVML reports it, power in watts."""

    name: str  # as NVML and nvidia-smi print it
    device: int  # PCI device id; the vendor is always NVIDIA
    subsystem: int  # PCI subsystem device id; the subsystem vendor is NVIDIA too
    memory_mib: int
    architecture: str
    compute_capability: str
    power_w: int
    nvlinks: int = 0
    mig: str = ""  # its table in silicon_mig.PROFILES; empty = no MIG
    nvswitch: int = 0  # PCI device id of the NVSwitch on its baseboard; 0 = none that shows itself in PCI
    pci_class: int = CLASS_3D
    nvlink5: bool = False  # NVSwitches are managed through ConnectX functions instead


# Device ids and names: PCI ID repository and public nvidia-smi listings; memory: public nvidia-smi listings.
MODELS: dict[str, Model] = {
    "V100-SXM": Model("Tesla V100-SXM2-32GB", 0x1DB5, 0x1249, 32768, "volta", "7.0", 300, nvlinks=6),
    "V100-PCIe": Model("Tesla V100-PCIE-32GB", 0x1DB6, 0x124A, 32768, "volta", "7.0", 250),
    "T4": Model("Tesla T4", 0x1EB8, 0x12A2, 15360, "turing", "7.5", 70),
    "A100-SXM": Model(
        "NVIDIA A100-SXM4-80GB", 0x20B2, 0x1463, 81920, "ampere", "8.0", 400, nvlinks=12, mig="A100-80", nvswitch=0x1AF1
    ),
    "A100-SXM-40GB": Model(
        "NVIDIA A100-SXM4-40GB", 0x20B0, 0x134F, 40960, "ampere", "8.0", 400, nvlinks=12, mig="A100-40", nvswitch=0x1AF1
    ),
    "A100-PCIe": Model("NVIDIA A100 80GB PCIe", 0x20B5, 0x1533, 81920, "ampere", "8.0", 300, mig="A100-80"),
    "A100-PCIe-40GB": Model("NVIDIA A100-PCIE-40GB", 0x20F1, 0x145F, 40960, "ampere", "8.0", 250, mig="A100-40"),
    "A30": Model("NVIDIA A30", 0x20B7, 0x1532, 24576, "ampere", "8.0", 165, mig="A30"),
    "A40": Model("NVIDIA A40", 0x2235, 0x145A, 46068, "ampere", "8.6", 300),
    "A10": Model("NVIDIA A10", 0x2236, 0x1482, 23028, "ampere", "8.6", 150),
    "L4": Model("NVIDIA L4", 0x27B8, 0x16CA, 23034, "ada", "8.9", 72),
    "L40S": Model("NVIDIA L40S", 0x26B9, 0x1851, 46068, "ada", "8.9", 350),
    "H100-SXM": Model(
        "NVIDIA H100 80GB HBM3",
        0x2330,
        0x16C1,
        81559,
        "hopper",
        "9.0",
        700,
        nvlinks=18,
        mig="H100-SXM",
        nvswitch=0x22A3,
    ),
    "H100-PCIe": Model("NVIDIA H100 PCIe", 0x2331, 0x1626, 81559, "hopper", "9.0", 350, mig="H100-PCIe"),
    "H100-NVL": Model("NVIDIA H100 NVL", 0x2321, 0x1839, 95830, "hopper", "9.0", 400, nvlinks=12, mig="H100-NVL"),
    "H200-SXM": Model(
        "NVIDIA H200", 0x2335, 0x18BE, 143771, "hopper", "9.0", 700, nvlinks=18, mig="H200", nvswitch=0x22A3
    ),
    "B200": Model(
        "NVIDIA B200", 0x2901, 0x1999, 183359, "blackwell", "10.0", 1000, nvlinks=18, mig="B200", nvlink5=True
    ),
    "GB300": Model(
        "NVIDIA GB300", 0x31C2, 0x21F1, 284208, "blackwell", "10.3", 1400, nvlinks=18, mig="GB300", nvlink5=True
    ),
    "RTX-PRO-6000": Model(
        "NVIDIA RTX PRO 6000 Blackwell Server Edition", 0x2BB5, 0x204E, 97887, "blackwell", "12.0", 600, mig="RTX-PRO"
    ),
}
