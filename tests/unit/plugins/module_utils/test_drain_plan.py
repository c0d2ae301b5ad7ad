# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One verdict for each pod. The oracle is kubectl's own chain of filters, written down once more."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.gpu.plugins.module_utils.disruption_budgets import budget_of
from ansible_collections.onprem.gpu.plugins.module_utils.drain_plan import (
    Known,
    Policy,
    WaitRule,
    claim_drivers,
    eviction_order,
    gangs,
    judge,
    name_of,
    unknown_claims,
    unknown_daemonsets,
)
from ansible_collections.onprem.gpu.plugins.module_utils.label_selectors import parse_selector

NOON = "2026-01-01T12:00:00Z"
NOON_SECONDS = 1767268800.0
GPU = {"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
HIDDEN = {"name": "c", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}
REPLICASET = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs-uid", "controller": True}
DAEMONSET = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "ds", "uid": "ds-uid", "controller": True}
KUBELET = {"apiVersion": "v1", "kind": "Node", "name": "gpu-1", "uid": "node-uid", "controller": True}
ORPHAN = {**DAEMONSET, "uid": "gone-uid"}
KNOWN = Known(daemonsets={"ds-uid": True, "gone-uid": False})
NOTHING_AGREED = Policy()
EVERYTHING_AGREED = Policy(force=True, delete_emptydir_data=True)


def pod(name="p", *, namespace="ns", owner=REPLICASET, phase="Running", node="gpu-1", spec=None, **metadata):
    return {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": f"{namespace}/{name}",
            "ownerReferences": [owner] if owner else [],
            **metadata,
        },
        "spec": {"nodeName": node, "containers": [{"name": "c"}], **(spec or {})},
        "status": {"phase": phase},
    }


def verdict(pod, policy=NOTHING_AGREED, now=NOON_SECONDS):
    judgement = judge(pod, policy, KNOWN, now)
    return judgement.verdict, list(judgement.reasons)


