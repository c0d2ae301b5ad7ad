# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""drain against the real API server, its controllers and scheduler; nodes are on paper, kwok plays their kubelets."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
import typing as t

import kubernetes
import observe
import paper_nodes
import pytest
import run_module
from paper_nodes import AuditedRequests, Paper, until, user_who_may

WEB = {"app": "web"}
NEVER_READY = {f"pod-ready.stage.kwok.x-k8s.io/{what}": "1h" for what in ("delay", "jitter-delay")}
SCRATCH = {"volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}]}
GPU = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
SEES_GPUS = {"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}
# As the module's notes have them.
RIGHTS: list[dict[str, t.Any]] = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "patch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]},
    {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": ["list", "watch"]},
    {"apiGroups": ["apps"], "resources": ["daemonsets"], "verbs": ["get", "list"]},
    {"apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims"], "verbs": ["list"]},
]


@pytest.fixture(scope="module")
def kwok(kubeconfig):
    with paper_nodes.paper(kubeconfig, "drain") as made:
        yield made


@pytest.fixture
def paper(kwok: Paper) -> t.Iterator[Paper]:
    """Paper nodes; what a test leaves behind is gone for the next one."""
    yield kwok
    kwok.clear()


@pytest.fixture
def drain(kubeconfig):
    """drain(node, ..., **options) runs the module with the lab's kubeconfig."""

    def run(*nodes: str, check_mode: bool = False, **options: t.Any) -> dict[str, t.Any]:
        chosen = {"nodes": list(nodes)} if nodes else {}
        return run_module.run_module(
            "drain", {"kubeconfig": str(kubeconfig), "timeout_seconds": 60, **chosen, **options}, check_mode
        )

    return run


def told(result: dict[str, t.Any], node: str, *what: str) -> dict[str, t.Any]:
    """Name of each pod of a node -> what the result says of it."""
    pods = result["nodes"][node]["pods"]
    return {pod["name"]: pod.get(what[0]) if len(what) == 1 else [pod.get(one) for one in what] for pod in pods}


# --- counts ---


def test_two_hundred_pods_cost_a_request_each_and_six_more(paper, drain):
    [node] = paper.nodes(1)
    paper.pods(200, node)
    with user_who_may(paper.client, f"drain-{paper.run}", RIGHTS) as user:
        audited = AuditedRequests(user)
        result = drain(node, grace_period_seconds=0, impersonate_user=user)
        assert (result["failed"], result["msg"]) == (False, "1 node: all drained, 200 pods evicted")
        assert result["http"]["requests"] == 206
        until(lambda: sum(audited.counted().values()) == 206)
        assert audited.counted() == {
            "get nodes": 1,
            "patch nodes": 1,
            "list pods": 2,
            "list poddisruptionbudgets": 1,
            "create pods eviction": 200,
            "watch pods": 1,
        }
    assert paper.on_node(node) == []


def test_a_second_run_reads_only(paper, drain):
    nodes = paper.nodes(2)
    for node in nodes:
        paper.pod("web", node) if node == nodes[0] else paper.pod("web-2", node)
    first = drain(*nodes)
    assert (first["failed"], first["changed"]) == (False, True), first["msg"]
    second = drain(*nodes)
    assert (second["changed"], second["diff"], second["msg"]) == (False, [], "2 nodes: all drained, 0 pods evicted")
    assert second["http"]["requests"] == 3  # the nodes, and the pods of each


def test_pods_that_need_time_to_stop_cost_no_request_more(paper, drain):
    [node] = paper.nodes(1)
    paper.pods(10, node, grace=3)
    result = drain(node)
    assert (result["failed"], result["http"]["requests"]) == (False, 16)


# --- which pods go ---


def test_every_pod_gets_its_verdict_and_daemonsets_and_static_pods_stay(paper, drain):
    [node] = paper.nodes(1)
    paper.daemonset("agent", 1)
    paper.pod("static", node, annotations={"kubernetes.io/config.mirror": "x"}, owned=False)
    paper.pod("web", node)
    paper.pod("done", node, owned=False, **SCRATCH)
    paper.patch_pod_status("done", {"phase": "Succeeded"})
    result = drain(node)
    assert (result["failed"], result["changed"]) == (False, True), result["msg"]
    verdicts = told(result, node, "verdict", "outcome")
    [agent] = [name for name in verdicts if name.startswith("agent-")]
    assert verdicts == {
        agent: ["skip:daemonset", None],
        "static": ["skip:mirror", None],
        "web": ["evict", "evicted"],
        "done": ["evict:finished", "evicted"],
    }
    assert paper.on_node(node) == [agent, "static"]
    assert paper.is_cordoned(node)


def test_finished_pods_can_keep_their_logs(paper, drain):
    [node] = paper.nodes(1)
    paper.pod("done", node)
    paper.patch_pod_status("done", {"phase": "Failed"})
    result = drain(node, keep_finished=True)
    assert (told(result, node, "verdict"), paper.on_node(node)) == ({"done": "skip:finished"}, ["done"])


REFUSALS = [
    ({}, {"bare": ["unmanaged"], "scratch": ["emptydir"], "both": ["unmanaged", "emptydir"]}),
    ({"force": True}, {"scratch": ["emptydir"], "both": ["emptydir"]}),
    ({"delete_emptydir_data": True}, {"bare": ["unmanaged"], "both": ["unmanaged"]}),
]


@pytest.mark.parametrize(("consent", "expected"), REFUSALS)
def test_what_must_not_go_is_told_all_at_once_and_nothing_is_evicted(paper, drain, consent, expected):
    node, other = paper.nodes(2)
    paper.pod("bare", node, owned=False)
    paper.pod("scratch", node, **SCRATCH)
    paper.pod("both", other, owned=False, **SCRATCH)
    paper.pod("web", other)
    result = drain(node, other, **consent)
    assert (result["failed"], result["changed"], result["reason"]) == (True, True, "refused")
    pods = [pod for each in result["nodes"].values() for pod in each["pods"]]
    assert {pod["name"]: pod["reasons"] for pod in pods if pod["verdict"] == "refused"} == expected
    for name in expected:
        assert f"{paper.namespace}/{name}" in result["msg"]
    assert "Nothing was evicted" in result["msg"]
    assert (paper.on_node(node), paper.on_node(other)) == (["bare", "scratch"], ["both", "web"])
    assert paper.is_cordoned(node)
    assert paper.is_cordoned(other)


def test_a_refusal_can_leave_the_nodes_as_they_are(paper, drain):
    [node] = paper.nodes(1)
    paper.pod("bare", node, owned=False)
    result = drain(node, cordon_on_refusal=False)
    assert (result["failed"], result["changed"], paper.is_cordoned(node)) == (True, False, False)


def test_with_consent_they_go_and_the_loss_is_told(paper, drain):
    [node] = paper.nodes(1)
    paper.pod("bare", node, owned=False)
    paper.pod("scratch", node, **SCRATCH)
    result = drain(node, force=True, delete_emptydir_data=True)
    assert (result["failed"], paper.on_node(node)) == (False, []), result["msg"]
    warnings = json.dumps(result["warnings"])
    for part in (f"(force): {paper.namespace}/bare", f"(delete_emptydir_data): {paper.namespace}/scratch"):
        assert part in warnings


def test_only_pods_that_hold_gpus(paper, drain):
    [node] = paper.nodes(1)
    paper.pod("train", node, container=GPU, running=False)
    paper.pod("init", node, running=False, initContainers=[{"name": "i", "image": "paper", **GPU}])
    paper.pod("hidden", node, container=SEES_GPUS)
    paper.pod("web", node)
    paper.pod("bare-web", node, owned=False)
    result = drain(node, gpu_only=True)
    assert (result["failed"], paper.on_node(node)) == (False, ["bare-web", "web"]), result["msg"]
    assert told(result, node, "verdict", "reasons") == {
        "train": ["evict", []],
        "init": ["evict", []],
        "hidden": ["evict", ["hidden-gpu"]],
        "web": ["skip:no-gpu", []],
        "bare-web": ["skip:no-gpu", []],
    }
    assert f"{paper.namespace}/hidden" in json.dumps(result["warnings"])


def test_a_claim_counts_when_a_gpu_driver_serves_it(paper, drain):
    [node] = paper.nodes(1)
    for name, driver in (("gpu", "gpu.nvidia.com"), ("nic", "nic.example.com")):
        claim = paper.claim(name, node)
        uid = paper.pod(name, node, running=False, resourceClaims=[{"name": "c", "resourceClaimName": claim}])
        paper.allocate(claim, driver, name, uid)
    result = drain(node, gpu_only=True)
    assert (result["failed"], paper.on_node(node)) == (False, ["nic"]), result["msg"]
    assert told(result, node, "verdict") == {"gpu": "evict", "nic": "skip:no-gpu"}


def test_only_the_pods_that_are_named(paper, drain):
    [node] = paper.nodes(1)
    for name in ("a", "b"):
        paper.pod(name, node)
    paper.pod("bare", node, owned=False)
    wanted = [f"{paper.namespace}/a", f"{paper.namespace}/not-there"]
    result = drain(node, pods=wanted, cordon=False)
    assert (result["failed"], paper.on_node(node), paper.is_cordoned(node)) == (False, ["b", "bare"], False)
    assert told(result, node, "verdict") == {"a": "evict", "b": "skip:not-asked", "bare": "skip:not-asked"}
    again = drain(node, pods=wanted, cordon=False)
    assert (again["failed"], again["changed"]) == (False, False)


SELECTORS = ("app=a", "app==a,tier", "app!=a", "app in (a, b)", "app notin (a),tier!=x", "!tier", "tier in ()")


def test_selectors_mean_what_the_api_server_means(paper, drain):
    [node] = paper.nodes(1)
    labels: dict[str, dict[str, str]] = {
        "p0": {},
        "p1": {"app": "a"},
        "p2": {"app": "a", "tier": "x"},
        "p3": {"app": "b", "tier": ""},
        "p4": {"tier": "y"},
    }
    for name, carried in labels.items():
        paper.pod(name, node, labels=carried, running=False)
    for selector in SELECTORS:
        listed = paper.core.list_namespaced_pod(paper.namespace, label_selector=selector).items
        verdicts = told(drain(node, pod_selector=selector, check_mode=True, check_mode_server=False), node, "verdict")
        going = {name for name, verdict in verdicts.items() if verdict == "evict"}
        assert going == {pod.metadata.name for pod in listed}, selector
        assert set(verdicts.values()) <= {"evict", "skip:selector"}


# --- budgets ---


def test_a_budget_is_respected_while_the_scheduler_moves_its_pods(paper, drain):
    """Four replicas, one may be missing: they move one by one, and each is asked for once."""
    node, other = paper.nodes(2)
    paper.core.patch_node(other, {"spec": {"unschedulable": True}})
    paper.deployment("web", 4, WEB)
    assert len(paper.on_node(node)) == 4
    paper.core.patch_node(other, {"spec": {"unschedulable": None}})
    paper.budget("web", WEB, maxUnavailable=1)
    paper.pod("free", node)
    with fewest_ready(paper, "web") as fewest:
        result = drain(node)
    assert (result["failed"], paper.on_node(node)) == (False, []), result["msg"]
    assert len(paper.on_node(other)) == 4
    assert min(fewest) >= 3
    # 5 pods, node twice, pods twice, budgets, a watch of each, perhaps a try or two that came too early
    assert result["http"]["requests"] <= 5 + 7 + 3


@contextlib.contextmanager
def fewest_ready(paper: Paper, deployment: str) -> t.Iterator[list[int]]:
    """How many replicas were healthy by the budget's own count, over and over."""
    seen, stop = [paper.budget_status(deployment).current_healthy], threading.Event()

    def look() -> None:
        while not stop.wait(0.05):
            seen.append(paper.budget_status(deployment).current_healthy)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def test_a_budget_that_can_never_be_met_is_told_before_anything_is_evicted(paper, drain):
    [node] = paper.nodes(1)
    paper.deployment("db", 1, {"app": "db"})
    paper.budget("db", {"app": "db"}, minAvailable=1)
    paper.pod("web", node)
    for check_mode in (True, False):
        began = time.monotonic()
        result = drain(node, check_mode=check_mode)
        assert time.monotonic() - began < 10
        assert (result["failed"], result["reason"]) == (True, "pdb_blocked")
        assert f"{paper.namespace}/db (needs 1 healthy pods of 1, has 1)" in result["msg"]
        assert [entry["pdb"] for entry in result["blocked"]] == [f"{paper.namespace}/db"]
        assert result["nodes"][node]["state"] == "refused"
    assert len(paper.on_node(node)) == 2


def test_two_budgets_over_one_pod_are_told_before_anything_is_evicted(paper, drain):
    [node] = paper.nodes(1)
    paper.pod("both", node, labels={"app": "x", "tier": "y"})
    paper.budget("a", {"app": "x"}, minAvailable=0)
    paper.budget("b", {"tier": "y"}, minAvailable=0)
    result = drain(node)
    assert (result["failed"], result["reason"]) == (True, "pdb_blocked")
    for part in ("more than one", f"{paper.namespace}/a", f"{paper.namespace}/b"):
        assert part in result["msg"]
    with pytest.raises(kubernetes.client.ApiException, match="more than one"):
        paper.evict("both")  # so says the server itself
    assert paper.on_node(node) == ["both"]


def test_a_budget_that_does_not_recover_ends_in_a_failure_that_names_it(paper, drain):
    node, other = paper.nodes(2)
    for name, place in (("db-0", node), ("db-1", other)):
        paper.pod(name, place, labels={"app": "db"})
    paper.pod("db-2", other, labels={"app": "db"}, annotations=NEVER_READY, running=False)
    paper.pod("web", node)
    paper.budget("db", {"app": "db"}, minAvailable=2)
    result = drain(node, timeout_seconds=4)
    assert (result["failed"], result["changed"], result["reason"]) == (True, True, "pdb_blocked")
    assert told(result, node, "outcome") == {"db-0": "blocked", "web": "evicted"}
    assert result["nodes"][node]["state"] == "remaining"
    [entry] = result["blocked"]
    assert (entry["name"], entry["pdb"]) == ("db-0", f"{paper.namespace}/db")
    for part in ("db-0", "4 s (timeout_seconds)", f"budget {paper.namespace}/db"):
        assert part in result["msg"]
    # The budget was watched: not one request for the pod it holds back.
    # The node and its pods twice each, budgets, a watch of pods and budgets, the eviction of web.
    assert result["http"]["requests"] == 8


def test_a_budget_that_recovers_lets_the_pod_go(paper, drain):
    node, other = paper.nodes(2)
    for name, place in (("db-0", node), ("db-1", other)):
        paper.pod(name, place, labels={"app": "db"})
    paper.pod("db-2", other, labels={"app": "db"}, annotations=NEVER_READY, running=False)
    paper.budget("db", {"app": "db"}, minAvailable=2)
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    healer = threading.Timer(3, lambda: paper.patch_pod_status("db-2", ready))
    healer.start()
    began = time.monotonic()
    result = drain(node)
    healer.join()
    assert (result["failed"], paper.on_node(node)) == (False, []), result["msg"]
    assert 3 <= time.monotonic() - began < 10


def test_unready_pods_go_where_their_budget_says_so(paper, drain):
    node, other = paper.nodes(2)
    paper.pod("broken", node, labels=WEB)
    paper.pod("fine", other, labels=WEB)
    paper.patch_pod_status("broken", {"conditions": [{"type": "Ready", "status": "False"}]})
    paper.budget("web", WEB, minAvailable=2)
    assert drain(node)["reason"] == "pdb_blocked"
    paper.policy.patch_namespaced_pod_disruption_budget(
        "web", paper.namespace, {"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}}
    )
    result = drain(node)
    assert (result["failed"], told(result, node, "outcome")) == (False, {"broken": "evicted"})


def test_deleting_past_budgets_names_them(paper, drain):
    [node] = paper.nodes(1)
    paper.pod("db", node, labels={"app": "db"})
    paper.budget("db", {"app": "db"}, minAvailable=1)
    result = drain(node, disable_eviction=True)
    assert (result["failed"], paper.on_node(node)) == (False, [])
    assert f"{paper.namespace}/db" in json.dumps(result["warnings"])


@contextlib.contextmanager
def kept_busy(paper: Paper, node: str) -> t.Iterator[None]:
    """A pod that needs five seconds to go, so that what lands on the node before is seen by the same drain."""
    paper.pod("slow", node, finalizers=["example.com/archive"])
    release = threading.Timer(5, lambda: paper.patch_pod("slow", {"metadata": {"finalizers": None}}))
    release.start()
    try:
        yield
    finally:
        release.join()


def test_a_pod_of_the_same_name_is_a_pod_of_its_own(paper, drain):
    """A StatefulSet makes the next one on the same node at once; each gets its own request with its own uid."""
    [node] = paper.nodes(1)
    paper.statefulset("db", node)
    with kept_busy(paper, node):
        result = drain(node, max_rounds=3, grace_period_seconds=0)
    assert (result["failed"], result["reason"]) == (True, "conflict"), result["msg"]
    pods = [pod for pod in result["nodes"][node]["pods"] if pod["name"] == "db-0"]
    assert len({pod["uid"] for pod in pods}) == len(pods)
    outcomes = [
        pod["outcome"] for pod in pods if pod["outcome"] != "gone"
    ]  # kwok deletes by name, and may hit the next
    assert sorted(outcomes) == ["evicted", "evicted", "evicted", "failed"]
    assert f"StatefulSet {paper.namespace}/db" in result["msg"]


# --- waiting until they are gone ---


def test_a_finalizer_that_holds_a_pod_is_named(paper, drain):
    [node] = paper.nodes(1)
    paper.pod("held", node, finalizers=["example.com/archive"], grace=0)
    result = drain(node, timeout_seconds=2)
    assert (result["failed"], result["changed"], result["reason"]) == (True, True, "timeout")
    assert told(result, node, "outcome") == {"held": "terminating"}
    assert "held by finalizers: example.com/archive" in result["msg"]
    assert paper.on_node(node) == ["held"]


def test_a_pod_that_is_stuck_for_long_can_be_left_behind(paper, drain):
    [node] = paper.nodes(1)
    paper.pod("held", node, finalizers=["example.com/archive"])
    paper.pod("web", node)
    paper.core.delete_namespaced_pod("held", paper.namespace, grace_period_seconds=0)
    time.sleep(2.5)
    result = drain(node, skip_wait_for_delete_seconds=1)
    assert (result["failed"], result["nodes"][node]["state"]) == (False, "drained"), result["msg"]
    assert told(result, node, "verdict") == {"held": "stuck:terminating", "web": "evict"}
    assert "example.com/archive" in json.dumps(result["warnings"])


def test_a_pod_that_somebody_else_deletes_is_waited_for_and_is_not_our_change(paper, drain):
    [node] = paper.nodes(1)
    paper.core.patch_node(node, {"spec": {"unschedulable": True}})
    paper.pod("leaving", node, grace=4, owned=False)
    paper.core.delete_namespaced_pod("leaving", paper.namespace)
    result = drain(node)
    assert (result["failed"], result["changed"]) == (False, False), result["msg"]
    assert told(result, node, "verdict", "outcome") == {"leaving": ["wait:terminating", "gone"]}


@pytest.mark.parametrize(("grace", "slowest"), [(None, 25), (1, 8)])
def test_the_grace_period_is_the_pods_own_unless_another_is_asked_for(paper, drain, grace, slowest):
    [node] = paper.nodes(1)
    uid = paper.pod("slow", node, grace=20, finalizers=["example.com/look"])
    result = drain(node, grace_period_seconds=grace, timeout_seconds=1)
    assert result["reason"] == "timeout"
    pod = paper.core.read_namespaced_pod("slow", paper.namespace)
    assert (pod.metadata.uid, pod.metadata.deletion_grace_period_seconds) == (uid, grace or 20)


def test_a_deployment_that_puts_pods_back_is_given_up_and_named(paper, drain):
    """Its template names the node, so the scheduler and the cordon are passed by."""
    [node] = paper.nodes(1)
    paper.deployment("stubborn", 2, {"app": "stubborn"}, nodeName=node)
    with kept_busy(paper, node):
        result = drain(node, max_rounds=2, grace_period_seconds=0)
    assert (result["failed"], result["changed"], result["reason"]) == (True, True, "conflict"), result["msg"]
    assert f"ReplicaSet {paper.namespace}/stubborn-" in result["msg"]
    outcomes = [outcome for name, outcome in told(result, node, "outcome").items() if name != "slow"]
    assert outcomes.count("evicted") == 4
    assert outcomes.count("failed") >= 1


def test_a_pod_that_lands_on_the_node_meanwhile_goes_as_well(paper, drain):
    [node] = paper.nodes(1)
    late = threading.Timer(2, lambda: paper.pod("late", node, running=False))
    with kept_busy(paper, node):
        late.start()
        result = drain(node)
    late.join()
    assert (result["failed"], paper.on_node(node)) == (False, []), result["msg"]
    assert told(result, node, "outcome") == {"slow": "evicted", "late": "evicted"}


def test_a_namespace_that_is_going_is_no_failure(paper, drain):
    [node] = paper.nodes(1)
    with paper.another_namespace() as namespace:
        metadata = {"name": "web", "ownerReferences": None}
        paper.core.create_namespaced_pod(namespace, {"metadata": metadata, "spec": paper_nodes.pod_spec(node, 4, None)})
        paper.core.delete_namespace(namespace)
        result = drain(node, force=True)
    assert (result["failed"], result["nodes"][node]["state"]) == (False, "drained"), result["msg"]


# --- jobs ---


def test_nothing_is_evicted_while_a_job_runs(paper, drain):
    node, other = paper.nodes(2)
    paper.job("train", node, seconds=4)
    paper.pod("web", other)
    evictions = []
    watcher = threading.Timer(2, lambda: evictions.extend(paper.on_node(other)))
    watcher.start()
    result = drain(node, other, wait_rules=[{"policy": "wait", "pod_selector": "batch.kubernetes.io/job-name"}])
    watcher.join()
    assert (result["failed"], paper.on_node(node), paper.on_node(other)) == (False, [], []), result["msg"]
    assert evictions == ["web"]
    assert list(told(result, node, "verdict").values()) == ["wait:job"]
    job = paper.batch.read_namespaced_job("train", paper.namespace).status
    assert (job.succeeded, job.failed) == (1, None)


def test_a_job_is_evicted_when_its_time_is_over(paper, drain):
    [node] = paper.nodes(1)
    paper.job("train", node, seconds=3600)
    rule = {"policy": "wait", "namespaces": [f"{paper.namespace[:-2]}*"]}
    began = time.monotonic()
    result = drain(node, wait_rules=[rule], wait_timeout_seconds=2, max_rounds=1)
    assert time.monotonic() - began >= 2
    assert "evicted" in told(result, node, "outcome").values()


def test_a_job_that_must_not_be_evicted_fails_the_drain_with_nothing_evicted(paper, drain):
    [node] = paper.nodes(1)
    paper.job("train", node, seconds=3600)
    paper.pod("web", node)
    rules = [{"policy": "evict", "pod_selector": "app=none"}, {"policy": "never", "pod_selector": "job-name=train"}]
    result = drain(node, wait_rules=rules, wait_timeout_seconds=2)
    assert (result["failed"], result["reason"], result["changed"]) == (True, "timeout", True)
    assert "2 s (wait_timeout_seconds)" in result["msg"]
    assert len(paper.on_node(node)) == 2


def test_pods_of_one_gang_are_told_with_their_nodes(paper, drain):
    nodes = paper.nodes(2)
    for rank, node in enumerate(nodes):
        paper.pod(f"rank-{rank}", node, labels={"jobset.sigs.k8s.io/jobset-name": "llm"})
    result = drain(*nodes, check_mode=True)
    assert result["gangs"] == [
        {
            "namespace": paper.namespace,
            "gang": "jobset.sigs.k8s.io/jobset-name=llm",
            "nodes": sorted(nodes),
            "pods": ["rank-0", "rank-1"],
        }
    ]


# --- check mode ---


@pytest.mark.parametrize("server", [True, False])
def test_check_mode_predicts_and_touches_nothing(paper, drain, server):
    node, other = paper.nodes(2)
    for number in range(3):
        paper.pod(f"web-{number}", node, labels=WEB)
    paper.pod("web-3", other, labels=WEB)
    paper.budget("web", WEB, minAvailable=3)
    paper.pod("free", node)
    before = paper.core.read_node(node).metadata.resource_version
    result = drain(node, check_mode=True, check_mode_server=server)
    assert (result["failed"], result["changed"], result["nodes"][node]["state"]) == (False, True, "waiting")
    # The server would let all three go, for a dry run takes nothing off the budget: one of them is the truth.
    assert told(result, node, "prediction") == {"web-0": "now", "web-1": "later", "web-2": "later", "free": "now"}
    assert [entry["name"] for entry in result["blocked"]] == ["web-1", "web-2"]
    assert result["msg"] == "1 node: 4 pods would be evicted, 2 of them later"
    assert result["http"]["requests"] == (8 if server else 3)
    assert (paper.is_cordoned(node), len(paper.on_node(node))) == (False, 4)
    assert paper.core.read_node(node).metadata.resource_version == before
    assert all(pod.metadata.deletion_timestamp is None for pod in paper.running(node))
    assert paper.budget_status("web").disruptions_allowed == 1


def test_check_mode_says_the_same_as_the_run(paper, drain):
    nodes = paper.nodes(2)
    for number, node in enumerate(nodes):
        paper.pod(f"web-{number}", node)
    foretold = drain(*nodes, check_mode=True)
    done = drain(*nodes)
    for key in ("changed", "diff"):
        assert foretold[key] == done[key]
    for node in nodes:
        for key in ("changed", "state", "unschedulable"):
            assert foretold["nodes"][node][key] == done["nodes"][node][key]
        assert told(foretold, node, "verdict", "uid") == told(done, node, "verdict", "uid")
    assert done["diff"][0] == {
        "before_header": nodes[0],
        "after_header": nodes[0],
        "before": {"unschedulable": False, "pods": [f"{paper.namespace}/web-0"]},
        "after": {"unschedulable": True, "pods": []},
    }


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_missing_right_names_user_and_verb(paper, drain, check_mode):
    [node] = paper.nodes(1)
    paper.pod("web", node)
    rights = [rule for rule in RIGHTS if rule["resources"] != ["pods/eviction"]]
    with user_who_may(paper.client, f"drain-{paper.run}", rights) as user:
        result = drain(node, check_mode=check_mode, impersonate_user=user)
    assert (result["failed"], result["reason"]) == (True, "forbidden")
    assert result["changed"] is True  # the cordon was, or would be, written
    for word in (f'User "{user}" cannot create resource "pods/eviction"', "Grant"):
        assert word in result["msg"]
    assert paper.on_node(node) == ["web"]


def test_the_documented_rights_are_enough(paper, drain):
    node, other = paper.nodes(2)
    paper.daemonset("agent", 2)
    paper.pod("train", node, container=GPU, labels=WEB, running=False)
    paper.pod("web", node, container=SEES_GPUS, labels=WEB)
    paper.pod("elsewhere", other, labels=WEB)
    paper.budget("web", WEB, minAvailable=1)
    claim = paper.claim("gpu", node)
    uid = paper.pod("gpu", node, running=False, resourceClaims=[{"name": "c", "resourceClaimName": claim}])
    paper.allocate(claim, "gpu.nvidia.com", "gpu", uid)
    with user_who_may(paper.client, f"drain-{paper.run}", RIGHTS) as user:
        result = drain(node, gpu_only=True, impersonate_user=user)
    assert (result["failed"], result["changed"]) == (False, True), result["msg"]


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"nodes": ["Not_A_Name"]}, ["'Not_A_Name'"]),
        ({"label_selector": " "}, ["every node"]),
        ({"nodes": ["a"], "pods": ["a", "x/Y"]}, ["pods[0] is 'a'", "pods[1] is 'x/Y'", "namespace/name"]),
        ({"nodes": ["a"], "pod_selector": "a >1"}, ["pod_selector", "'a >1'"]),
        (
            {"nodes": ["a"], "wait_rules": [{"policy": "never", "pod_selector": "two words"}]},
            ["wait_rules[0].pod_selector", "'two words'"],
        ),
        ({"nodes": ["a"], "timeout_seconds": 0, "grace_period_seconds": -1}, ["timeout_seconds is 0", "0 or more"]),
        ({"nodes": ["a"], "evict_concurrency": 65}, ["evict_concurrency is 65; allowed is 1 to 64"]),
    ],
)
def test_bad_input_is_refused_before_any_request(drain, options, parts):
    result = drain(host="https://127.0.0.1:1", **options)
    assert (result["failed"], result["changed"], result["reason"]) == (True, False, "refused")
    for part in parts:
        assert part in result["msg"]
    assert "http" not in result


