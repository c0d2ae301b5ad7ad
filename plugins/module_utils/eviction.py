# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One eviction, and what each answer of the API server means.

Every request carries the uid of the pod it was decided for: a pod of the same name that came in between is never hit,
and a request whose answer was lost may be sent again.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import Answer, Cluster, ClusterError, OutcomeUnknown
from ansible_collections.onprem.gpu.plugins.module_utils.drain_plan import Manner, Pod, name_of

# What an answer means: the server deletes the pod (and it was us); there is no such pod; a budget says not now; nothing
# is decided yet; this pod can never be evicted; nothing more should be tried.
ACCEPTED, GONE, BLOCKED, UNDECIDED, IMPOSSIBLE, FATAL = (
    "accepted",
    "gone",
    "blocked",
    "undecided",
    "impossible",
    "fatal",
)
# The server's words where it gives no machine-readable cause.
_TWO_BUDGETS = "more than one PodDisruptionBudget"
_BUDGET_CONTROLLER_BEHIND = ("disruptions allowed is negative", "DisruptedPods map too big")


@dataclass(frozen=True)
class Outcome:
    """What one request came to. ``retry_after`` is what the server asked for, in seconds."""

    meaning: str
    message: str = ""
    retry_after: float | None = None
    error: ClusterError | None = None


def evict(cluster: Cluster, pod: Pod, manner: Manner, dry_run: bool = False) -> Outcome:
    """Ask the server to evict a pod, or to delete it. Raises ClusterError when the server stays out of reach."""
    try:
        answer = _send(cluster, pod, manner, dry_run)
    except OutcomeUnknown as error:
        if error.answer and _TWO_BUDGETS in error.answer.message:
            return Outcome(IMPOSSIBLE, error.answer.message)
        return Outcome(UNDECIDED, str(error)) if dry_run else _looked_up(cluster, pod, str(error), ours=True)
    if answer.status == 409:
        return Outcome(GONE) if dry_run else _looked_up(cluster, pod, answer.message, ours=False)
    return _judged(cluster, pod, answer, manner, dry_run)


def _send(cluster: Cluster, pod: Pod, manner: Manner, dry_run: bool) -> Answer:
    metadata = pod["metadata"]
    options: dict[str, t.Any] = {"preconditions": {"uid": metadata["uid"]}}
    if manner.grace_period_seconds is not None:
        options["gracePeriodSeconds"] = manner.grace_period_seconds
    if dry_run:
        options["dryRun"] = ["All"]
    if manner.disable_eviction:
        return cluster.request("DELETE", path_of(pod), body={"apiVersion": "v1", "kind": "DeleteOptions", **options})
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"namespace": metadata["namespace"], "name": metadata["name"]},
        "deleteOptions": options,
    }
    return cluster.request("POST", f"{path_of(pod)}/eviction", body=eviction)


def path_of(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _judged(cluster: Cluster, pod: Pod, answer: Answer, manner: Manner, dry_run: bool) -> Outcome:
    if answer.ok:
        return Outcome(ACCEPTED)
    if answer.status == 404:
        return Outcome(GONE)
    if answer.status == 429 or (answer.status == 403 and _names_one_of(answer, _BUDGET_CONTROLLER_BEHIND)):
        return Outcome(BLOCKED, _budget_message(answer), answer.retry_after)
    if answer.status == 403 and "NamespaceTerminating" in _causes(answer):
        return Outcome(UNDECIDED, answer.message)
    error = cluster.failure(answer, f"{'delete' if manner.disable_eviction else 'evict'} pod {name_of(pod)}")
    if dry_run and answer.status == 400 and "dry run" in answer.message:
        error = ClusterError(error.reason, f"{error} Set check_mode_server to false to predict without the server.")
    return Outcome(FATAL, str(error), error=error)


def _names_one_of(answer: Answer, texts: t.Iterable[str]) -> bool:
    return any(text in answer.message for text in texts)


def _causes(answer: Answer) -> dict[str, str]:
    """Machine-readable reason -> message."""
    causes = (answer.data.get("details") or {}).get("causes") or []
    return {cause.get("reason", ""): cause.get("message", "") for cause in causes}


def _budget_message(answer: Answer) -> str:
    return _causes(answer).get("DisruptionBudget") or answer.message


def _looked_up(cluster: Cluster, pod: Pod, doubt: str, ours: bool) -> Outcome:
    """Settle a doubtful answer by looking at the pod; ``ours`` says whether our request may have been carried out."""
    answer = cluster.get(path_of(pod))
    if answer.status != 404:
        metadata = cluster.demand(answer, f"get pod {name_of(pod)}")["metadata"]
        if metadata["uid"] == pod["metadata"]["uid"]:
            settled = ours and metadata.get("deletionTimestamp")
            return Outcome(ACCEPTED) if settled else Outcome(UNDECIDED, doubt)
    return Outcome(ACCEPTED if ours else GONE)
