# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs to go on with a run in a cluster of a thousand nodes, by the API server's own audit log."""

from __future__ import annotations

import secrets
import typing as t
from concurrent.futures import ThreadPoolExecutor

import kubernetes
import pytest
from paper_nodes import AuditedRequests, until, user_who_may
from run_module import run_module

LABEL = "onprem-gpu-maint-thousand"
RIGHTS = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "get", "update"]},
]


@pytest.fixture
def thousand(kubeconfig):
    """Names of a thousand Node objects, and the label that finds them; they are gone after the test."""
    client = kubernetes.config.new_client_from_config(str(kubeconfig))
    core = kubernetes.client.CoreV1Api(client)
    run = secrets.token_hex(4)
    names = [f"maint-{run}-{number:04}" for number in range(1000)]

    def create(name: str) -> None:
        core.create_node({"metadata": {"name": name, "labels": {LABEL: run}}}, _preload_content=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, names))
    yield client, names, f"{LABEL}={run}"
    core.delete_collection_node(label_selector=f"{LABEL}={run}")
    leases = kubernetes.client.CoordinationV1Api(client)
    leases.delete_namespaced_lease(f"onprem-gpu-maint-{run}", "kube-system")


def test_going_on_with_a_thousand_nodes_takes_their_pages_and_one_write(thousand, kubeconfig):
    client, names, selector = thousand
    pool = selector.partition("=")[2]
    with user_who_may(client, f"maint-{pool}", RIGHTS) as user:
        common = {"kubeconfig": str(kubeconfig), "pool": pool, "impersonate_user": user}

        def maintenance(action: str, **options: t.Any) -> dict[str, t.Any]:
            return run_module("maintenance", {**common, "action": action, **options})

        first = maintenance("start", run="large", label_selector=selector)
        run = {"run": "large", "token": first["token"]}
        chosen = {"names": names[:2], "target": "t1", "label_selector": selector}
        claim = maintenance("claim", max_unavailable="100%", allow_not_ready=True, **chosen, **run)
        assert claim["claimed"] == names[:2]

        audited = AuditedRequests(user)
        again = maintenance("start", run="large", label_selector=selector)
        assert (again["resumed"], list(again["nodes"])) == (True, names[:2])
        # two pages of the fleet, and one of the nodes in maintenance, which may have lost the fleet's label
        assert again["http"]["requests"] == 5
        until(lambda: sum(audited.counted().values()) == 5)
        assert audited.counted() == {"list nodes": 3, "get leases": 1, "update leases": 1}
        run = {"run": "large", "token": again["token"]}
        assert maintenance("advance", to="cordoned", names=names[:2], **run)["http"]["requests"] == 4