SCRATCH = {"volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}]}


# --- the same as kubectl, where kubectl has an opinion ---


def kubectl(pod, policy):
    """The filters of k8s.io/kubectl/pkg/drain in their order, with --ignore-daemonsets: delete, skip or error."""
    finished = pod["status"]["phase"] in ("Succeeded", "Failed")
    owner = next((each for each in pod["metadata"]["ownerReferences"] if each.get("controller")), None)
    if owner and (owner["apiVersion"], owner["kind"]) == ("apps/v1", "DaemonSet") and not finished:
        if owner["uid"] == "ds-uid":
            return "skip"
        if not policy.force:
            return "error"
    if "kubernetes.io/config.mirror" in pod["metadata"].get("annotations", {}):
        return "skip"
    scratch = any("emptyDir" in each for each in pod["spec"].get("volumes", []))
    if scratch and not finished and not policy.delete_emptydir_data:
        return "error"
    return "error" if owner is None and not finished and not policy.force else "delete"


some_pods = st.builds(
    pod,
    phase=st.sampled_from(["Running", "Pending", "Unknown", "Succeeded", "Failed"]),
    owner=st.sampled_from(
        [
            None,
            REPLICASET,
            DAEMONSET,
            ORPHAN,
            {**DAEMONSET, "apiVersion": "apps.example.com/v1"},  # same kind, another group
            {**DAEMONSET, "controller": False},
        ]
    ),
    spec=st.sampled_from([{}, SCRATCH, {"volumes": [{"name": "data", "hostPath": {"path": "/"}}]}]),
    annotations=st.sampled_from([{}, {}, {"kubernetes.io/config.mirror": "x"}]),
)
some_policies = st.builds(Policy, force=st.booleans(), delete_emptydir_data=st.booleans())


@given(some_pods, some_policies)
def test_pods_go_stay_and_are_refused_as_with_kubectl(each, policy):
    judgement = judge(each, policy, KNOWN, NOON_SECONDS)
    ours = {"evict": "delete", "skip": "skip", "refused": "error"}[judgement.verdict.split(":")[0]]
    if "kubernetes.io/config.mirror" in each["metadata"]["annotations"]:
        assert ours == "skip"  # kubectl would ask for a static pod's DaemonSet first; nothing has both
    else:
        assert ours == kubectl(each, policy)


# --- reasons, one by one ---


@pytest.mark.parametrize(
    ("each", "policy", "expected"),
    [
        (pod(), Policy(), ("evict", [])),
        (pod(phase="Succeeded"), Policy(), ("evict:finished", [])),
        (pod(phase="Failed", owner=None, spec=SCRATCH), Policy(), ("evict:finished", [])),
        (pod(phase="Failed"), Policy(keep_finished=True), ("skip:finished", [])),
        (pod(annotations={"kubernetes.io/config.mirror": "x"}), Policy(force=True), ("skip:mirror", [])),
        (
            pod(owner=KUBELET),
            Policy(),
            ("skip:mirror", []),
        ),
        (pod(owner=DAEMONSET, spec=SCRATCH), Policy(), ("skip:daemonset", [])),
        (pod(owner=ORPHAN), Policy(), ("refused", ["orphan"])),
        (pod(owner=ORPHAN), Policy(force=True), ("evict", ["orphan"])),
        (pod(owner=None), Policy(), ("refused", ["unmanaged"])),
        (pod(owner=None), Policy(force=True), ("evict", ["unmanaged"])),
        (pod(spec=SCRATCH), Policy(), ("refused", ["emptydir"])),
        (pod(spec=SCRATCH), Policy(delete_emptydir_data=True), ("evict", ["emptydir"])),
        # both reasons are told, and each needs its own consent
        (pod(owner=None, spec=SCRATCH), Policy(), ("refused", ["unmanaged", "emptydir"])),
        (pod(owner=None, spec=SCRATCH), Policy(force=True), ("refused", ["emptydir"])),
        (pod(owner=None, spec=SCRATCH), EVERYTHING_AGREED, ("evict", ["unmanaged", "emptydir"])),
    ],
)
def test_verdict_and_reasons(each, policy, expected):
    assert verdict(each, policy) == expected


# --- pods on their way out ---


def test_a_pod_that_is_being_deleted_needs_no_consent():
    leaving = pod(owner=None, spec=SCRATCH, deletionTimestamp=NOON)
    assert verdict(leaving) == ("wait:terminating", [])


def test_a_finalizer_that_holds_a_pod_is_named():
    held = pod(deletionTimestamp=NOON, finalizers=["example.com/archive"])
    assert verdict(held) == ("wait:terminating", ["finalizer:example.com/archive"])


def test_a_finished_pod_that_is_being_deleted_is_waited_for():
    assert verdict(pod(phase="Succeeded", deletionTimestamp=NOON)) == ("wait:terminating", [])


def test_a_daemonsets_pod_is_not_waited_for():
    assert verdict(pod(owner=DAEMONSET, deletionTimestamp=NOON)) == ("skip:daemonset", [])


@pytest.mark.parametrize(
    ("patience", "overdue", "expected"),
    [
        (0, 100000, "wait:terminating"),  # without the option for ever
        (60, -30, "wait:terminating"),  # its grace period is not over
        (60, 59, "wait:terminating"),
        (60, 61, "stuck:terminating"),
    ],
)
def test_patience_with_a_pod_that_is_being_deleted(patience, overdue, expected):
    policy = Policy(skip_wait_for_delete_seconds=patience)
    assert verdict(pod(deletionTimestamp=NOON), policy, NOON_SECONDS + overdue)[0] == expected


# --- which pods are meant ---


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        (pod(spec={"containers": [GPU]}), ("evict", [])),
        (pod(spec={"initContainers": [GPU]}), ("evict", [])),
        (pod(spec={"containers": [HIDDEN]}), ("evict", ["hidden-gpu"])),
        (pod(spec={"runtimeClassName": "nvidia"}), ("evict", ["hidden-gpu"])),
        (pod(), ("skip:no-gpu", [])),
        (pod(phase="Succeeded", spec={"containers": [GPU]}), ("skip:no-gpu", [])),
        (pod(deletionTimestamp=NOON), ("skip:no-gpu", [])),
        (pod(spec={"containers": [GPU]}, deletionTimestamp=NOON), ("wait:terminating", [])),
        # they cannot be evicted, but the caller has to know that they hold one
        (pod(owner=DAEMONSET, spec={"containers": [HIDDEN]}), ("skip:daemonset", ["holds-gpu"])),
        (
            pod(annotations={"kubernetes.io/config.mirror": "x"}, spec={"containers": [GPU]}),
            ("skip:mirror", ["holds-gpu"]),
        ),
        # consent is asked for as ever, but only where the pod is meant
        (pod(owner=None, spec={"containers": [GPU]}), ("refused", ["unmanaged"])),
        (pod(owner=None), ("skip:no-gpu", [])),
    ],
)
def test_only_pods_that_hold_gpus(each, expected):
    assert verdict(each, Policy(gpu_only=True)) == expected


