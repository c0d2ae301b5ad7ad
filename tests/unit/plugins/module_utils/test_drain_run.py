# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A drain against a small API server with watches, budgets and grace periods, which misbehaves on request."""

from __future__ import annotations

import collections
import contextlib
import copy
import json
import random
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils import drain_run
from ansible_collections.onprem.gpu.plugins.module_utils.cluster import Answer, Cluster, Lost, NotSent
from ansible_collections.onprem.gpu.plugins.module_utils.drain_plan import Manner, Policy, WaitRule
from ansible_collections.onprem.gpu.plugins.module_utils.drain_read import read_situation
from ansible_collections.onprem.gpu.plugins.module_utils.drain_report import (
    Account,
    failure_reason,
    outcome_of,
    state_of,
)
from ansible_collections.onprem.gpu.plugins.module_utils.drain_run import Drain, Limits, rehearse
from ansible_collections.onprem.gpu.plugins.module_utils.followed_pods import foretell

PAST = "2026-01-01T00:00:00Z"
REPLICASET = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs-uid", "controller": True}
DAEMONSET = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "ds", "uid": "ds-uid", "controller": True}
BUDGET_PATH = "/apis/policy/v1/poddisruptionbudgets"


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(drain_run, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(drain_run, "BLOCKED_SECONDS", 0.15)
    monkeypatch.setattr(drain_run, "FIRST_PAUSE_SECONDS", 0.01)


class ApiServer:
    """Pods, budgets and DaemonSets with versions, evictions as pkg/registry/core/pod/storage has them, watches.

    ``trouble`` is asked before each request and may answer in the server's place; ``mishap`` after it. ``grace`` is how
    long pods take to go; None = for ever.
    """

    where = "https://192.0.2.10:6443 (kubeconfig test)"

    def __init__(self, grace=0.0):
        self.grace = grace
        self.objects = {"pods": {}, "poddisruptionbudgets": {}, "daemonsets": {}}
        self.log = []
        self.version = 100
        self.requests = []
        self.evicted = []  # uids
        self.at_once = self.most_at_once = 0
        self.slowness = 0.0
        self.compacted = 0  # the oldest version a watch can start at
        self.silent = False
        self.trouble = lambda request: None
        self.mishap = lambda request, answer: answer
        self.on_deleted = lambda pod: None
        self.break_watch = lambda kind, events: False
        self.changed = threading.Condition(threading.RLock())

    # what happens in the cluster

    def put(self, kind, item):
        with self.changed:
            self.version += 1
            item["metadata"].setdefault("uid", f"uid-{self.version}")
            item["metadata"]["resourceVersion"] = str(self.version)
            known = item["metadata"]["uid"] in self.objects[kind]
            self.objects[kind][item["metadata"]["uid"]] = item
            self._tell(kind, "MODIFIED" if known else "ADDED", item)
        return item["metadata"]["uid"]

    def pod(self, name, *, namespace="ns", node="gpu-1", owner=REPLICASET, phase="Running", **more):
        metadata = {"namespace": namespace, "name": name, **more, "ownerReferences": [owner] if owner else []}
        conditions = [{"type": "Ready", "status": "True"}]
        return self.put(
            "pods",
            {
                "metadata": metadata,
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": phase, "conditions": conditions},
            },
        )

    def budget(self, name="pdb", *, labels=None, allowed=1, expected=9, desired=8, namespace="ns"):
        status = {
            "disruptionsAllowed": allowed,
            "currentHealthy": desired + allowed,
            "desiredHealthy": desired,
            "expectedPods": expected,
        }
        spec = {"selector": {"matchLabels": labels or {}}}
        metadata = {"namespace": namespace, "name": name}
        return self.put("poddisruptionbudgets", {"metadata": metadata, "spec": spec, "status": status})

    def allow(self, uid, disruptions):
        with self.changed:
            pdb = copy.deepcopy(self.objects["poddisruptionbudgets"][uid])
            pdb["status"]["disruptionsAllowed"] = disruptions
            self.put("poddisruptionbudgets", pdb)

    def change_pod(self, uid, **parts):
        with self.changed:
            pod = copy.deepcopy(self.objects["pods"][uid])
            for part, content in parts.items():
                pod[part] = {**pod[part], **content}
            self.put("pods", pod)

    def remove(self, kind, uid):
        with self.changed:
            item = self.objects[kind].pop(uid, None)
            if item:
                self.version += 1
                item = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
                self._tell(kind, "DELETED", item)
        if item and kind == "pods":
            self.on_deleted(item)

    def later(self, seconds, function, *arguments, **named):
        timer = threading.Timer(seconds, function, arguments, named)
        timer.daemon = True
        timer.start()

    def _tell(self, kind, event, item):
        self.log.append((self.version, kind, {"type": event, "object": copy.deepcopy(item)}))
        self.changed.notify_all()

    @property
    def names(self):
        return sorted(pod["metadata"]["name"] for pod in self.objects["pods"].values())

    # requests

    def send(self, method, path, headers, body):
        url = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        request = (method, url.path, query, json.loads(body) if body else None)
        with self.changed:
            self.requests.append(request)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.slowness)
            answer = self.trouble(request) or self.mishap(request, self.handle(*request))
        finally:
            with self.changed:
                self.at_once -= 1
        if isinstance(answer, Exception):
            raise answer
        return copy.deepcopy(answer)

    def handle(self, method, path, query, body):
        with self.changed:
            parts = path.strip("/").split("/")
            if method == "POST":
                return self.evict(parts[3], parts[5], body["deleteOptions"], checked=True)
            if method == "DELETE":
                return self.evict(parts[3], parts[5], body, checked=False)
            if "namespaces" in parts:
                return self.single(parts[-2], parts[-3], parts[-1])
            return self.listing(parts[-1], query)

    def single(self, kind, namespace, name):
        item = self.named(kind, namespace, name)
        return Answer(200, item) if item else Answer(404, {"message": f'{kind} "{name}" not found'})

    def named(self, kind, namespace, name):
        matching = (
            item
            for item in self.objects[kind].values()
            if (item["metadata"]["namespace"], item["metadata"]["name"]) == (namespace, name)
        )
        return next(matching, None)

    def listing(self, kind, query):
        items = [item for item in self.objects[kind].values() if on_node(item, query)]
        return Answer(200, {"metadata": {"resourceVersion": str(self.version)}, "items": items})

    def evict(self, namespace, name, options, checked):
        pod = self.named("pods", namespace, name)
        if pod is None:
            return Answer(404, {"message": f'pods "{name}" not found'})
        uid = pod["metadata"]["uid"]
        if options["preconditions"]["uid"] != uid:
            return Answer(409, {"message": "Precondition failed: UID in precondition"})
        over = [
            pdb
            for pdb in self.objects["poddisruptionbudgets"].values()
            if pdb["metadata"]["namespace"] == namespace
            and pdb["spec"]["selector"]["matchLabels"].items() <= pod["metadata"].get("labels", {}).items()
        ]
        protected = checked and pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        if protected and len(over) > 1:
            return Answer(500, {"message": "This pod has more than one PodDisruptionBudget, which is not supported."})
        if protected and over:
            allowed = over[0]["status"]["disruptionsAllowed"]
            if allowed <= 0:
                return refused_by_budget()
            if "dryRun" not in options:
                self.allow(over[0]["metadata"]["uid"], allowed - 1)
        if "dryRun" not in options:
            self.evicted.append(uid)
            self.delete(uid)
        return Answer(201, {"kind": "Status", "status": "Success"})

    def delete(self, uid):
        if self.grace == 0:
            self.remove("pods", uid)
            return
        self.change_pod(uid, metadata={"deletionTimestamp": PAST})
        if self.grace:
            self.later(self.grace, self.remove, "pods", uid)

    # watches

    @contextlib.contextmanager
    def stream(self, path, headers, read_seconds):
        url = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        with self.changed:
            self.requests.append(("WATCH", url.path, query, None))
        answer = self.trouble(("WATCH", url.path, query, None))
        if isinstance(answer, Exception):
            raise answer
        if answer:
            yield answer.status, iter([json.dumps(answer.data).encode()])
        else:
            yield 200, self.events(url.path.rsplit("/", 1)[1], query)

    def events(self, kind, query):
        if int(query["resourceVersion"]) < self.compacted:
            expired = {"code": 410, "message": "too old resource version"}
            yield json.dumps({"type": "ERROR", "object": expired}).encode()
            return
        sent, position, ends = 0, 0, time.monotonic() + 20
        while time.monotonic() < ends:
            with self.changed:
                if position == len(self.log):
                    self.changed.wait(0.05)
                news, position = self.log[position:], len(self.log)
            for version, of_kind, event in news:
                if self.silent:
                    continue
                if of_kind == kind and version > int(query["resourceVersion"]) and on_node(event["object"], query):
                    if self.break_watch(kind, sent):
                        return
                    sent += 1
                    yield json.dumps(event).encode()

    def renew(self):
        pass


