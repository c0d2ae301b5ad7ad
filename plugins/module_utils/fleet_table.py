# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The state of a fleet for people, one line per host, as a run leaves it.

Pure. Labels are those of NVIDIA's GPU feature discovery.
"""

from __future__ import annotations

import typing as t

HEADINGS = ("host", "node", "state", "GPUs", "allocatable", "driver", "kubelet", "product")
DRIVER_LABEL = "nvidia.com/cuda.driver-version.full"
PRODUCT_LABEL = "nvidia.com/gpu.product"
GPU_PREFIXES = ("nvidia.com/gpu", "nvidia.com/mig-")
NOTHING = "-"

Host = t.Mapping[str, t.Any]
Node = t.Mapping[str, t.Any]


def fleet_lines(hosts: t.Iterable[Host], nodes: t.Mapping[str, Node], alive: t.Container[str]) -> list[str]:
    """Return the table as lines, the first with the headings.

    hosts: the variables of each host; gpu_survey_host and gpu_node_object are looked at where the run got that far.
    nodes: as onprem.gpu.nodes_info gives them. alive: names of the hosts that did not fail in this run.
    """
    rows = [HEADINGS, *(_row(host, nodes, host["inventory_hostname"] in alive) for host in hosts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows]


def _row(host: Host, nodes: t.Mapping[str, Node], is_alive: bool) -> tuple[str, ...]:
    name = _node_name(host)
    node = nodes.get(name)
    labels = node["labels"] if node else {}
    return (
        host["inventory_hostname"],
        name,
        _state(node, is_alive),
        str(len(host["gpu_survey_host"]["gpus"])) if "gpu_survey_host" in host else NOTHING,
        _allocatable(node),
        labels.get(DRIVER_LABEL, NOTHING),
        (node or {}).get("kubelet_version") or NOTHING,
        labels.get(PRODUCT_LABEL, NOTHING),
    )


def _node_name(host: Host) -> str:
    """The name the run worked with; for a host that failed before that, the one the inventory gives."""
    if "gpu_node_object" in host:
        return str(host["gpu_node_object"]["name"])
    return str(host.get("gpu_node_name") or host["inventory_hostname"])


def _state(node: Node | None, is_alive: bool) -> str:
    if not is_alive:
        return "FAILED"
    if node is None:
        return "no node"
    ready = "Ready" if node["ready"] else "NotReady"
    return f"{ready}, cordoned" if node["unschedulable"] else ready


def _allocatable(node: Node | None) -> str:
    offered = (node or {}).get("allocatable") or {}
    gpus = {name: count for name, count in offered.items() if name.startswith(GPU_PREFIXES) and str(count) != "0"}
    if set(gpus) == {"nvidia.com/gpu"}:
        return str(gpus["nvidia.com/gpu"])
    return ", ".join(f"{count} {name.partition('/')[2]}" for name, count in sorted(gpus.items())) or NOTHING