def test_an_unknown_node_is_named_and_no_other_node_is_touched(paper, drain):
    [node] = paper.nodes(1)
    paper.pod("web", node)
    result = drain(node, "drain-typo")
    assert (result["failed"], result["changed"], result["reason"]) == (True, False, "not_found")
    assert "drain-typo" in result["msg"]
    assert (paper.on_node(node), paper.is_cordoned(node)) == (["web"], False)


def test_a_selector_chooses_the_nodes(paper, drain):
    nodes = paper.nodes(2)
    paper.pod("web", nodes[1])
    result = drain(label_selector=f"{paper.selector},kubernetes.io/hostname in ({', '.join(nodes)})")
    assert (result["failed"], sorted(result["nodes"])) == (False, sorted(nodes))


# --- in a playbook ---


def test_a_playbook_shows_how_far_it_is_and_defaults_of_the_group_reach_it(paper, kubeconfig, tmp_path):
    [node] = paper.nodes(1)
    paper.pod("held", node, finalizers=["example.com/archive"])
    task = {"name": "Drain", "onprem.gpu.drain": {"nodes": [node], "timeout_seconds": 8}, "ignore_errors": True}
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "module_defaults": {"group/onprem.gpu.cluster": {"kubeconfig": str(kubeconfig)}},
        "tasks": [task],
    }
    playbook = tmp_path / "drain.yml"
    playbook.write_text(json.dumps([play]))
    run = observe.play(playbook, inventory=tmp_path).require_success()
    result = run.result_of("onprem.gpu.drain", "localhost")
    assert (result["reason"], result["changed"]) == ("timeout", True)
    assert f"\n{node}: 1 pod left\n" in run.log.read_text()


# --- interruption ---


def test_an_interrupted_drain_tells_what_it_did_and_leaves_the_cordon(paper, kubeconfig):
    [node] = paper.nodes(1)
    paper.pod("held", node, finalizers=["example.com/archive"])
    arguments = {"kubeconfig": str(kubeconfig), "nodes": [node]}
    process = subprocess.Popen(
        [sys.executable, "-c", run_module.PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=paper_nodes.environment(),
    )
    assert process.stdin
    process.stdin.write(json.dumps(["drain", arguments]))
    process.stdin.close()
    process.stdin = None
    until(lambda: paper.core.read_namespaced_pod("held", paper.namespace).metadata.deletion_timestamp)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=20)
    result = json.loads(output)
    assert (process.returncode, result["reason"], result["changed"]) == (1, "interrupted", True), errors
    assert told(result, node, "outcome") == {"held": "terminating"}
    assert paper.is_cordoned(node)
    assert not re.search("Traceback", errors)
