# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a drain says to people: refusals, warnings, what became of each pod, why some are left. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.onprem.gpu.plugins.module_utils.disruption_budgets import LATER, NOW, Budget, protecting
from ansible_collections.onprem.gpu.plugins.module_utils.drain_plan import (
    EMPTYDIR,
    HIDDEN_GPU,
    HOLDS_GPU,
    ORPHAN,
    REFUSED,
    SKIP_MIRROR,
    STUCK_TERMINATING,
    UNMANAGED,
    WAIT_JOB,
    Manner,
    Pod,
    deletion_time,
    finalizers,
    name_of,
)
from ansible_collections.onprem.gpu.plugins.module_utils.followed_pods import BUDGET, RESPAWNING, Followed
from ansible_collections.onprem.gpu.plugins.module_utils.gpu_pods import MOST_NAMED_PODS, first_of, gpu_evidence

# Why pods are refused, and what the caller can do about it.
_REFUSALS = {
    UNMANAGED: "Nobody would make these again, for they have no controller (set force to true to evict them)",
    ORPHAN: "The DaemonSet of these is gone, so nobody would make them again (set force to true to evict them)",
    EMPTYDIR: "These would lose the data of their emptyDir volumes (set delete_emptydir_data to true to accept that)",
}
# What the caller has agreed to.
_CONSENTS = {
    UNMANAGED: "Nobody makes these pods again (force)",
    ORPHAN: "Nobody makes these pods again, for their DaemonSet is gone (force)",
    EMPTYDIR: "These pods lose the data of their emptyDir volumes (delete_emptydir_data)",
    HIDDEN_GPU: "These pods may see GPUs they did not ask for, so they go (runtime class, NVIDIA_VISIBLE_DEVICES)",
}


# --- Before anything is evicted ---


def refusals(followed: t.Collection[Followed]) -> list[str]:
    """Everything that speaks against starting, one sentence for each reason; [] when nothing does."""
    refused = [each for each in followed if each.planned.verdict == REFUSED]
    sentences = [
        f"{text}: {listed(found)}."
        for reason, text in _REFUSALS.items()
        if (found := [each.pod for each in refused if reason in each.planned.reasons])
    ]
    never = [each for each in followed if each.obstacle == BUDGET]
    return [*sentences, *(f"{name_of(each.pod)}: {each.message}." for each in never)]


def listed(pods: t.Iterable[Pod]) -> str:
    return first_of(sorted(map(name_of, pods)))


# --- Afterwards ---


@dataclass(frozen=True)
class Account:
    """What there is to tell.

    ``rehearsed`` means that nothing was done and all of it is a prediction; ``stopped`` that an error ended it.
    """

    followed: t.Sequence[Followed]
    budgets: t.Sequence[Budget]
    rehearsed: bool
    stopped: bool
    now: float

    def of(self, node: str) -> Account:
        return replace(self, followed=[each for each in self.followed if each.node == node])

    @property
    def changed(self) -> bool:
        """Whether a pod was evicted, or would be."""
        return any(each.accepted or (self.succeeds and _should_go(each)) for each in self.followed)

    @property
    def succeeds(self) -> bool:
        """Whether this predicts that all that should go will."""
        return self.rehearsed and not self.stopped

    @property
    def remaining(self) -> list[Followed]:
        return [each for each in self.followed if each.remains]


def warnings(account: Account, manner: Manner) -> list[str]:
    """What the caller has agreed to and whom it hit, or will."""
    going = [each for each in account.followed if (_should_go(each) if account.succeeds else each.accepted)]
    found = [
        f"{text}: {listed(hit)}."
        for reason, text in _CONSENTS.items()
        if (hit := [each.pod for each in going if reason in each.planned.reasons])
    ]
    bypassed = {budget.text: None for each in going for budget in account.budgets if budget.covers(each.pod)}
    if manner.disable_eviction and bypassed:
        found.append(f"Pods are deleted past these PodDisruptionBudgets (disable_eviction): {', '.join(bypassed)}.")
    if manner.grace_period_seconds == 0 and (hit := [each.pod for each in going if gpu_evidence(each.pod)]):
        found.append(
            "With a grace period of 0 the API server forgets pods while their processes may still hold the GPU: "
            f"{listed(hit)}. Look on the host before the driver is unloaded."
        )
    return [*found, *_left_alone(account)]


def _left_alone(account: Account) -> list[str]:
    mirrors = [each for each in account.followed if each.planned.verdict == SKIP_MIRROR]
    static = [each.pod for each in mirrors if HOLDS_GPU in each.planned.reasons]
    stuck = [each.pod for each in account.followed if each.judgement.verdict == STUCK_TERMINATING and not each.gone]
    found = []
    if static:
        found.append(f"Static pods hold GPUs and can only be stopped on the host: {listed(static)}.")
    if stuck:
        texts = ", ".join(f"{name_of(pod)} ({_why_terminating(pod, account.now)})" for pod in stuck[:MOST_NAMED_PODS])
        found.append(f"Not waited for, though not gone (skip_wait_for_delete_seconds): {texts}.")
    return found


def state_of(account: Account) -> str:
    """drained, waiting (a prediction: not at once), refused (something must not go), remaining (something is left)."""
    left = account.remaining
    if any(each.obstacle == BUDGET or each.judgement.verdict == REFUSED for each in left):
        return "refused"
    if account.rehearsed:
        waits = any(each.planned.awaited or each.prediction == LATER for each in account.followed)
        return "waiting" if waits else "drained"
    return "remaining" if left else "drained"


