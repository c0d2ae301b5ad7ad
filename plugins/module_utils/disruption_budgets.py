# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the API server will answer to an eviction because of PodDisruptionBudgets, before it is asked.

Pure. Follows the order of the server's own eviction handler: pods that are Pending, finished or already being deleted
are not protected; two budgets over one pod are an error for ever; an unready pod may go where the budget says so; else
each eviction takes one of the disruptions the budget allows.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.gpu.plugins.module_utils.label_selectors import Selector, matches, selector_of

Pod = t.Mapping[str, t.Any]

NOW, LATER, NEVER = "now", "later", "never"


@dataclass(frozen=True)
class Budget:
    """A PodDisruptionBudget. ``expected`` pods should exist, ``desired`` of them have to stay healthy.

    ``stale`` is true until the disruption controller has looked at the latest change of it.
    """

    namespace: str
    name: str
    selector: Selector | None
    always_allow_unhealthy: bool
    stale: bool
    allowed: int
    current: int
    desired: int
    expected: int

    def covers(self, pod: Pod) -> bool:
        metadata = pod["metadata"]
        if self.selector is None or metadata["namespace"] != self.namespace:
            return False
        return matches(self.selector, metadata.get("labels"))

    @property
    def unmeetable(self) -> bool:
        """No disruption is allowed, and none would be if every pod were healthy."""
        return not self.stale and self.allowed <= 0 < self.expected <= self.desired

    @property
    def text(self) -> str:
        return (
            f"{self.namespace}/{self.name} (needs {self.desired} healthy pods of {self.expected}, has {self.current})"
        )


def budget_of(pdb: t.Mapping[str, t.Any]) -> Budget:
    """A Budget from the object of the API."""
    metadata, spec, status = pdb["metadata"], pdb.get("spec") or {}, pdb.get("status") or {}
    selector = spec.get("selector")
    return Budget(
        namespace=metadata["namespace"],
        name=metadata["name"],
        selector=None if selector is None else selector_of(selector),
        always_allow_unhealthy=spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow",
        stale=status.get("observedGeneration", 0) < metadata.get("generation", 0),
        allowed=status.get("disruptionsAllowed", 0),
        current=status.get("currentHealthy", 0),
        desired=status.get("desiredHealthy", 0),
        expected=status.get("expectedPods", 0),
    )


def protecting(pod: Pod, budgets: t.Iterable[Budget]) -> list[Budget]:
    """The budgets that the server asks before it evicts the pod."""
    return [] if _unprotected(pod) else [budget for budget in budgets if budget.covers(pod)]


def _unprotected(pod: Pod) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return phase in ("Pending", "Succeeded", "Failed") or bool(pod["metadata"].get("deletionTimestamp"))


def permits(budget: Budget, pod: Pod, taken: int = 0) -> bool:
    """Whether the server would evict the pod now, after ``taken`` evictions that the budget's status does not show."""
    return _goes_as_unhealthy(budget, pod) or (not budget.stale and budget.allowed > taken)


def takes_one(budget: Budget, pod: Pod) -> bool:
    """Whether evicting the pod uses up one of the disruptions the budget allows."""
    return not _goes_as_unhealthy(budget, pod)


def _goes_as_unhealthy(budget: Budget, pod: Pod) -> bool:
    if is_ready(pod):
        return False
    return budget.always_allow_unhealthy or budget.current >= budget.desired > 0


def is_ready(pod: Pod) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def predictions(pods: t.Iterable[Pod], budgets: t.Collection[Budget]) -> dict[str, str]:
    """When each pod can be evicted, by uid: NOW, LATER (when the budget recovers) or NEVER (as things stand).

    Pods are asked for in this order, so the first of a budget's pods are those that go now.
    """
    taken: dict[Budget, int] = {}
    foretold = {}
    for pod in pods:
        over = protecting(pod, budgets)
        foretold[pod["metadata"]["uid"]] = _prediction(pod, over, taken)
    return foretold


def _prediction(pod: Pod, over: list[Budget], taken: dict[Budget, int]) -> str:
    if not over:
        return NOW
    if len(over) > 1:
        return NEVER
    [budget] = over
    if permits(budget, pod, taken.get(budget, 0)):
        taken[budget] = taken.get(budget, 0) + takes_one(budget, pod)
        return NOW
    return NEVER if budget.unmeetable else LATER