def on_node(item, query):
    selector = query.get("fieldSelector")
    return selector is None or selector == f"spec.nodeName={item['spec']['nodeName']}"


def refused_by_budget(**headers):
    cause = {"reason": "DisruptionBudget", "message": "The disruption budget pdb needs 8 healthy pods and has 8"}
    return Answer(429, {"message": "Cannot evict pod", "details": {"causes": [cause]}}, headers)


def limits(timeout_seconds=10, wait_seconds=10, concurrency=8, max_rounds=5):
    return Limits(timeout_seconds, wait_seconds, concurrency, max_rounds)


EVERYTHING, GENTLY, USUAL = Policy(), Manner(), limits()


def prepared(server, *nodes, policy=EVERYTHING, manner=GENTLY, limits=USUAL):
    cluster = Cluster(server, sleep=lambda seconds: time.sleep(seconds / 200))
    situation = read_situation(cluster, nodes or ("gpu-1",), policy, time.time())
    drain = Drain(cluster, situation, policy, manner, limits)
    foretell(drain.pods.values(), [] if manner.disable_eviction else list((situation.budgets or {}).values()))
    return cluster, drain


def drained(server, *nodes, written=(), **options):
    _cluster, drain = prepared(server, *nodes, **options)
    drain.run(written)
    return drain