def pods_of(account: Account) -> list[dict[str, t.Any]]:
    """Every pod with its verdict, sorted."""
    return [_described(each, account) for each in sorted(account.followed, key=lambda each: name_of(each.pod))]


def _described(each: Followed, account: Account) -> dict[str, t.Any]:
    metadata = each.pod["metadata"]
    description = {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "verdict": each.planned.verdict,
        "reasons": list(each.planned.reasons),
    }
    if account.rehearsed:
        prediction = LATER if each.planned.awaited else each.prediction
        return {**description, **({"prediction": prediction} if prediction else {})}
    outcome = outcome_of(each)
    if outcome:
        description["outcome"] = outcome
    if each.remains:
        description["message"] = why_left(each, account.now)
    return description


def outcome_of(each: Followed) -> str | None:
    """evicted (by us), gone (by itself or by others), terminating, blocked, failed, left; None for what was let be."""
    if each.gone:
        return "evicted" if each.accepted else "gone"
    if not each.remains:
        return None
    if each.accepted or deletion_time(each.pod):
        return "terminating"
    if each.blocked:
        return "blocked"
    return "failed" if each.obstacle else "left"


def why_left(each: Followed, now: float) -> str:
    if deletion_time(each.pod):
        return _why_terminating(each.pod, now)
    if each.judgement.verdict == REFUSED:
        return ", ".join(each.judgement.reasons)
    return each.message or "was not evicted"


def _why_terminating(pod: Pod, now: float) -> str:
    """Stuck pods are told from slow ones: a grace period ends at the deletion timestamp."""
    held = ", ".join(finalizer.partition(":")[2] for finalizer in finalizers(pod))
    if now < (deletion_time(pod) or 0):
        return f"its grace period ends at {pod['metadata']['deletionTimestamp']}"
    return f"held by finalizers: {held}" if held else "its kubelet has not confirmed the end of its containers"


def blocked(account: Account) -> list[dict[str, t.Any]]:
    """Pods that a budget holds back, or would, with the budgets' names."""
    held = [each for each in account.remaining if each.blocked or (account.rehearsed and each.prediction == LATER)]
    return [
        {
            "namespace": each.pod["metadata"]["namespace"],
            "name": each.pod["metadata"]["name"],
            "reason": each.message,
            "pdb": ", ".join(f"{one.namespace}/{one.name}" for one in protecting(each.pod, account.budgets)),
        }
        for each in sorted(held, key=lambda each: name_of(each.pod))
    ]


def failure_reason(remaining: t.Collection[Followed]) -> str:
    """The word that tells why nodes are not drained, the most telling one first."""
    if any(each.judgement.verdict == REFUSED for each in remaining):
        return "refused"
    if any(each.blocked for each in remaining):
        return "pdb_blocked"
    return "conflict" if any(each.obstacle == RESPAWNING for each in remaining) else "timeout"


_ADVICE = {
    "refused": "Set force or delete_emptydir_data to true to evict them all the same, or remove them yourself.",
    "pdb_blocked": "Run more of these pods elsewhere, change their PodDisruptionBudget, or raise timeout_seconds.",
    "conflict": "Let whoever makes these pods tolerate the cordon no longer, then run this again.",
    "timeout": "Look at what holds these pods, or raise timeout_seconds.",
}


def left_text(account: Account, seconds: float) -> str:
    """The pods that are left, each with the reason, and what to do about them."""
    left = sorted(account.remaining, key=lambda each: name_of(each.pod))
    texts = [f"{name_of(each.pod)} on {each.node} ({why_left(each, account.now)})" for each in left]
    reason = failure_reason(left)
    after = f" after {seconds:.0f} s (timeout_seconds)" if reason in ("timeout", "pdb_blocked") else ""
    return f"Still there{after}: {first_of(texts)}. {_ADVICE[reason]}"


def diff_of(account: Account, unschedulable: tuple[bool, bool]) -> tuple[dict[str, t.Any], dict[str, t.Any]]:
    """Before and after of one node: whether it takes no new pods, and the pods that should go."""
    should_go = [each for each in account.followed if _should_go(each)]
    left = [] if account.succeeds else [each for each in should_go if not each.gone]
    before, after = unschedulable
    return (
        {"unschedulable": before, "pods": sorted(name_of(each.pod) for each in should_go)},
        {"unschedulable": after, "pods": sorted(name_of(each.pod) for each in left)},
    )


def _should_go(each: Followed) -> bool:
    return each.planned.goes or each.planned.verdict == WAIT_JOB


def summary(account: Account, nodes: t.Collection[str]) -> str:
    """How many nodes are drained and how many pods were evicted, or would be."""
    count = len(nodes)
    text = f"{count} node{'' if count == 1 else 's'}"
    if account.succeeds:
        going = sum(map(_should_go, account.followed))
        later = sum(_should_go(each) and each.prediction != NOW for each in account.followed)
        return f"{text}: {_pods(going)} would be evicted{f', {later} of them later' if later else ''}"
    drained = sum(state_of(account.of(name)) == "drained" for name in nodes)
    evicted = sum(each.accepted for each in account.followed)
    return f"{text}: {'all' if drained == count else drained} drained, {_pods(evicted)} evicted"


def _pods(count: int) -> str:
    return f"{count} pod{'' if count == 1 else 's'}"
