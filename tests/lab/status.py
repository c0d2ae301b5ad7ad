# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `lab status` shows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

import binaries
import hosts
import processes
import settings
from fleet import Fleet


def show(fleet: Fleet) -> bool:
    """Print hosts, nodes and processes; return whether everything that should run does."""
    nodes = _nodes()
    rows: list[tuple[str, ...]] = [("host", "address", "os", "gpus", "boot id", "node")]
    good = True
    for host in fleet.hosts:
        boot = hosts.boot_id(host)
        good = good and boot is not None
        gpus = f"{host.gpus.count} x {host.gpus.model}" if host.gpus.count else "none"
        rows.append((host.name, host.address, host.os, gpus, boot or "NO SSH", nodes.get(host.name, "not joined")))
    _print_table(rows)
    if fleet.kwok.nodes:
        simulated = [state for name, state in nodes.items() if name.startswith("kwok-")]
        print(f"\nkwok nodes: {simulated.count('Ready')} of {fleet.kwok.nodes} Ready")
    print()
    rows = [("process", "pid", "state", "log")]
    for process in processes.all_recorded():
        good = good and process.alive
        state = "running" if process.alive else "DEAD"
        rows.append((process.name, str(process.pid), state, str(processes.log_of(process.name))))
    _print_table(rows)
    print(f"\nexport KUBECONFIG={settings.KUBECONFIG} PATH={settings.BIN}:$PATH\nssh -F {settings.SSH_CONFIG} HOST")
    return good


def _nodes() -> dict[str, str]:
    kubectl = [str(binaries.folder() / "kubectl"), f"--kubeconfig={settings.KUBECONFIG}", "--request-timeout=5s"]
    done = subprocess.run([*kubectl, "get", "nodes", "-o", "json"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {}
    nodes = json.loads(done.stdout)["items"]
    return {node["metadata"]["name"]: _node_state(node["status"].get("conditions", [])) for node in nodes}


def _node_state(conditions: Sequence[dict[str, str]]) -> str:
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return "Ready" if ready else "NotReady"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
