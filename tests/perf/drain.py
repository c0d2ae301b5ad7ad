# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What draining a node costs: our requests and time, and those of kubectl drain, on the lab that is up.

    python tests/perf/drain.py        200 pods (or PODS=n); exit code 1 where ours needs more than one each and six

Nodes and pods are on paper, so the time is that of the clients and the API server. Requests are counted by the server's
audit log, for a user of each; both users have the same rights.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import observe
import paper_nodes
from run_module import run_module

PODS = int(os.environ.get("PODS") or 200)
REQUESTS_BESIDE_EVICTIONS = 6
# Seconds to stop: 0 = the API server forgets the pod at once; else kwok confirms it a second later at most.
GRACE = (0, 1)
SETTLE_SECONDS = 2  # the audit log is written behind


@dataclass(frozen=True)
class Cost:
    name: str
    grace: int
    seconds: float
    requests: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.requests.values())


def main() -> int:
    costs = []
    with paper_nodes.paper(observe.KUBECONFIG, "drain") as paper:
        for grace in GRACE:
            for name, drain in (("onprem.gpu.drain", ours), ("kubectl drain", kubectl)):
                costs.append(measured(paper, name, grace, drain))
                print_row(costs[-1])
                paper.clear()
    for cost in costs:
        print(f"\n{cost.name}, grace period {cost.grace} s: {cost.requests}")
    over = [cost for cost in costs if cost.name == "onprem.gpu.drain" and cost.total > PODS + REQUESTS_BESIDE_EVICTIONS]
    for cost in over:
        print(f"perf: {cost.total} requests for {PODS} pods", file=sys.stderr)
    return 1 if over else 0


def measured(paper: paper_nodes.Paper, name: str, grace: int, drain: t.Callable[[str, str, int], None]) -> Cost:
    [node] = paper.nodes(1)
    paper.pods(PODS, node, grace=1)
    user = f"drain-perf-{paper.run}-{paper.count}"
    with paper_nodes.user_who_may(paper.client, user, [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]):
        audited = paper_nodes.AuditedRequests(user)
        began = time.monotonic()
        drain(node, user, grace)
        seconds = time.monotonic() - began
        time.sleep(SETTLE_SECONDS)
        left = paper.on_node(node)
        if left:
            raise RuntimeError(f"{name} left {len(left)} pods")
        return Cost(name, grace, seconds, audited.counted())


def ours(node: str, user: str, grace: int) -> None:
    options = {"nodes": [node], "grace_period_seconds": grace, "impersonate_user": user}
    result = run_module("drain", {"kubeconfig": str(observe.KUBECONFIG), **options})
    if result["failed"]:
        raise RuntimeError(result["msg"])


def kubectl(node: str, user: str, grace: int) -> None:
    command = [str(observe.KUBECTL), f"--kubeconfig={observe.KUBECONFIG}", "drain", node, f"--grace-period={grace}"]
    subprocess.run([*command, f"--as={user}", "--ignore-daemonsets"], check=True, capture_output=True)


def print_row(cost: Cost) -> None:
    text = f"{cost.name:18}  {PODS} pods, grace period {cost.grace} s: {cost.total:5} requests  {cost.seconds:6.1f} s"
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