def outcomes(drain):
    return {each.pod["metadata"]["name"]: outcome_of(each) for each in drain.pods.values()}


def left(drain):
    return sorted(each.pod["metadata"]["name"] for each in drain.pods.values() if each.remains)


def reason(drain):
    return failure_reason([each for each in drain.pods.values() if each.remains])


def sent(server, method):
    return [request for request in server.requests if request[0] == method]


def counts(server):
    return dict(collections.Counter((request[0], request[1].rsplit("/", 1)[1]) for request in server.requests))


# --- the good case ---


def test_two_hundred_pods_cost_a_request_each_and_four_more():
    server = ApiServer()
    for number in range(200):
        server.pod(f"p{number:03}")
    drain = drained(server, written=["gpu-1"])
    assert (drain.error, left(drain), server.names) == (None, [], [])
    assert set(outcomes(drain).values()) == {"evicted"}
    assert counts(server) == {
        ("GET", "pods"): 2,
        ("GET", "poddisruptionbudgets"): 1,
        ("POST", "eviction"): 200,
        ("WATCH", "pods"): 1,
    }


def test_a_node_that_is_empty_costs_one_request():
    server = ApiServer()
    server.pod("elsewhere", node="gpu-2")
    assert drained(server).pods == {}
    assert counts(server) == {("GET", "pods"): 1}


def test_a_node_that_was_cordoned_after_its_list_is_listed_again():
    server = ApiServer()
    _cluster, drain = prepared(server)
    uid = server.pod("slipped-in")
    drain.run(["gpu-1"])
    assert server.evicted == [uid]
    assert outcomes(drain) == {"slipped-in": "evicted"}


@pytest.mark.parametrize(
    ("manner", "expected"),
    [(Manner(), {}), (Manner(0), {"gracePeriodSeconds": 0}), (Manner(90), {"gracePeriodSeconds": 90})],
)
def test_each_request_names_the_uid_and_a_grace_period_only_when_one_was_asked_for(manner, expected):
    server = ApiServer()
    uid = server.pod("p")
    drained(server, manner=manner)
    [(_method, path, _query, body)] = sent(server, "POST")
    assert path == "/api/v1/namespaces/ns/pods/p/eviction"
    assert body == {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"namespace": "ns", "name": "p"},
        "deleteOptions": {"preconditions": {"uid": uid}, **expected},
    }


def test_evictions_run_side_by_side_but_not_more_than_asked():
    server = ApiServer()
    server.slowness = 0.01
    for number in range(40):
        server.pod(f"p{number}")
    drained(server, limits=limits(concurrency=4))
    assert 2 <= server.most_at_once <= 5  # a list may run beside four evictions


