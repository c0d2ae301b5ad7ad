# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts as gpu_info reports them, reduced to what plans read."""

from __future__ import annotations

import typing as t

import pytest

SYSTEMS = {
    "debian12": {"id": "debian", "version_id": "12", "family": "debian"},
    "debian13": {"id": "debian", "version_id": "13", "family": "debian"},
    "ubuntu2404": {"id": "ubuntu", "version_id": "24.04", "family": "debian"},
    "rocky9": {"id": "rocky", "version_id": "9.6", "family": "redhat"},
    "rhel10": {"id": "rhel", "version_id": "10.1", "family": "redhat"},
    "opensuse": {"id": "opensuse-leap", "version_id": "15.6", "family": None},
    "debian11": {"id": "debian", "version_id": "11", "family": "debian"},
}
MODELS = {
    "V100": ("volta", "V100-PCIE-16GB", "pcie"),
    "P100": ("pascal", "P100-PCIE-16GB", "pcie"),
    "T4": ("turing", "T4", "pcie"),
    "A100": ("ampere", "A100-PCIE-40GB", "pcie"),
    "L4": ("ada", "L4", "pcie"),
    "H100": ("hopper", "H100-SXM-80GB", "sxm"),
    "GH200": ("hopper", "GH200-480GB", "superchip"),
    "B200": ("blackwell", "B200", "sxm"),
    "unknown": (None, None, None),
}


@pytest.fixture
def gpu_host() -> t.Callable[..., dict]:
    return make_host


def make_host(
    *gpus: str,
    system: str = "debian12",
    nvswitch: bool = False,
    machine: str = "x86_64",
    cores_per_node: int = 4,
    numa_nodes: int = 1,
    memory_gib: int = 64,
) -> dict:
    """A host with these GPUs, two threads a core, memory spread evenly; GPUs on the NUMA nodes in turn."""
    addresses = [f"0000:{index + 1:02x}:00.0" for index in range(len(gpus))]
    total = cores_per_node * numa_nodes
    return {
        "os": {**SYSTEMS[system], "machine": machine, "kernel": "6.1.0-9-amd64"},
        "pci": [_device(address, *MODELS[name]) for address, name in zip(addresses, gpus, strict=True)],
        "nvswitch": {"present": nvswitch},
        "cpu": {"cores": [{"numa_node": cpu // cores_per_node, "cpus": [cpu, cpu + total]} for cpu in range(total)]},
        "numa": [
            {
                "node": node,
                "memory_bytes": memory_gib * 2**30 // numa_nodes,
                "gpus": addresses[node::numa_nodes],
            }
            for node in range(numa_nodes)
        ],
    }


def _device(address: str, architecture: str | None, model: str | None, form_factor: str | None) -> dict:
    return {
        "address": address,
        "kind": "gpu",
        "device": "ffff",
        "architecture": architecture,
        "model": model,
        "form_factor": form_factor,
    }
