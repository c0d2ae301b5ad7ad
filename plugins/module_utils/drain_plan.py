# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pods of a node a drain evicts, waits for, leaves alone or refuses to touch, and in which order.

Pure. Every pod gets exactly one verdict with all its reasons, the skipped ones too, so that a report can say of each
pod of the node what becomes of it. What the pods alone do not tell (which DaemonSets exist, which driver serves a
resource claim, what time it is) comes as values.

The rules are those of ``kubectl drain``, with these differences: all reasons of a pod are kept, only the existence of
the DaemonSet's own uid makes it live, and a pod that is already being deleted needs neither force nor consent.
"""

from __future__ import annotations

import collections
import datetime
import fnmatch
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.onprem.gpu.plugins.module_utils.disruption_budgets import Budget, protecting
from ansible_collections.onprem.gpu.plugins.module_utils.gpu_pods import FINISHED, gpu_evidence
from ansible_collections.onprem.gpu.plugins.module_utils.label_selectors import Selector, matches

Pod = t.Mapping[str, t.Any]

EVICT = "evict"
EVICT_FINISHED = "evict:finished"
WAIT_TERMINATING = "wait:terminating"
WAIT_JOB = "wait:job"
STUCK_TERMINATING = "stuck:terminating"
SKIP_MIRROR = "skip:mirror"
SKIP_DAEMONSET = "skip:daemonset"
SKIP_FINISHED = "skip:finished"
SKIP_NO_GPU = "skip:no-gpu"
SKIP_SELECTOR = "skip:selector"
SKIP_NOT_ASKED = "skip:not-asked"
REFUSED = "refused"

# Reasons. The first three make a pod refused unless the caller has agreed.
UNMANAGED = "unmanaged"
ORPHAN = "orphan"
EMPTYDIR = "emptydir"
HIDDEN_GPU = "hidden-gpu"
HOLDS_GPU = "holds-gpu"

WAIT_POLICIES = ("evict", "wait", "wait_forever", "never")

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
GPU_DRIVERS = ("gpu.nvidia.com", "compute-domain.nvidia.com")
# Where the schedulers of gangs and the controllers of jobs name what a pod is a part of.
GANG_LABELS = (
    "kueue.x-k8s.io/pod-group-name",
    "jobset.sigs.k8s.io/jobset-name",
    "leaderworkerset.sigs.k8s.io/name",
    "scheduling.k8s.io/group-name",
    "batch.kubernetes.io/job-name",
)


@dataclass(frozen=True)
class WaitRule:
    """What to do about running pods of these namespaces (globs) and labels before they are evicted."""

    policy: str
    namespaces: tuple[str, ...] = ("*",)
    selector: Selector = ()

    def speaks_of(self, pod: Pod) -> bool:
        namespace = pod["metadata"]["namespace"]
        return any(fnmatch.fnmatchcase(namespace, glob) for glob in self.namespaces) and matches(
            self.selector, pod["metadata"].get("labels")
        )


@dataclass(frozen=True)
class Policy:
    """What the caller wants gone and has agreed to. ``asked`` holds "namespace/name"; None means every pod."""

    force: bool = False
    delete_emptydir_data: bool = False
    gpu_only: bool = False
    keep_finished: bool = False
    asked: frozenset[str] | None = None
    selector: Selector = ()
    wait_rules: tuple[WaitRule, ...] = ()
    skip_wait_for_delete_seconds: float = 0

    def when_waited_enough(self) -> Policy:
        """The same without waiting for what was to be waited for only until a deadline."""
        kept = (replace(rule, policy="evict") if rule.policy == "wait" else rule for rule in self.wait_rules)
        return replace(self, wait_rules=tuple(kept))


@dataclass(frozen=True)
class Manner:
    """How pods are made to go. ``grace_period_seconds`` None means each pod's own."""

    grace_period_seconds: int | None = None
    disable_eviction: bool = False


@dataclass(frozen=True)
class Known:
    """What the pods themselves do not tell.

    ``daemonsets``: uid of each DaemonSet that owns a pod -> whether it exists. ``claim_drivers``: uid of a pod -> the
    drivers that serve its resource claims; a pod that is not in it counts as one whose claims are for GPUs.
    """

    daemonsets: t.Mapping[str, bool] = field(default_factory=dict)
    claim_drivers: t.Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    verdict: str
    reasons: tuple[str, ...] = ()

    @property
    def goes(self) -> bool:
        return self.verdict in (EVICT, EVICT_FINISHED)

    @property
    def awaited(self) -> bool:
        return self.verdict in (WAIT_TERMINATING, WAIT_JOB)