def test_pods_with_a_grace_period_are_waited_for_by_one_watch():
    server = ApiServer(grace=0.2)
    for number in range(20):
        server.pod(f"p{number}")
    drain = drained(server)
    assert (left(drain), server.names) == ([], [])
    assert counts(server)["WATCH", "pods"] == 1
    assert counts(server)["GET", "pods"] == 2


def test_several_nodes_are_drained_together_with_a_watch_each():
    server = ApiServer(grace=0.05)
    for number in range(12):
        server.pod(f"p{number}", node=f"gpu-{number % 3}")
    drain = drained(server, "gpu-0", "gpu-1")
    assert server.names == ["p11", "p2", "p5", "p8"]
    assert left(drain) == []
    assert counts(server)["WATCH", "pods"] == 2


def test_daemonsets_are_asked_about_once_each_or_all_at_once():
    for owners in (2, 3):
        server = ApiServer()
        for number in range(owners):
            uid = server.put("daemonsets", {"metadata": {"namespace": "ns", "name": f"ds{number}"}})
            for node in ("gpu-1", "gpu-2"):
                server.pod(f"d{number}-{node}", owner={**DAEMONSET, "name": f"ds{number}", "uid": uid}, node=node)
        drain = drained(server, "gpu-1", "gpu-2")
        assert (left(drain), len(server.names)) == ([], owners * 2)
        asked = [request for request in server.requests if "daemonsets" in request[1]]
        assert len(asked) == min(owners, 2) if owners < 3 else 1


# --- budgets ---


def test_a_budget_is_used_as_it_recovers_without_a_request_too_many():
    """One disruption at a time, given back when a replacement is up: as many requests as pods."""
    server = ApiServer(grace=0.02)
    pdb = server.budget(labels={"app": "web"})
    server.on_deleted = lambda pod: server.later(0.02, server.allow, pdb, 1) if "labels" in pod["metadata"] else None
    for number in range(6):
        server.pod(f"web-{number}", labels={"app": "web"})
    server.pod("free")
    drain = drained(server)
    assert (left(drain), server.names) == ([], [])
    assert len(sent(server, "POST")) == 7
    assert sent(server, "POST")[0][1].endswith("/free/eviction")
    assert counts(server)["WATCH", "poddisruptionbudgets"] == 1


def test_a_budget_that_recovers_before_the_answer_comes_is_not_waited_for_again():
    """The watch was faster than the answer to the eviction: what it said already counts that eviction."""
    server = ApiServer()
    pdb = server.budget(labels={"app": "web"})
    server.on_deleted = lambda pod: server.allow(pdb, 1)

    def slow_answer(request, answer):
        time.sleep(0.1 if request[0] == "POST" else 0)
        return answer

    server.mishap = slow_answer
    for number in range(4):
        server.pod(f"web-{number}", labels={"app": "web"})
    drain = drained(server, limits=limits(timeout_seconds=3))
    assert (left(drain), len(sent(server, "POST"))) == ([], 4)


def test_a_budget_that_does_not_recover_holds_up_only_its_own_pods():
    server = ApiServer()
    server.budget(labels={"app": "db"}, allowed=0)
    server.pod("db-0", labels={"app": "db"})
    server.pod("web-0", labels={"app": "web"})
    drain = drained(server, limits=limits(timeout_seconds=0.5))
    assert outcomes(drain) == {"db-0": "blocked", "web-0": "evicted"}
    assert (reason(drain), left(drain)) == ("pdb_blocked", ["db-0"])
    assert len(sent(server, "POST")) == 1


def test_a_refusal_that_nobody_foresaw_is_tried_again_with_pauses():
    server = ApiServer()
    server.budget(labels={}, allowed=5)
    server.pod("p")
    refusals = [refused_by_budget(), refused_by_budget(), refused_by_budget()]
    server.trouble = lambda request: refusals.pop() if refusals and request[0] == "POST" else None
    began = time.monotonic()
    drain = drained(server)
    assert (left(drain), len(sent(server, "POST"))) == ([], 4)
    assert time.monotonic() - began >= 0.4


def test_two_budgets_over_one_pod_stop_only_that_pod():
    """They came after the plan, so the server is the first to say it."""
    server = ApiServer()
    both = server.pod("both", labels={"app": "x", "tier": "y"})
    server.pod("free")
    _cluster, drain = prepared(server, limits=limits(timeout_seconds=0.5))
    server.budget("a", labels={"app": "x"})
    server.budget("b", labels={"tier": "y"})
    drain.run([])
    assert outcomes(drain) == {"both": "blocked", "free": "evicted"}
    assert "more than one PodDisruptionBudget" in drain.pods[both].message