CLAIMED = pod(spec={"resourceClaims": [{"name": "x", "resourceClaimName": "x"}]})


@pytest.mark.parametrize(
    ("drivers", "expected"),
    [
        (["gpu.nvidia.com"], "evict"),
        (["net.example.com", "compute-domain.nvidia.com"], "evict"),
        (["net.example.com"], "skip:no-gpu"),
        (None, "evict"),  # nobody knows whose it is
    ],
)
def test_a_claim_counts_when_a_gpu_driver_serves_it(drivers, expected):
    policy = Policy(gpu_only=True)
    claims = [
        {
            "status": {
                "allocation": {"devices": {"results": [{"driver": driver} for driver in drivers]}},
                "reservedFor": [{"resource": "pods", "uid": CLAIMED["metadata"]["uid"]}],
            }
        }
        for drivers in ([drivers] if drivers else [])
    ]
    known = Known(claim_drivers=claim_drivers([*claims, {"metadata": {}}]))
    assert judge(CLAIMED, policy, known, NOON_SECONDS).verdict == expected
    assert unknown_claims([CLAIMED], policy, known) is (drivers is None)


def test_claims_are_asked_about_only_where_they_decide():
    for policy, each in itertools.product([Policy(), Policy(gpu_only=True)], [pod(), CLAIMED]):
        assert unknown_claims([each], policy, KNOWN) is (policy.gpu_only and each is CLAIMED)
    certain = pod(spec={**CLAIMED["spec"], "containers": [GPU]})
    assert not unknown_claims([certain], Policy(gpu_only=True), KNOWN)


def test_a_selector_and_a_list_of_pods_leave_the_others_in_the_report():
    labelled = pod("a", labels={"app": "x"})
    by_label = Policy(selector=parse_selector("app=x"))
    assert [verdict(each, by_label)[0] for each in (labelled, pod("b", owner=None))] == ["evict", "skip:selector"]
    by_name = Policy(asked=frozenset(["ns/a"]))
    others = [pod("b"), pod("a", namespace="elsewhere"), pod("b", phase="Failed"), pod("b", deletionTimestamp=NOON)]
    assert verdict(labelled, by_name)[0] == "evict"
    assert {verdict(each, by_name)[0] for each in others} == {"skip:not-asked"}


# --- waiting for jobs ---

TRAINING = pod("train", namespace="team-a", labels={"app": "train"}, spec=SCRATCH)