# --- One pod ---


def judge(pod: Pod, policy: Policy, known: Known, now: float) -> Judgement:
    """The verdict on one pod; ``now`` is in seconds since 1970."""
    if is_mirror(pod):
        return Judgement(SKIP_MIRROR, _holding(pod, policy, known))
    outside = _outside(pod, policy, known)
    if is_finished(pod) and not deletion_time(pod):
        return outside or Judgement(SKIP_FINISHED if policy.keep_finished else EVICT_FINISHED)
    daemonset = daemonset_owner(pod)
    if daemonset and known.daemonsets[daemonset["uid"]]:
        return Judgement(SKIP_DAEMONSET, _holding(pod, policy, known))
    if outside:
        return outside
    if deletion_time(pod):
        return Judgement(STUCK_TERMINATING if _stuck(pod, policy, now) else WAIT_TERMINATING, finalizers(pod))
    return _judge_running(pod, policy, known)


def _judge_running(pod: Pod, policy: Policy, known: Known) -> Judgement:
    rule = next((rule for rule in policy.wait_rules if rule.speaks_of(pod)), None)
    waits = rule.policy if rule else "evict"
    if waits in ("wait_forever", "never"):
        return Judgement(WAIT_JOB, (waits,))
    objections, agreed = _objections(pod, policy)
    if objections:
        return Judgement(REFUSED, objections)
    if waits == "wait":
        return Judgement(WAIT_JOB, (waits, *agreed))
    return Judgement(EVICT, (*agreed, *_hidden(pod, policy, known)))


def _outside(pod: Pod, policy: Policy, known: Known) -> Judgement | None:
    """Why the pod is none of those that the caller wants gone, or None."""
    if policy.gpu_only and (is_finished(pod) or not _gpu_signs(pod, known)):
        return Judgement(SKIP_NO_GPU)
    if not matches(policy.selector, pod["metadata"].get("labels")):
        return Judgement(SKIP_SELECTOR)
    if policy.asked is not None and name_of(pod) not in policy.asked:
        return Judgement(SKIP_NOT_ASKED)
    return None