def test_what_no_budget_ever_lets_go_is_known_before_the_first_eviction():
    server = ApiServer()
    server.budget("never", labels={"app": "x"}, allowed=0, expected=2, desired=2)
    server.budget("a", labels={"tier": "y"})
    server.budget("b", labels={"zone": "z"})
    server.pod("unmeetable", labels={"app": "x"})
    server.pod("twice", labels={"tier": "y", "zone": "z"})
    server.pod("free")
    _cluster, drain = prepared(server)
    assert {each.pod["metadata"]["name"]: each.prediction for each in drain.pods.values()} == {
        "unmeetable": "never",
        "twice": "never",
        "free": "now",
    }
    assert sent(server, "POST") == []


def test_deleting_past_budgets_uses_the_same_guards():
    server = ApiServer()
    server.budget(allowed=0)
    uid = server.pod("p")
    drain = drained(server, manner=Manner(30, disable_eviction=True))
    [(_method, path, _query, body)] = sent(server, "DELETE")
    assert path == "/api/v1/namespaces/ns/pods/p"
    assert (body["preconditions"], body["gracePeriodSeconds"]) == ({"uid": uid}, 30)
    assert outcomes(drain) == {"p": "evicted"}


# --- answers that are no answer ---


def test_a_pod_that_is_gone_already_is_not_our_doing():
    server = ApiServer()
    uid = server.pod("p")
    server.trouble = lambda request: server.remove("pods", uid) if request[0] == "POST" else None
    assert outcomes(drained(server)) == {"p": "gone"}
    assert server.evicted == []


def test_a_pod_of_the_same_name_is_judged_anew():
    """The old one vanished, a StatefulSet made the next at once: the uid protects it, then it gets its own verdict."""
    server = ApiServer()
    old = server.pod("db-0")

    def replaced(request):
        if request[0] == "POST" and old in server.objects["pods"]:
            server.remove("pods", old)
            server.new = server.pod("db-0")

    server.trouble = replaced
    drain = drained(server)
    assert server.evicted == [server.new]
    assert {uid: outcome_of(each) for uid, each in drain.pods.items()} == {old: "gone", server.new: "evicted"}


@pytest.mark.parametrize("trouble", [Lost("reset by peer"), Answer(504, {"message": "timeout"})])
@pytest.mark.parametrize("arrived", [True, False])
@pytest.mark.parametrize("grace", [0, 0.05])
def test_a_lost_answer_is_settled_by_looking(trouble, arrived, grace):
    server = ApiServer(grace=grace)
    server.pod("p")
    waiting = [trouble]

    def lose(request, answer=None):
        return waiting.pop() if waiting and request[0] == "POST" else answer

    if arrived:
        server.mishap = lose
    else:
        server.trouble = lose
    drain = drained(server)
    assert outcomes(drain) == {"p": "evicted"}
    assert len(server.evicted) == 1
    assert len(sent(server, "POST")) == (1 if arrived else 2)


def test_a_namespace_that_is_going_is_waited_for():
    server = ApiServer()
    uid = server.pod("p")
    cause = {"reason": "NamespaceTerminating", "message": "namespace ns is being terminated"}
    answer = Answer(403, {"message": "forbidden", "details": {"causes": [cause]}})
    server.trouble = lambda request: answer if request[0] == "POST" else None
    server.later(0.2, server.remove, "pods", uid)
    drain = drained(server)
    assert (drain.error, outcomes(drain)) == (None, {"p": "gone"})


def test_a_missing_right_ends_it_at_once_and_what_was_done_is_told():
    server = ApiServer()
    for number in range(50):
        server.pod(f"p{number:02}")
    message = 'User "ops" cannot create resource "pods/eviction"'
    server.trouble = lambda request: (
        Answer(403, {"message": message}) if request[0] == "POST" and len(server.evicted) >= 5 else None
    )
    drain = drained(server, limits=limits(concurrency=2))
    assert drain.error.reason == "forbidden"
    assert message in str(drain.error)
    assert sum(each.accepted for each in drain.pods.values()) == len(server.evicted) < 8
    assert len(sent(server, "POST")) < 10