@pytest.mark.parametrize(
    ("rules", "expected", "after_the_deadline"),
    [
        ([], "evict", "evict"),
        ([WaitRule("wait")], "wait:job", "evict"),
        ([WaitRule("wait_forever")], "wait:job", "wait:job"),
        ([WaitRule("never")], "wait:job", "wait:job"),
        ([WaitRule("wait", ("team-*",))], "wait:job", "evict"),
        ([WaitRule("wait", ("team-b", "infra"))], "evict", "evict"),
        ([WaitRule("wait", selector=parse_selector("app=train"))], "wait:job", "evict"),
        ([WaitRule("wait", selector=parse_selector("app=web"))], "evict", "evict"),
        # the first rule that speaks of the pod counts
        ([WaitRule("evict", ("team-a",)), WaitRule("never")], "evict", "evict"),
    ],
)
def test_rules_for_waiting(rules, expected, after_the_deadline):
    policy = Policy(delete_emptydir_data=True, wait_rules=tuple(rules))
    assert verdict(TRAINING, policy)[0] == expected
    assert verdict(TRAINING, policy.when_waited_enough())[0] == after_the_deadline


def test_consent_that_will_be_needed_after_the_wait_is_asked_for_before_it():
    assert verdict(TRAINING, Policy(wait_rules=(WaitRule("wait"),))) == ("refused", ["emptydir"])
    assert verdict(TRAINING, Policy(wait_rules=(WaitRule("never"),)))[0] == "wait:job"


def test_a_job_that_is_done_is_not_waited_for():
    done = pod(phase="Succeeded", spec=SCRATCH)
    assert verdict(done, Policy(wait_rules=(WaitRule("never"),)))[0] == "evict:finished"


# --- what has to be asked ---


def test_each_daemonset_is_asked_about_once_and_only_if_it_is_not_known():
    pods = [pod("a", owner=DAEMONSET), pod("b", owner=DAEMONSET), pod("c"), pod("d", owner=ORPHAN)]
    assert unknown_daemonsets(pods, Known()) == {"ds-uid": ("ns", "ds"), "gone-uid": ("ns", "ds")}
    assert unknown_daemonsets(pods, KNOWN) == {}


# --- order ---


def budget(name, labels):
    spec = {"selector": {"matchLabels": labels}}
    return budget_of({"metadata": {"name": name, "namespace": "ns"}, "spec": spec})


BUDGETS = [budget("a", {"app": "a"}), budget("b", {"app": "b"})]
protected = st.sampled_from([{}, {"app": "a"}, {"app": "b"}])


@given(st.lists(protected, max_size=12), st.randoms())
def test_unprotected_pods_go_first_and_budgets_take_turns(all_labels, chance):
    pods = [pod(f"p{number:02}", labels=labels) for number, labels in enumerate(all_labels)]
    shuffled = pods[:]
    chance.shuffle(shuffled)
    order = eviction_order(shuffled, BUDGETS)
    assert sorted(map(name_of, order)) == [name_of(each) for each in pods]
    apps = [each["metadata"]["labels"].get("app") for each in order]
    free = apps.count(None)
    assert apps[:free] == [None] * free
    for end in range(free, len(apps)):
        left = {app: apps[end:].count(app) for app in ("a", "b")}
        if all(left.values()):
            assert abs(apps[free:end].count("a") - apps[free:end].count("b")) <= 1
    for app in (None, "a", "b"):
        names = [name_of(each) for each in order if each["metadata"]["labels"].get("app") == app]
        assert names == sorted(names)


# --- gangs ---


def test_pods_of_one_gang_are_found_across_nodes():
    rank = {"jobset.sigs.k8s.io/jobset-name": "llm", "batch.kubernetes.io/job-name": "llm-workers-0"}
    pods = [
        pod("r1", labels=rank, node="gpu-2"),
        pod("r0", labels={**rank, "batch.kubernetes.io/job-name": "llm-leader-0"}),
        pod("alone", labels={"batch.kubernetes.io/job-name": "alone"}),
        pod("other", namespace="elsewhere", labels=rank),
        pod("plain"),
    ]
    assert gangs(pods) == [
        {
            "namespace": "ns",
            "gang": "jobset.sigs.k8s.io/jobset-name=llm",
            "nodes": ["gpu-1", "gpu-2"],
            "pods": ["r0", "r1"],
        }
    ]
