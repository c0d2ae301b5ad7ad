# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes without machines: kwok keeps their leases and runs their pods on paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import binaries
import control_plane
import fleet as fleet_file
import processes
import settings
from progress import Step

SELECTOR = "type=kwok"
FEW_NODES_LEASE_SECONDS = 12
MANY_NODES_LEASE_SECONDS = 40  # 1,000 leases of 12 s would keep a core busy for ever


def start(programs: Path, wanted: fleet_file.Kwok, step: Step) -> None:
    """Start kwok and create the nodes that are missing; nothing happens where none are wanted."""
    if not wanted.nodes:
        return
    many = wanted.nodes >= control_plane.MANY_NODES
    processes.start(
        "kwok",
        [
            programs / "kwok",
            f"--kubeconfig={settings.KUBECONFIG}",
            f"--config={programs / binaries.KWOK_STAGES}",
            f"--manage-nodes-with-label-selector={SELECTOR}",
            f"--node-lease-duration-seconds={MANY_NODES_LEASE_SECONDS if many else FEW_NODES_LEASE_SECONDS}",
        ],
    )
    listing = control_plane.kubectl(programs, "get", "nodes", "-l", SELECTOR, "-o", "name", step=step)
    present = {line.removeprefix("node/") for line in listing.split()}
    missing = [name for name in node_names(wanted) if name not in present]
    if missing:
        step.say(f"creating {len(missing)} nodes")
        nodes = {"apiVersion": "v1", "kind": "List", "items": [node(name, wanted.gpus) for name in missing]}
        control_plane.kubectl(programs, "create", "-f", "-", step=step, stdin=json.dumps(nodes))


def node_names(wanted: fleet_file.Kwok) -> list[str]:
    """Return the names of all nodes without machines."""
    return [f"kwok-{number:04d}" for number in range(wanted.nodes)]


def node(name: str, gpus: int) -> dict[str, Any]:
    """Return the Node object of one."""
    resources = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                "type": "kwok",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
            },
        },
        # Pods of the real hosts' work must not land on paper.
        "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
        "status": {"allocatable": resources, "capacity": resources},
    }