def test_a_missing_right_to_watch_is_told():
    server = ApiServer(grace=None)
    server.pod("p")
    server.trouble = lambda request: (
        Answer(403, {"message": "cannot watch resource"}) if request[0] == "WATCH" else None
    )
    drain = drained(server)
    assert (drain.error.reason, outcomes(drain)) == ("forbidden", {"p": "terminating"})


def test_an_interruption_stops_the_evictions_and_tells_what_was_done(monkeypatch):
    server = ApiServer()
    for number in range(30):
        server.pod(f"p{number:02}")
    _cluster, drain = prepared(server, limits=limits(concurrency=2))
    asked = drain._send

    def interrupted(pool):
        if len(server.evicted) >= 5:
            raise KeyboardInterrupt
        asked(pool)

    monkeypatch.setattr(drain, "_send", interrupted)
    drain.run([])
    assert drain.error.reason == "interrupted"
    assert sum(each.accepted for each in drain.pods.values()) == len(server.evicted) < 10


# --- news that does not come, or comes twice ---


def test_a_broken_watch_loses_nothing():
    server = ApiServer(grace=0.02)
    for number in range(30):
        server.pod(f"p{number}")
    server.break_watch = lambda kind, events: events >= 4
    assert left(drained(server)) == []


def test_after_a_version_that_is_too_old_the_node_is_listed_again():
    server = ApiServer(grace=0.05)
    for number in range(10):
        server.pod(f"p{number}")

    def break_and_forget(kind, events):
        server.compacted = max(server.compacted, server.version)
        return events >= 3

    server.break_watch = break_and_forget
    began = time.monotonic()
    assert left(drained(server, limits=limits(timeout_seconds=10))) == []
    assert time.monotonic() - began < 5  # not by the last list


def test_old_news_does_not_make_a_pod_that_others_delete_ours():
    """The last list shows a pod on its way out, then the watch tells how it came."""
    server = ApiServer()
    server.pod("p")
    sly = {
        "metadata": {"namespace": "ns", "name": "sly", "uid": "sly", "ownerReferences": [REPLICASET]},
        "spec": {"nodeName": "gpu-1"},
        "status": {"phase": "Running"},
    }
    leaving = {**sly, "metadata": {**sly["metadata"], "deletionTimestamp": PAST}}

    def slip_in(request):
        if request[0] == "GET" and request[1] == "/api/v1/pods" and server.evicted and "sly" not in seen:
            seen.append("sly")
            server.objects["pods"]["sly"] = leaving
            server.later(0.05, tell_late)
            server.later(0.3, server.remove, "pods", "sly")

    def tell_late():
        with server.changed:
            server.version += 1
            server._tell("pods", "ADDED", sly)

    seen = []
    server.trouble = slip_in
    drain = drained(server)
    assert outcomes(drain) == {"p": "evicted", "sly": "gone"}
    assert len(sent(server, "POST")) == 1


def test_a_pod_that_no_watch_told_of_is_found_by_the_last_list():
    server = ApiServer()
    server.pod("p")

    def slip_in(request):
        if request[0] == "GET" and request[1] == "/api/v1/pods" and server.evicted and len(server.evicted) < 2:
            with server.changed:
                server.version += 1
                server.objects["pods"]["sly"] = {
                    "metadata": {"namespace": "ns", "name": "sly", "uid": "sly", "ownerReferences": [REPLICASET]},
                    "spec": {"nodeName": "gpu-1"},
                    "status": {"phase": "Running"},
                }

    server.trouble = slip_in
    drain = drained(server)
    assert outcomes(drain) == {"p": "evicted", "sly": "evicted"}


# --- pods that come, pods that stay ---


def test_a_pod_that_lands_on_the_node_meanwhile_is_judged_and_evicted():
    server = ApiServer(grace=0.2)
    server.pod("p")
    server.later(0.05, server.pod, "tolerant")
    assert outcomes(drained(server)) == {"p": "evicted", "tolerant": "evicted"}


def test_a_daemonset_that_comes_meanwhile_is_left_alone():
    server = ApiServer(grace=0.3)
    server.pod("p")

    def deploy():
        server.put("daemonsets", {"metadata": {"namespace": "ns", "name": "ds", "uid": "ds-uid"}})
        server.pod("agent", owner=DAEMONSET)

    server.later(0.05, deploy)
    drain = drained(server)
    assert (left(drain), server.names) == ([], ["agent"])


