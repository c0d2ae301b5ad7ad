# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading Node objects and the one safe way to change them.

Everybody else writes nodes too (kubelet, node lifecycle controller, autoscaler, people), and a patch of ``spec.taints``
replaces the whole list. So each patch carries the resourceVersion and uid it was computed from, a conflict means: read
again, compute again; and a patch whose outcome is unknown is settled by looking. Nothing here creates a node.
"""

from __future__ import annotations

import random
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import (
    MAX_CONNECTIONS,
    PAGE_SIZE,
    Answer,
    Cluster,
    ClusterError,
    OutcomeUnknown,
)
from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import ForeignValue, Node, Patch, patched

NODES = "/api/v1/nodes"
FIELD_MANAGER = "onprem.gpu"
ATTEMPTS = 5

Compute = t.Callable[[Node], t.Optional[Patch]]


@dataclass(frozen=True)
class Written:
    """What became of one node.

    ``before`` is the node the last patch was computed from; ``error`` is None on success; ``conflicts`` counts the
    patches that somebody else's write forestalled, each of which cost a patch and a read more.
    """

    changed: bool
    before: Node | None
    after: Node | None
    error: ClusterError | None = None
    conflicts: int = 0


def read_selected(cluster: Cluster, label_selector: str) -> dict[str, Node]:
    """All nodes a label selector matches, by name."""
    return {
        node["metadata"]["name"]: node
        for page in cluster.list_pages(NODES, {"labelSelector": label_selector})
        for node in _kept(page)
    }


def read_named(cluster: Cluster, names: t.Collection[str]) -> dict[str, Node]:
    """The nodes of these names that exist. Never more requests than the pages of the whole list.

    One name is one GET. For more the list is read page by page, until all were seen or single GETs for the rest are
    cheaper than the pages left.
    """
    found: dict[str, Node] = {}
    missing = set(names)
    if len(missing) > 1:
        for page in cluster.list_pages(NODES):
            for node in _kept(page):
                if node["metadata"]["name"] in missing:
                    missing.remove(node["metadata"]["name"])
                    found[node["metadata"]["name"]] = node
            if len(missing) <= _pages_left(page):
                break
        else:
            return found
    for name in sorted(missing):
        single = read_node(cluster, name)
        if single is not None:
            found[name] = single
    return found


def read_node(cluster: Cluster, name: str) -> Node | None:
    """One node, or None when there is no such node."""
    answer = cluster.get(f"{NODES}/{name}")
    return None if answer.status == 404 else _slim(cluster.demand(answer, f"get node {name}"))


def _pages_left(page: t.Mapping[str, t.Any]) -> int:
    return -(-(page["metadata"].get("remainingItemCount") or 0) // PAGE_SIZE)


def _kept(page: t.Mapping[str, t.Any]) -> t.Iterator[Node]:
    return (_slim(node) for node in page.get("items") or [])


def _slim(node: Node) -> Node:
    """A full Node is 10 to 30 KiB, most of it the image list: keep what decisions and reports need."""
    status = node.get("status") or {}
    return {
        "metadata": node["metadata"],
        "spec": node.get("spec") or {},
        "status": {
            part: status[part]
            for part in ("conditions", "nodeInfo", "addresses", "allocatable", "capacity", "runtimeHandlers")
            if part in status
        },
    }


def write_all(
    cluster: Cluster, nodes: t.Mapping[str, Node], compute_for: t.Callable[[str], Compute], dry_run: bool = False
) -> dict[str, Written]:
    """Bring each node where its compute function wants it; at most 8 at a time.

    One node's failure leaves the others alone.
    """
    with ThreadPoolExecutor(max_workers=MAX_CONNECTIONS) as pool:
        jobs = {
            name: pool.submit(write, cluster, node, compute_for(name), dry_run=dry_run) for name, node in nodes.items()
        }
        return {name: job.result() for name, job in jobs.items()}


def write(
    cluster: Cluster,
    node: Node,
    compute: Compute,
    dry_run: bool = False,
    sleep: t.Callable[[float], None] = time.sleep,
) -> Written:
    """The one safe write: patch with the version the patch was computed from, at most five times.

    ``compute`` is pure and sees the whole node; None means the goal is reached. ``dry_run`` lets the server judge
    (admission, rights) without storing. Never raises ClusterError: it is in the result, with the truth about
    ``changed`` beside it.
    """
    try:
        return _write(cluster, node, compute, dry_run, sleep)
    except ForeignValue as error:
        return _foreign(node, error)
    except ClusterError as error:
        return Written(False, node, None, error)


def _write(cluster: Cluster, node: Node, compute: Compute, dry_run: bool, sleep: t.Callable[[float], None]) -> Written:
    name = node["metadata"]["name"]
    obstacle, conflicts = "", 0
    unsettled: Node | None = None
    for attempt in range(ATTEMPTS):
        patch = compute(node)
        if patch is None:
            break
        try:
            answer = cluster.patch(f"{NODES}/{name}", _guarded(patch, node), _parameters(dry_run))
        except OutcomeUnknown as error:
            obstacle = f"the outcome stayed unknown ({error})"
            unsettled = unsettled or (None if dry_run else node)
        else:
            if answer.ok:
                return replace(_verified(cluster, node, _slim(answer.data), compute, dry_run), conflicts=conflicts)
            if answer.status != 409:
                raise _refusal(cluster, answer, name, dry_run)
            obstacle, conflicts = "other writers were faster each time", conflicts + 1
        sleep(0.05 * 2**attempt * random.uniform(0.5, 1.5))
        node = _same_node_again(cluster, node, unsettled is not None)
    if compute(node) is None:
        # After a lost answer this is the proof that the patch had arrived.
        return Written(unsettled is not None, unsettled or node, node, conflicts=conflicts)
    raise ClusterError(
        "conflict",
        f"Could not write node {name} in {ATTEMPTS} tries: {obstacle}. Last writers: {_last_writers(node)}. Find out "
        "what keeps writing this node, or run again.",
    )


def _guarded(patch: Patch, node: Node) -> Patch:
    guard = {"resourceVersion": node["metadata"]["resourceVersion"], "uid": node["metadata"]["uid"]}
    return {**patch, "metadata": {**patch.get("metadata", {}), **guard}}


def _parameters(dry_run: bool) -> dict[str, str]:
    parameters = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
    return {**parameters, "dryRun": "All"} if dry_run else parameters


def _verified(cluster: Cluster, before: Node, after: Node, compute: Compute, dry_run: bool) -> Written:
    changed = dry_run or after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
    if compute(after) is None:
        return Written(changed, before, after)
    name = before["metadata"]["name"]
    message = (
        f"The API server took the patch of node {name} but stored something else: probably a mutating admission "
        f"webhook of {cluster.where} puts values back. Exempt nodes from it, or wish for what it allows."
    )
    return Written(changed, before, after, ClusterError("refused", message))


def _same_node_again(cluster: Cluster, node: Node, unsettled: bool) -> Node:
    name = node["metadata"]["name"]
    try:
        fresh = read_node(cluster, name)
    except ClusterError as error:
        if not unsettled:
            raise
        raise ClusterError(
            error.reason, f"{error} Whether the patch of node {name} had arrived is not known."
        ) from error
    if fresh is None:
        raise unknown_node(cluster, name)
    if fresh["metadata"]["uid"] != node["metadata"]["uid"]:
        raise ClusterError(
            "conflict",
            f"Node {name} was replaced during this run (another uid now): nothing was written to the new one. Look "
            "why it was registered again, then run again.",
        )
    return fresh


def _refusal(cluster: Cluster, answer: Answer, name: str, dry_run: bool) -> ClusterError:
    if answer.status == 404:
        return unknown_node(cluster, name)
    error = cluster.failure(answer, f"patch node {name}")
    if dry_run and answer.status == 400 and "dry run" in answer.message:
        return ClusterError(error.reason, f"{error} Set check_mode_server to false to predict without the server.")
    return error


def unknown_node(cluster: Cluster, name: str) -> ClusterError:
    return ClusterError(
        "not_found",
        f"There is no node {name} in {cluster.where}; nodes are never created here. Check the spelling (gpu_node_name "
        "when it differs from the inventory name), the cluster, and that the kubelet has registered.",
    )


def _last_writers(node: Node) -> str:
    """The field managers that wrote last, newest first, at most three."""
    entries = node["metadata"].get("managedFields") or []
    newest_first = sorted(entries, key=lambda entry: entry.get("time", ""), reverse=True)
    names = dict.fromkeys(entry.get("manager", "?") for entry in newest_first)
    return ", ".join(list(names)[:3]) or "unknown"


def predicted(node: Node, compute: Compute) -> Written:
    """What ``write`` would do, without a server."""
    try:
        patch = compute(node)
    except ForeignValue as error:
        return _foreign(node, error)
    return Written(patch is not None, node, patched(node, patch))


def _foreign(node: Node, error: ForeignValue) -> Written:
    message = (
        f"Node {node['metadata']['name']} has other values and overwrite is false: {error}. Nothing was changed on "
        "it; set overwrite to true to replace them."
    )
    return Written(False, node, None, ClusterError("refused", message))


# --- Waiting ---


def wait_until_ready(
    cluster: Cluster, nodes: t.Mapping[str, Node], seconds: float, clock: t.Callable[[], float] = time.monotonic
) -> dict[str, Node]:
    """The nodes as they are when all are Ready or the time is over; no request when all are Ready already."""
    latest = dict(nodes)
    deadline = clock() + seconds
    query = {"fieldSelector": f"metadata.name={next(iter(nodes))}"} if len(nodes) == 1 else {}
    while not all(map(is_ready, latest.values())) and clock() < deadline:
        for event in cluster.watch(NODES, query, deadline - clock()):
            name = event["object"]["metadata"].get("name")
            if name in latest and event["type"] in ("ADDED", "MODIFIED"):
                latest[name] = _slim(event["object"])
            if all(map(is_ready, latest.values())) or clock() >= deadline:
                break
    return latest


def is_ready(node: Node) -> bool:
    return ready_condition(node).get("status") == "True"


def ready_condition(node: Node) -> dict[str, t.Any]:
    """The condition Ready; {} when the kubelet has not posted one yet."""
    conditions = (node.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == "Ready"), {})
