# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a PCI device id says about an NVIDIA GPU: its model, architecture and build.

Ids and names: the list of supported chips in NVIDIA's open-gpu-kernel-modules 595.45 (Turing and newer) and the public
PCI id database (older ones). The ranges of ids per chip are the ones NVIDIA's own gpu-admin-tools and nouveau rely on.
Pure; all ids are lower-case hexadecimal without 0x, as sysfs prints them after it.
"""

from __future__ import annotations

import typing as t

ARCHITECTURES = ("pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell")


class GpuModel(t.NamedTuple):
    """One kind of GPU.

    `form_factor`: pcie (a card), sxm (a module on an HGX or DGX board) or superchip (together with a Grace CPU).
    `switched`: boards that carry a full set of these connect them through NVSwitches in the same host.
    """

    model: str | None
    architecture: str | None
    form_factor: str | None
    switched: bool = False


UNKNOWN = GpuModel(None, None, None)

MODELS = {
    # Pascal
    "15f0": GpuModel("Quadro-GP100", "pascal", "pcie"),
    "15f7": GpuModel("P100-PCIE-12GB", "pascal", "pcie"),
    "15f8": GpuModel("P100-PCIE-16GB", "pascal", "pcie"),
    "15f9": GpuModel("P100-SXM2-16GB", "pascal", "sxm"),
    "1b30": GpuModel("Quadro-P6000", "pascal", "pcie"),
    "1b38": GpuModel("P40", "pascal", "pcie"),
    "1bb3": GpuModel("P4", "pascal", "pcie"),
    "1bb4": GpuModel("P6", "pascal", "pcie"),
    # Volta
    "1db1": GpuModel("V100-SXM2-16GB", "volta", "sxm"),
    "1db2": GpuModel("V100-DGXS-16GB", "volta", "pcie"),
    "1db3": GpuModel("V100-FHHL-16GB", "volta", "pcie"),
    "1db4": GpuModel("V100-PCIE-16GB", "volta", "pcie"),
    "1db5": GpuModel("V100-SXM2-32GB", "volta", "sxm"),
    "1db6": GpuModel("V100-PCIE-32GB", "volta", "pcie"),
    "1db7": GpuModel("V100-DGXS-32GB", "volta", "pcie"),
    "1db8": GpuModel("V100-SXM3-32GB", "volta", "sxm", True),
    "1dba": GpuModel("Quadro-GV100", "volta", "pcie"),
    "1df5": GpuModel("V100-SXM2-16GB", "volta", "sxm"),
    "1df6": GpuModel("V100S-PCIE-32GB", "volta", "pcie"),
    # Turing
    "1e30": GpuModel("Quadro-RTX-6000-8000", "turing", "pcie"),
    "1e37": GpuModel("T10", "turing", "pcie"),
    "1e78": GpuModel("Quadro-RTX-6000-8000", "turing", "pcie"),
    "1eb0": GpuModel("Quadro-RTX-5000", "turing", "pcie"),
    "1eb1": GpuModel("Quadro-RTX-4000", "turing", "pcie"),
    "1eb4": GpuModel("T4G", "turing", "pcie"),
    "1eb8": GpuModel("T4", "turing", "pcie"),
    # Ampere
    "20b0": GpuModel("A100-SXM4-40GB", "ampere", "sxm", True),
    "20b1": GpuModel("A100-PCIE-40GB", "ampere", "pcie"),
    "20b2": GpuModel("A100-SXM4-80GB", "ampere", "sxm", True),
    "20b3": GpuModel("A100-SXM-64GB", "ampere", "sxm"),
    "20b5": GpuModel("A100-PCIE-80GB", "ampere", "pcie"),
    "20b7": GpuModel("A30", "ampere", "pcie"),
    "20b8": GpuModel("A100X", "ampere", "pcie"),
    "20b9": GpuModel("A30X", "ampere", "pcie"),
    "20bd": GpuModel("A800-SXM4-40GB", "ampere", "sxm", True),
    "20f1": GpuModel("A100-PCIE-40GB", "ampere", "pcie"),
    "20f3": GpuModel("A800-SXM4-80GB", "ampere", "sxm", True),
    "20f5": GpuModel("A800-PCIE-80GB", "ampere", "pcie"),
    "20f6": GpuModel("A800-40GB-Active", "ampere", "pcie"),
    "20fd": GpuModel("AX800", "ampere", "pcie"),
    "2230": GpuModel("RTX-A6000", "ampere", "pcie"),
    "2231": GpuModel("RTX-A5000", "ampere", "pcie"),
    "2232": GpuModel("RTX-A4500", "ampere", "pcie"),
    "2233": GpuModel("RTX-A5500", "ampere", "pcie"),
    "2235": GpuModel("A40", "ampere", "pcie"),
    "2236": GpuModel("A10", "ampere", "pcie"),
    "2237": GpuModel("A10G", "ampere", "pcie"),
    "2238": GpuModel("A10M", "ampere", "pcie"),
    "24b0": GpuModel("RTX-A4000", "ampere", "pcie"),
    "2531": GpuModel("RTX-A2000", "ampere", "pcie"),
    "2571": GpuModel("RTX-A2000-12GB", "ampere", "pcie"),
    "25b6": GpuModel("A2", "ampere", "pcie"),  # A16 as well: see SUBSYSTEM_MODELS
    # Hopper
    "2313": GpuModel("H100-CNX", "hopper", "pcie"),
    "2321": GpuModel("H100-NVL", "hopper", "pcie"),
    "2322": GpuModel("H800-PCIE", "hopper", "pcie"),
    "2324": GpuModel("H800-SXM5-80GB", "hopper", "sxm", True),
    "2329": GpuModel("H20-SXM5-96GB", "hopper", "sxm", True),
    "232c": GpuModel("H20-SXM5-141GB", "hopper", "sxm", True),
    "2330": GpuModel("H100-SXM5-80GB", "hopper", "sxm", True),
    "2331": GpuModel("H100-PCIE-80GB", "hopper", "pcie"),
    "2335": GpuModel("H200-SXM5-141GB", "hopper", "sxm", True),
    "2336": GpuModel("H100-SXM5", "hopper", "sxm", True),
    "2337": GpuModel("H100-SXM5-64GB", "hopper", "sxm"),
    "2338": GpuModel("H100-SXM5-96GB", "hopper", "sxm", True),
    "2339": GpuModel("H100-SXM5-94GB", "hopper", "sxm"),
    "233a": GpuModel("H800-NVL", "hopper", "pcie"),
    "233b": GpuModel("H200-NVL", "hopper", "pcie"),
    "2342": GpuModel("GH200-96GB", "hopper", "superchip"),
    "2348": GpuModel("GH200-144GB", "hopper", "superchip"),
    # Ada
    "26b1": GpuModel("RTX-6000-Ada", "ada", "pcie"),
    "26b2": GpuModel("RTX-5000-Ada", "ada", "pcie"),
    "26b3": GpuModel("RTX-5880-Ada", "ada", "pcie"),
    "26b5": GpuModel("L40", "ada", "pcie"),
    "26b7": GpuModel("L20", "ada", "pcie"),
    "26b8": GpuModel("L40G", "ada", "pcie"),
    "26b9": GpuModel("L40S", "ada", "pcie"),
    "26ba": GpuModel("L20", "ada", "pcie"),
    "27b0": GpuModel("RTX-4000-SFF-Ada", "ada", "pcie"),
    "27b1": GpuModel("RTX-4500-Ada", "ada", "pcie"),
    "27b2": GpuModel("RTX-4000-Ada", "ada", "pcie"),
    "27b6": GpuModel("L2", "ada", "pcie"),
    "27b8": GpuModel("L4", "ada", "pcie"),
    "28b0": GpuModel("RTX-2000-Ada", "ada", "pcie"),
    # Blackwell
    "2901": GpuModel("B200", "blackwell", "sxm", True),
    "2909": GpuModel("B200", "blackwell", "sxm", True),
    "2941": GpuModel("GB200", "blackwell", "superchip"),
    "2bb1": GpuModel("RTX-PRO-6000-Blackwell-Workstation", "blackwell", "pcie"),
    "2bb3": GpuModel("RTX-PRO-5000-Blackwell", "blackwell", "pcie"),
    "2bb4": GpuModel("RTX-PRO-6000-Blackwell-Max-Q", "blackwell", "pcie"),
    "2bb5": GpuModel("RTX-PRO-6000-Blackwell-Server", "blackwell", "pcie"),
    "2bb9": GpuModel("RTX-6000D", "blackwell", "pcie"),
    "2c31": GpuModel("RTX-PRO-4500-Blackwell", "blackwell", "pcie"),
    "2c33": GpuModel("RTX-PRO-4000-Blackwell-SFF", "blackwell", "pcie"),
    "2c34": GpuModel("RTX-PRO-4000-Blackwell", "blackwell", "pcie"),
    "2d30": GpuModel("RTX-PRO-2000-Blackwell", "blackwell", "pcie"),
    "3182": GpuModel("B300", "blackwell", "sxm", True),
    "31a1": GpuModel("GB300", "blackwell", "superchip"),
    "31c2": GpuModel("GB300", "blackwell", "superchip"),
    "31c3": GpuModel("GB300", "blackwell", "superchip"),
}

# Boards that share a device id and differ in the subsystem id (vendor:device).
SUBSYSTEM_MODELS = {
    ("25b6", "10de:14a9"): GpuModel("A16", "ampere", "pcie"),
    ("25b6", "10de:157e"): GpuModel("A2", "ampere", "pcie"),
    ("2342", "10de:1809"): GpuModel("GH200-480GB", "hopper", "superchip"),
}

# First and last device id of each family of chips, for boards the table above does not know.
CHIP_RANGES = (
    (0x15F0, 0x15FF, "pascal"),  # GP100
    (0x1B00, 0x1D7F, "pascal"),  # GP102 to GP108
    (0x1D80, 0x1DFF, "volta"),  # GV100
    (0x1E00, 0x1FFF, "turing"),  # TU102 to TU106, TU117
    (0x2080, 0x20FF, "ampere"),  # GA100
    (0x2180, 0x21FF, "turing"),  # TU116
    (0x2200, 0x227F, "ampere"),  # GA102
    (0x2300, 0x23FF, "hopper"),  # GH100
    (0x2400, 0x25FF, "ampere"),  # GA103 to GA107
    (0x2680, 0x28FF, "ada"),  # AD102 to AD107
    (0x2900, 0x29FF, "blackwell"),  # GB100, GB102
    (0x2B80, 0x2DFF, "blackwell"),  # GB202 to GB207
    (0x2F00, 0x2F7F, "blackwell"),  # GB205
    (0x3180, 0x327F, "blackwell"),  # GB110, GB112
)


def gpu_model(device: str, subsystem: str = "") -> GpuModel:
    """What is known of a GPU with this PCI device id and subsystem ("10de:16c1").

    A board that is not in the table has no model; its architecture follows from the range its id lies in, if any.
    """
    known = SUBSYSTEM_MODELS.get((device, subsystem)) or MODELS.get(device)
    return known or UNKNOWN._replace(architecture=_architecture_by_range(device))


def _architecture_by_range(device: str) -> str | None:
    number = int(device, 16)
    return next((name for first, last, name in CHIP_RANGES if first <= number <= last), None)