def test_a_pod_that_must_not_go_and_comes_meanwhile_fails_the_node():
    server = ApiServer(grace=0.2)
    server.pod("p")
    server.later(0.05, server.pod, "bare", owner=None)
    drain = drained(server)
    assert (left(drain), reason(drain), server.names) == (["bare"], "refused", ["bare"])


@pytest.mark.parametrize("rounds", [1, 3])
def test_an_owner_that_makes_pods_again_and_again_is_given_up_and_named(rounds):
    server = ApiServer()
    made = iter(range(1000))
    server.on_deleted = lambda pod: server.pod(f"again-{next(made)}")
    server.pod("p")
    drain = drained(server, limits=limits(max_rounds=rounds))
    assert len(server.evicted) == rounds
    assert reason(drain) == "conflict"
    [stubborn] = [each for each in drain.pods.values() if each.remains]
    assert "ReplicaSet ns/rs" in stubborn.message


def test_only_evictions_count_as_rounds():
    server = ApiServer()
    made = iter(["again"])
    server.on_deleted = lambda pod: [server.pod(name) for name in made]
    server.pod("p")
    lost = [Lost("reset")] * 3
    server.trouble = lambda request: lost.pop() if lost and request[1].endswith("/again/eviction") else None
    assert outcomes(drained(server, limits=limits(max_rounds=2))) == {"p": "evicted", "again": "evicted"}


def test_an_owner_is_not_given_up_for_evictions_that_may_still_fail():
    """The second pod's eviction is out when the third comes; then it turns out that the second went by itself."""
    server = ApiServer(grace=0.3)
    server.pod("p")
    server.later(0.05, server.pod, "second")

    def overtaken(request):
        if request[0] == "POST" and request[1].endswith("/second/eviction"):
            server.pod("third")
            time.sleep(0.1)
            server.remove("pods", server.named("pods", "ns", "second")["metadata"]["uid"])

    server.trouble = overtaken
    drain = drained(server, limits=limits(max_rounds=2))
    assert outcomes(drain) == {"p": "evicted", "second": "gone", "third": "evicted"}


def test_replacements_of_many_pods_are_one_round():
    server = ApiServer()
    made = iter(range(10))
    server.on_deleted = lambda pod: [
        server.pod(f"again-{number}") for number in [next(made, None)] if number is not None
    ]
    for number in range(10):
        server.pod(f"p{number}")
    drain = drained(server, limits=limits(max_rounds=2))
    assert (left(drain), len(server.evicted)) == ([], 20)


def test_a_pod_that_does_not_go_fails_at_the_deadline():
    server = ApiServer(grace=None)
    server.pod("p", finalizers=["example.com/archive"])
    drain = drained(server, limits=limits(timeout_seconds=0.3))
    assert (outcomes(drain), reason(drain)) == ({"p": "terminating"}, "timeout")


def test_what_went_in_the_last_moment_counts_as_gone():
    """The watch is silent; the list after the deadline tells."""
    server = ApiServer(grace=0.1)
    server.silent = True
    server.pod("p")
    assert outcomes(drained(server, limits=limits(timeout_seconds=0.5))) == {"p": "evicted"}


def test_a_pod_stuck_for_longer_than_the_caller_waits_is_left_behind():
    server = ApiServer()
    server.pod("stuck", deletionTimestamp=PAST, finalizers=["example.com/x"])
    server.pod("p")
    drain = drained(server, policy=Policy(skip_wait_for_delete_seconds=60))
    assert (left(drain), server.names) == ([], ["stuck"])


# --- jobs ---

WAIT = Policy(wait_rules=(WaitRule("wait", ("jobs",)),))


def test_nothing_is_evicted_while_a_job_runs():
    server = ApiServer()
    job = server.pod("train", namespace="jobs")
    server.pod("p")
    evicted_before = []

    def finish():
        evicted_before.extend(server.evicted)
        server.change_pod(job, status={"phase": "Succeeded"})

    server.later(0.3, finish)
    drain = drained(server, policy=WAIT, limits=limits(timeout_seconds=5))
    assert evicted_before == []
    assert outcomes(drain) == {"train": "evicted", "p": "evicted"}


def test_a_job_is_evicted_when_its_time_is_over():
    server = ApiServer()
    server.pod("train", namespace="jobs")
    began = time.monotonic()
    drain = drained(server, policy=WAIT, limits=limits(wait_seconds=0.3))
    assert outcomes(drain) == {"train": "evicted"}
    assert 0.3 <= time.monotonic() - began < 5


