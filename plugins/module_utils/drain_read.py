# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what a drain decides on: the pods of nodes, and what the pods themselves do not tell."""

from __future__ import annotations

import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import (
    MAX_CONNECTIONS,
    METADATA_LIST,
    Cluster,
    ClusterError,
)
from ansible_collections.onprem.gpu.plugins.module_utils.disruption_budgets import Budget, budget_of
from ansible_collections.onprem.gpu.plugins.module_utils.drain_plan import (
    WAIT_JOB,
    Known,
    Pod,
    Policy,
    claim_drivers,
    judge,
    unknown_claims,
    unknown_daemonsets,
)

PODS = "/api/v1/pods"
BUDGETS = "/apis/policy/v1/poddisruptionbudgets"
DAEMONSETS = "/apis/apps/v1"
CLAIMS = "/apis/resource.k8s.io/v1/resourceclaims"
# From here on one list of all DaemonSets is cheaper than a request for each.
SINGLE_DAEMONSETS = 2


@dataclass(frozen=True)
class Listing:
    """The pods of one node as they were at one version."""

    pods: list[Pod]
    version: str


@dataclass
class Situation:
    """What was read before the first write. ``budgets`` is None when nothing made them worth a request."""

    listings: dict[str, Listing]
    known: Known
    budgets: dict[tuple[str, str], Budget] | None = None
    budgets_version: str = ""


def read_situation(cluster: Cluster, nodes: t.Iterable[str], policy: Policy, now: float) -> Situation:
    """The pods of the nodes and what is needed to judge them; one list for each node and at most three more."""
    names = sorted(nodes)
    with ThreadPoolExecutor(MAX_CONNECTIONS) as pool:
        listings = dict(zip(names, pool.map(lambda name: list_pods(cluster, name), names)))
    pods = [pod for listing in listings.values() for pod in listing.pods]
    situation = Situation(listings, learned(cluster, pods, policy, Known()))
    verdicts = [judge(pod, policy, situation.known, now) for pod in pods]
    if any(each.goes or each.verdict == WAIT_JOB for each in verdicts):
        situation.budgets, situation.budgets_version = list_budgets(cluster)
    return situation


def list_pods(cluster: Cluster, node: str) -> Listing:
    pages = list(cluster.list_pages(PODS, {"fieldSelector": f"spec.nodeName={node}"}))
    # A list that outlived its version goes on at a later one: what happened in between is then heard twice, not never.
    return Listing([slim(pod) for page in pages for pod in page["items"]], pages[0]["metadata"]["resourceVersion"])


def list_budgets(cluster: Cluster) -> tuple[dict[tuple[str, str], Budget], str]:
    pages = list(cluster.list_pages(BUDGETS))
    budgets = (budget_of(pdb) for page in pages for pdb in page["items"])
    return {(budget.namespace, budget.name): budget for budget in budgets}, pages[0]["metadata"]["resourceVersion"]


def learned(cluster: Cluster, pods: t.Collection[Pod], policy: Policy, known: Known) -> Known:
    """What is known after asking for what decides about these pods."""
    owners = unknown_daemonsets(pods, known)
    daemonsets = {**known.daemonsets, **_existing(cluster, owners)} if owners else known.daemonsets
    drivers = known.claim_drivers
    if unknown_claims(pods, policy, known):
        drivers = {**drivers, **_claim_drivers(cluster)}
    return Known(daemonsets, drivers)


def _existing(cluster: Cluster, owners: t.Mapping[str, tuple[str, str]]) -> dict[str, bool]:
    if len(set(owners.values())) > SINGLE_DAEMONSETS:
        pages = cluster.list_pages(f"{DAEMONSETS}/daemonsets", accept=METADATA_LIST)
        found = {item["metadata"]["uid"] for page in pages for item in page["items"]}
    else:
        found = {_daemonset_uid(cluster, *owner) for owner in set(owners.values())}
    return {uid: uid in found for uid in owners}


def _daemonset_uid(cluster: Cluster, namespace: str, name: str) -> str:
    answer = cluster.get(f"{DAEMONSETS}/namespaces/{namespace}/daemonsets/{name}")
    if answer.status == 404:
        return ""
    uid: str = cluster.demand(answer, f"get daemonset {namespace}/{name}")["metadata"]["uid"]
    return uid


def _claim_drivers(cluster: Cluster) -> dict[str, frozenset[str]]:
    try:
        return claim_drivers(claim for page in cluster.list_pages(CLAIMS) for claim in page["items"])
    except ClusterError as error:
        if error.reason == "not_found":  # a cluster without dynamic resource allocation
            return {}
        raise


def slim(pod: Pod) -> Pod:
    metadata = {name: content for name, content in pod["metadata"].items() if name != "managedFields"}
    return {"metadata": metadata, "spec": pod.get("spec") or {}, "status": pod.get("status") or {}}