def _objections(pod: Pod, policy: Policy) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What speaks against evicting the pod, and what would if the caller had not agreed to it."""
    facts = {
        ORPHAN: (daemonset_owner(pod) is not None, policy.force),
        UNMANAGED: (controller_of(pod) is None, policy.force),
        EMPTYDIR: (has_emptydir(pod), policy.delete_emptydir_data),
    }
    present = [(reason, consent) for reason, (is_so, consent) in facts.items() if is_so]
    return tuple(r for r, consent in present if not consent), tuple(r for r, consent in present if consent)


def _stuck(pod: Pod, policy: Policy, now: float) -> bool:
    patience = policy.skip_wait_for_delete_seconds
    return patience > 0 and now > (deletion_time(pod) or now) + patience


def _holding(pod: Pod, policy: Policy, known: Known) -> tuple[str, ...]:
    return (HOLDS_GPU,) if policy.gpu_only and not is_finished(pod) and _gpu_signs(pod, known) else ()


def _hidden(pod: Pod, policy: Policy, known: Known) -> tuple[str, ...]:
    return (HIDDEN_GPU,) if policy.gpu_only and _gpu_signs(pod, known) == {"hidden"} else ()


def _gpu_signs(pod: Pod, known: Known) -> set[str]:
    """The evidence for a GPU, without claims that are known to be for something else."""
    signs = gpu_evidence(pod)
    drivers = known.claim_drivers.get(pod["metadata"]["uid"])
    if drivers is not None and drivers.isdisjoint(GPU_DRIVERS):
        signs.discard("claim")
    return signs


# --- What a pod says of itself ---


def name_of(pod: Pod) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def controller_of(pod: Pod) -> t.Mapping[str, t.Any] | None:
    owners = pod["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), None)


def daemonset_owner(pod: Pod) -> t.Mapping[str, t.Any] | None:
    """The owner reference of the DaemonSet that controls the pod; kinds of other API groups are none."""
    owner = controller_of(pod)
    is_one = owner and owner["kind"] == "DaemonSet" and owner["apiVersion"].split("/")[0] == "apps"
    return owner if is_one else None


def is_mirror(pod: Pod) -> bool:
    """Whether the kubelet runs the pod from a file of the host."""
    owner = controller_of(pod)
    annotated = MIRROR_ANNOTATION in (pod["metadata"].get("annotations") or {})
    return annotated or bool(owner and owner["kind"] == "Node" and owner["apiVersion"] == "v1")


def is_finished(pod: Pod) -> bool:
    return (pod.get("status") or {}).get("phase") in FINISHED


def has_emptydir(pod: Pod) -> bool:
    return any("emptyDir" in volume for volume in (pod.get("spec") or {}).get("volumes") or [])


def deletion_time(pod: Pod) -> float | None:
    """When the grace period of a pod that is being deleted ends, in seconds since 1970."""
    text = pod["metadata"].get("deletionTimestamp")
    if not text:
        return None
    moment = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    return moment.replace(tzinfo=datetime.timezone.utc).timestamp()


def finalizers(pod: Pod) -> tuple[str, ...]:
    return tuple(f"finalizer:{name}" for name in pod["metadata"].get("finalizers") or [])


# --- What has to be asked of the API server ---


def unknown_daemonsets(pods: t.Iterable[Pod], known: Known) -> dict[str, tuple[str, str]]:
    """Owners whose existence decides about a pod and is not known yet: uid -> (namespace, name)."""
    owners = {}
    for pod in pods:
        owner = daemonset_owner(pod)
        if owner and owner["uid"] not in known.daemonsets and not is_mirror(pod):
            owners[owner["uid"]] = (pod["metadata"]["namespace"], owner["name"])
    return owners


def unknown_claims(pods: t.Iterable[Pod], policy: Policy, known: Known) -> bool:
    """Whether a pod's resource claims decide about it and their driver is not known yet."""
    return policy.gpu_only and any(
        pod["metadata"]["uid"] not in known.claim_drivers and gpu_evidence(pod) == {"claim"} for pod in pods
    )


def claim_drivers(claims: t.Iterable[t.Mapping[str, t.Any]]) -> dict[str, frozenset[str]]:
    """Drivers that serve each pod, by the pod's uid, from ResourceClaim objects."""
    drivers: dict[str, set[str]] = collections.defaultdict(set)
    for claim in claims:
        status = claim.get("status") or {}
        results = ((status.get("allocation") or {}).get("devices") or {}).get("results") or []
        for consumer in status.get("reservedFor") or []:
            drivers[consumer["uid"]] |= {result["driver"] for result in results}
    return {uid: frozenset(names) for uid, names in drivers.items()}


# --- All pods ---


def eviction_order(pods: t.Iterable[Pod], budgets: t.Collection[Budget]) -> list[Pod]:
    """Pods that no budget protects first, then one of each budget in turn; by name within each."""
    position: dict[tuple[Budget, ...], int] = collections.Counter()
    ranked = []
    for pod in sorted(pods, key=name_of):
        over = tuple(protecting(pod, budgets))
        turn = position[over] if over else 0
        position[over] += 1
        ranked.append((bool(over), turn, name_of(pod), pod))
    return [pod for *_rank, pod in sorted(ranked, key=lambda each: each[:3])]


def gangs(pods: t.Iterable[Pod]) -> list[dict[str, t.Any]]:
    """Jobs and gangs of which several of the pods are a part: evicting one of them usually stops them all."""
    members: dict[tuple[str, str], list[Pod]] = collections.defaultdict(list)
    for pod in pods:
        labels = pod["metadata"].get("labels") or {}
        label = next((label for label in GANG_LABELS if labels.get(label)), None)
        if label:
            members[pod["metadata"]["namespace"], f"{label}={labels[label]}"].append(pod)
    return [
        {
            "namespace": namespace,
            "gang": gang,
            "nodes": sorted({pod["spec"]["nodeName"] for pod in found}),
            "pods": sorted(pod["metadata"]["name"] for pod in found),
        }
        for (namespace, gang), found in sorted(members.items())
        if len(found) > 1
    ]
