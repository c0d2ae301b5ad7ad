# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pod on its way through a drain: what was decided, what was asked for, what became of it. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.gpu.plugins.module_utils.disruption_budgets import (
    NEVER,
    NOW,
    Budget,
    predictions,
    protecting,
)
from ansible_collections.onprem.gpu.plugins.module_utils.drain_plan import (
    REFUSED,
    WAIT_JOB,
    Judgement,
    Pod,
    controller_of,
    eviction_order,
    name_of,
)

# Obstacles: budgets that never let it go, an owner that makes pods again and again, a rule that says never.
BUDGET, RESPAWNING, RULE = "budget", "respawning", "rule"


@dataclass
class Followed:
    """One pod through the run. ``planned`` is the first verdict on it, ``judgement`` the latest.

    ``prediction`` is when the server would evict it, as known before the first eviction; ``obstacle`` is why it will
    not be asked for any more.
    """

    pod: Pod
    node: str
    planned: Judgement
    judgement: Judgement
    late: bool = False
    prediction: str = ""
    requested: bool = False
    accepted: bool = False
    gone: bool = False
    blocked: bool = False
    obstacle: str = ""
    message: str = ""
    tries: int = 0
    not_before: float = 0.0
    over: tuple[tuple[str, str], ...] = ()

    @property
    def open(self) -> bool:
        """Whether something is still to happen to it."""
        return not self.gone and not self.obstacle and (self.judgement.goes or self.judgement.awaited)

    @property
    def remains(self) -> bool:
        """Whether it keeps the node from being drained."""
        return self.open or (not self.gone and (bool(self.obstacle) or self.judgement.verdict == REFUSED))

    @property
    def to_send(self) -> bool:
        return self.open and self.judgement.goes and not self.requested and not self.accepted

    @property
    def owner(self) -> str:
        """Who would make it again."""
        owner = controller_of(self.pod)
        return f"{owner['kind']} {self.pod['metadata']['namespace']}/{owner['name']}" if owner else name_of(self.pod)


def foretell(followed: t.Iterable[Followed], budgets: t.Collection[Budget]) -> None:
    """Note when each pod that is to go can go; what no budget will ever let go meets an obstacle before the start."""
    by_uid = {each.pod["metadata"]["uid"]: each for each in followed if each.planned.goes}
    order = eviction_order([each.pod for each in by_uid.values()], budgets)
    for uid, prediction in predictions(order, budgets).items():
        by_uid[uid].prediction = prediction
        if prediction != NOW:
            by_uid[uid].message = _budget_text(protecting(by_uid[uid].pod, budgets))
        if prediction == NEVER:
            by_uid[uid].obstacle, by_uid[uid].blocked = BUDGET, True


def _budget_text(over: t.Sequence[Budget]) -> str:
    texts = ", ".join(budget.text for budget in over)
    if len(over) > 1:
        return f"protected by more than one PodDisruptionBudget, so the API server never evicts it: {texts}"
    if over[0].unmeetable:
        return f"its PodDisruptionBudget can never be met; run more pods or change it: {texts}"
    return f"its PodDisruptionBudget allows no disruption now: {texts}"


def progress(followed: t.Iterable[Followed]) -> str:
    """One line for people who wait: how many pods of each node are left, and how many wait for a budget or a job."""
    nodes: dict[str, list[Followed]] = {}
    for each in followed:
        if each.remains:
            nodes.setdefault(each.node, []).append(each)
    return "; ".join(f"{node}: {_left(nodes[node])}" for node in sorted(nodes))


def _left(pods: t.Sequence[Followed]) -> str:
    held = sum(each.blocked for each in pods)
    jobs = sum(each.judgement.verdict == WAIT_JOB for each in pods)
    texts = [f"{len(pods)} pod{'' if len(pods) == 1 else 's'} left"]
    texts += [f"{held} held by a budget"] if held else []
    texts += [f"{jobs} not to be evicted yet"] if jobs else []
    return ", ".join(texts)