def test_a_job_that_is_waited_for_for_ever_outlives_the_deadline():
    server = ApiServer()
    job = server.pod("train", namespace="jobs")
    server.later(0.4, server.remove, "pods", job)
    policy = Policy(wait_rules=(WaitRule("wait_forever"),))
    drain = drained(server, policy=policy, limits=limits(timeout_seconds=0.05, wait_seconds=0.05))
    assert outcomes(drain) == {"train": "gone"}
    assert server.evicted == []


def test_a_job_that_is_never_evicted_fails_the_drain_with_nothing_done():
    server = ApiServer()
    server.pod("train", namespace="jobs")
    server.pod("p")
    policy = Policy(wait_rules=(WaitRule("never", ("jobs",)),))
    drain = drained(server, policy=policy, limits=limits(wait_seconds=0.2))
    assert (drain.error.reason, server.evicted, left(drain)) == ("timeout", [], ["p", "train"])
    assert "jobs/train" in str(drain.error)


# --- rehearsals ---


def test_a_rehearsal_asks_the_server_and_evicts_nothing():
    server = ApiServer()
    server.budget(labels={"app": "web"}, allowed=1)
    for number in range(3):
        server.pod(f"web-{number}", labels={"app": "web"})
    server.pod("free")
    cluster, drain = prepared(server)
    rehearse(cluster, drain.pods.values(), Manner(), 8)
    assert server.evicted == []
    assert all(request[3]["deleteOptions"]["dryRun"] == ["All"] for request in sent(server, "POST"))
    foretold = {each.pod["metadata"]["name"]: each.prediction for each in drain.pods.values()}
    assert foretold == {"web-0": "now", "web-1": "later", "web-2": "later", "free": "now"}


def test_in_a_rehearsal_the_server_knows_better():
    server = ApiServer()
    server.budget(allowed=5)
    server.pod("p")
    cluster, drain = prepared(server)
    server.trouble = lambda request: refused_by_budget() if request[0] == "POST" else None
    rehearse(cluster, drain.pods.values(), Manner(), 8)
    assert [each.prediction for each in drain.pods.values()] == ["later"]


# --- whatever happens, the account is true ---


@pytest.mark.parametrize("seed", range(25))
def test_the_account_is_true_whatever_goes_wrong(seed):
    """Connections break before and after the server has acted, watches end, pods come back, budgets hold some."""
    chance = random.Random(seed)
    server = ApiServer(grace=chance.choice([0, 0.02]))
    pdb = server.budget(labels={"app": "a"}, allowed=2)
    server.on_deleted = lambda pod: server.later(0.01, server.allow, pdb, 2)
    for number in range(20):
        server.pod(f"p{number}", node=f"gpu-{number % 2}", labels=chance.choice([{}, {"app": "a"}]))
    server.pod("bystander", node="gpu-9")
    newcomers = [f"late-{number}" for number in range(3)]
    lock = threading.Lock()
    _cluster, drain = prepared(server, "gpu-0", "gpu-1", limits=limits(timeout_seconds=20))

    def before(request):
        with lock:
            if newcomers and request[0] == "POST" and chance.random() < 0.2:
                victim = server.named("pods", "ns", request[1].split("/")[-2])
                server.pod(newcomers.pop(), node=victim["spec"]["nodeName"] if victim else "gpu-9")
            troubles = [Lost("reset"), NotSent("refused"), Answer(503), Answer(429, text="busy")]
            return chance.choice(troubles) if chance.random() < 0.1 else None

    def after(request, answer):
        with lock:
            return Lost("reset") if chance.random() < 0.1 else answer

    server.trouble, server.mishap = before, after
    server.break_watch = lambda kind, events: chance.random() < 0.1
    drain.run(["gpu-0", "gpu-1"])
    accepted = {uid for uid, each in drain.pods.items() if each.accepted}
    assert drain.error is None
    assert accepted == set(server.evicted)
    assert len(server.evicted) == len(accepted)  # nobody was evicted twice
    assert {pod["spec"]["nodeName"] for pod in server.objects["pods"].values()} == {"gpu-9"}
    assert left(drain) == []
    account = Account(list(drain.pods.values()), [], rehearsed=False, stopped=False, now=0)
    assert (account.changed, state_of(account)) == (True, "drained")
