# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Maintenance runs against a small API server, killed at any write, disturbed between any two requests."""

from __future__ import annotations

import contextlib
import copy
import email.utils
import json
import random
import re
import threading
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import Answer, Cluster, ClusterError, Lost
from ansible_collections.onprem.gpu.plugins.module_utils.label_selectors import matches, parse_selector
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_claims import Amount, Rules
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_lock import RunLock, Terms
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_run import (
    ASK_SERVER,
    COMPUTE,
    Claims,
    Maintenance,
    Wanted,
)
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_state import Keys, Run, standing_of
from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import patched

KEYS = Keys()
FLEET = "gpu=true"
POOL = "gpu"
OPERAND = "nvidia.com/gpu.deploy.device-plugin"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/onprem-gpu-maint-{POOL}"
MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
START = 1_800_000_000.0
LOCK_SECONDS = 300


@pytest.fixture(scope="module", autouse=True)
def no_pauses():
    """Conflicts are answered at once; all other waiting goes by the server's clock."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "uniform", lambda low, high: 0.0)
        yield


class Killed(Exception):
    """The process is gone; none of its requests reaches the server any more."""


class ApiServer:
    """Nodes and Leases with versions, a clock, and hooks.

    ``on_request`` runs before each request and may answer in the server's place; ``on_write`` runs after each change.
    """

    def __init__(self):
        self.nodes, self.leases = {}, {}
        self.version, self.time = 0, START
        self.requests = []
        self.on_request = lambda request: None
        self.on_write = lambda: None
        self.events = lambda: iter(())
        self.lock = threading.RLock()

    # what happens in the cluster

    def add(self, name, *, cordoned=False, ready=True, labels=None, **metadata):
        self.version += 1
        born = "2026-01-01T00:00:00Z"
        self.nodes[name] = {
            "metadata": {
                "name": name,
                "uid": f"uid-{self.version}",
                "resourceVersion": str(self.version),
                "creationTimestamp": born,
                "labels": {"gpu": "true", OPERAND: "true", **(labels or {})},
                **metadata,
            },
            "spec": {"unschedulable": True} if cordoned else {},
            "status": {
                "nodeInfo": {"bootID": f"boot-{self.version}"},
                "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
                "allocatable": {"nvidia.com/gpu": "8", "cpu": "64"},
            },
        }

    def write(self, name, patch):
        with self.lock:
            self.version += 1
            version = {"metadata": {"resourceVersion": str(self.version)}}
            self.nodes[name] = patched(patched(self.nodes[name], patch), version)
            self.on_write()

    def reboot(self, name):
        self.write(name, {"status": {"nodeInfo": {"bootID": f"boot-{self.version + 1}"}}})

    def annotations(self, name):
        return self.nodes[name]["metadata"].get("annotations") or {}

    def standing(self, name):
        return standing_of(self.nodes[name], KEYS)

    def states(self):
        return {name: self.standing(name).state for name in sorted(self.nodes)}

    @property
    def lease(self):
        return self.leases[LEASE]["spec"]

    # requests

    def answer(self, method, path, body):
        url = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        request = (method, url.path, query, json.loads(body) if body else None)
        self.requests.append(request)
        answer = self.on_request(request)
        if isinstance(answer, Exception):
            raise answer
        with self.lock:
            answer = answer or copy.deepcopy(self.handle(*request))
            date = email.utils.formatdate(self.time, usegmt=True)
            return Answer(answer.status, answer.data, {"Date": date, **answer.headers})

    def handle(self, method, path, query, body):
        if "/leases" in path:
            return self.handle_lease(method, path, body)
        if path == "/api/v1/nodes":
            selector = parse_selector(query["labelSelector"]) if query.get("labelSelector") else ()
            items = [node for node in self.nodes.values() if matches(selector, node["metadata"]["labels"])]
            return Answer(200, {"metadata": {}, "items": items})
        name = path.rsplit("/", 1)[1]
        if name not in self.nodes:
            return Answer(404, {"message": f'nodes "{name}" not found'})
        return Answer(200, self.nodes[name]) if method == "GET" else self.patch(name, query, body)

    def patch(self, name, query, body):
        node = self.nodes[name]
        if body["metadata"]["resourceVersion"] != node["metadata"]["resourceVersion"]:
            return Answer(409, {"message": "the object has been modified"})
        assert body["metadata"]["uid"] == node["metadata"]["uid"]
        after = patched(node, body)
        if "dryRun" not in query and after != node:
            self.version += 1
            after = patched(after, {"metadata": {"resourceVersion": str(self.version)}})
            self.nodes[name] = after
            self.on_write()
        return Answer(200, after)

    def handle_lease(self, method, path, body):
        if method == "GET" and path.endswith("/leases"):
            found = [lease for where, lease in self.leases.items() if where.startswith(f"{path}/")]
            return Answer(200, {"metadata": {}, "items": found})
        if method == "GET":
            return Answer(200, self.leases[path]) if path in self.leases else Answer(404, {"message": "not found"})
        for moment in ("renewTime", "acquireTime"):
            assert MICRO_TIME.fullmatch(body["spec"][moment])
        assert body["spec"]["leaseDurationSeconds"] > 0
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.leases:
                return Answer(409, {"message": "already exists"})
        elif body["metadata"]["resourceVersion"] != self.leases[path]["metadata"]["resourceVersion"]:
            return Answer(409, {"message": "the object has been modified"})
        self.version += 1
        self.leases[path] = patched(body, {"metadata": {"resourceVersion": str(self.version)}})
        self.on_write()
        return Answer(200, self.leases[path])


class Wire:
    """The connection of one process. After ``lifetime`` writes it is dead; the last one arrives if ``last_arrives``."""

    where = "https://192.0.2.10:6443 (kubeconfig test)"

    def __init__(self, server, lifetime=None, last_arrives=True):
        self.server, self.left, self.last_arrives = server, lifetime, last_arrives
        self.lock = threading.Lock()

    def send(self, method, path, headers, body):
        with self.lock:
            if self.left is not None and self.left <= 0:
                raise Killed
            if method == "GET" or self.left is None:
                return self.server.answer(method, path, body)
            self.left -= 1
            if self.left or self.last_arrives:
                answer = self.server.answer(method, path, body)
            if not self.left:
                raise Killed
            return answer

    @contextlib.contextmanager
    def stream(self, path, headers, read_seconds):
        url = urlsplit(path)
        self.server.requests.append(("WATCH", url.path, parse_qs(url.query), None))
        yield 200, (json.dumps(event).encode() for event in self.server.events())

    def renew(self):
        pass


def process(server, wire=None, rehearsal="", seconds=LOCK_SECONDS):
    """A controller: its own connection, the server's clock."""

    def clock():
        return server.time

    def sleep(duration):
        server.time += duration

    cluster = Cluster(wire or Wire(server), clock=clock, sleep=sleep)
    lock = RunLock(cluster, Terms(POOL, "kube-system", KEYS.prefix, seconds), clock=clock, sleep=sleep)
    return Maintenance(cluster, lock, KEYS, rehearsal, clock=clock, sleep=sleep)


def started(server, run="run-a", maintenance=None, **options):
    """The run after taking the lock."""
    maintenance = maintenance or process(server)
    return Run(run, maintenance.start(run, "ops@here", FLEET, **options).lock.transitions, POOL)


def claims(names, limit=1, target="t1", **rules):
    wanted = {name: Wanted(target, {"driver": "570"}) for name in names}
    return Claims(wanted, Rules(Amount(limit), Amount(9), **rules), FLEET, (OPERAND,))


def claimed(server, run, names, limit=9, **rules):
    maintenance = process(server)
    maintenance.claim(run, claims(names, limit, **rules))
    return sorted(name for name, written in maintenance.written.items() if written.changed)


def advanced(server, run, names, *states, **options):
    for state in states:
        maintenance = process(server)
        maintenance.advance(run, names, state, **options)
        assert {name: written.error for name, written in maintenance.written.items() if written.error} == {}


def fleet(*names, **options):
    server = ApiServer()
    for name in names:
        server.add(name, **options)
    return server


def error_of(function, *arguments, **options):
    with pytest.raises(ClusterError) as caught:
        function(*arguments, **options)
    return caught.value


def node_error(server, action, name):
    """The error of one node after an action of a new process."""
    maintenance = process(server)
    action(maintenance)
    return maintenance.written[name].error


WRITES = ("POST", "PUT", "PATCH")


def writes(server):
    return [request for request in server.requests if request[0] in WRITES]


# --- the lock ---


def test_a_run_begins_with_a_look_at_the_fleet_and_one_write():
    server = fleet("gpu-1", "gpu-2")
    run = started(server)
    assert run.token == 0
    assert [request[0] for request in server.requests] == ["GET", "GET", "GET", "POST"]
    assert (server.lease["holderIdentity"], server.lease["leaseTransitions"]) == ("run-a/ops@here", 0)


@pytest.mark.parametrize("options", [{"names": ["gpu-9"]}, {"selector": "no=such"}, {"names": ["cpu-1"]}])
def test_what_is_not_there_is_said_before_the_lock_is_taken(options):
    server = fleet("gpu-1")
    server.add("cpu-1", labels={"gpu": "false"})
    given = {"selector": FLEET, **options}
    error = error_of(process(server).start, "run-a", "me", **given)
    assert error.reason == ("refused" if options.get("names") == ["cpu-1"] else "not_found")
    assert writes(server) == []
    assert "Nothing was changed" in str(error)


def test_a_second_run_is_told_who_holds_the_lock():
    server = fleet("gpu-1")
    started(server)
    server.time += 10
    before = copy.deepcopy(server.leases)
    error = error_of(process(server).start, "run-b", "me", FLEET)
    assert error.reason == "lock_held"
    for word in ("run-a", "ops@here", "10 s ago", "305 s", "run=run-a"):
        assert word in str(error)
    assert server.leases == before


def test_a_run_that_waits_gets_the_lock_when_it_is_released():
    server = fleet("gpu-1")
    run = started(server)

    def release_after_a_while(request):
        if server.time > START + 20:
            server.on_request = lambda request: None
            process(server).release(run)

    server.on_request = release_after_a_while
    assert started(server, "run-b", wait_seconds=60).token == 1


def test_a_lock_expires_by_the_servers_clock_and_a_margin():
    server = fleet("gpu-1")
    run = started(server)
    server.time = START + LOCK_SECONDS + 14
    assert error_of(process(server).start, "run-b", "me", FLEET).reason == "lock_held"
    server.time += 3
    assert started(server, "run-b").token == run.token + 1


def test_who_lost_the_lock_writes_nothing_more():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    server.time += LOCK_SECONDS + 20
    started(server, "run-b")
    server.requests.clear()
    error = error_of(process(server).advance, run, ["gpu-1"], "cordoned")
    assert (error.reason, writes(server)) == ("lock_held", [])
    assert "run-b" in str(error)


def test_an_expired_lock_that_nobody_took_is_still_ours():
    server = fleet("gpu-1")
    run = started(server)
    server.time += 10 * LOCK_SECONDS
    assert claimed(server, run, ["gpu-1"]) == ["gpu-1"]
    assert server.lease["leaseTransitions"] == run.token


def test_going_on_with_a_run_fences_off_its_earlier_process():
    server = fleet("gpu-1")
    earlier = started(server)
    claimed(server, earlier, ["gpu-1"])
    later = started(server)
    assert later.token == earlier.token + 1
    error = error_of(process(server).advance, earlier, ["gpu-1"], "cordoned")
    assert error.reason == "lock_held"
    assert "another process" in str(error)
    advanced(server, later, ["gpu-1"], "cordoned")


def test_a_lock_that_somebody_deleted_does_not_lower_the_token():
    server = fleet("gpu-1")
    for _restart in range(3):
        run = started(server)
    claimed(server, run, ["gpu-1"])
    server.leases.clear()
    again = started(server)
    assert again.token == run.token + 1
    advanced(server, again, ["gpu-1"], "cordoned")


def test_a_broken_lock_is_taken_only_on_demand():
    server = fleet("gpu-1")
    started(server)
    del server.leases[LEASE]["spec"]["renewTime"]
    assert "break_lock" in str(error_of(process(server).start, "run-b", "me", FLEET))
    assert started(server, "run-b", break_lock=True).token == 1


def test_a_renew_time_in_the_future_does_not_lose_the_lock():
    server = fleet("gpu-1")
    started(server)
    server.time -= 3600
    assert error_of(process(server).start, "run-b", "me", FLEET).reason == "lock_held"


def test_a_released_lock_is_free_at_once_and_keeps_its_count():
    server = fleet("gpu-1")
    run = started(server)
    assert process(server).release(run) is True
    assert (server.lease["holderIdentity"], server.lease["leaseDurationSeconds"]) == ("", 1)
    assert process(server).release(run) is False
    assert error_of(process(server).renew, run).reason == "lock_held"
    assert started(server, "run-b").token == run.token + 1


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_lost_answer_about_the_lock_is_settled_by_looking(arrives, first):
    server = fleet("gpu-1")
    if not first:
        process(server).release(started(server))
    lost = iter([True])

    def lose_the_answer(request):
        if request[0] in ("POST", "PUT") and next(lost, False):
            if arrives:
                server.handle(*request)
            return Lost("reset by peer")
        return None

    server.on_request = lose_the_answer
    maintenance = process(server)
    run = started(server, "run-b", maintenance)
    assert (run.token, maintenance.lock.written) == (0 if first else 1, True)
    assert server.lease["leaseTransitions"] == run.token


def test_the_lock_is_renewed_only_when_a_third_is_over_or_the_step_cannot_be_undone():
    server = fleet("gpu-1", "gpu-2")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    renewals = []

    def renewed(*states):
        server.requests.clear()
        advanced(server, run, ["gpu-1"], *states)
        renewals.append(sum(request[0] == "PUT" for request in server.requests))

    renewed("cordoned")
    server.time += LOCK_SECONDS / 2
    renewed("evicting")
    renewed("upgrading")
    renewed("rebooting")
    assert renewals == [0, 1, 1, 1]


def test_an_answer_without_a_date_decides_nothing():
    server = fleet("gpu-1")
    started(server)
    server.on_request = lambda request: (
        Answer(200, server.leases[LEASE], {"Date": "soon"}) if "leases" in request[1] else None
    )
    assert "no Date" in str(error_of(process(server).start, "run-b", "me", FLEET))


# --- claims ---


def test_no_more_nodes_are_claimed_than_may_be_unavailable():
    server = fleet("gpu-1", "gpu-2", "gpu-3", "gpu-4")
    server.write("gpu-4", {"spec": {"unschedulable": True}})
    run = started(server)
    assert claimed(server, run, ["gpu-1", "gpu-2", "gpu-3"], limit=3) == ["gpu-1", "gpu-2"]
    assert claimed(server, run, ["gpu-3"], limit=3) == []
    assert server.states() == {"gpu-1": "claimed", "gpu-2": "claimed", "gpu-3": "", "gpu-4": ""}


def test_a_node_counts_though_the_fleets_label_is_gone_while_it_is_worked_on():
    server = fleet("gpu-1", "gpu-2")
    run = started(server)
    claimed(server, run, ["gpu-1"], limit=1)
    server.write("gpu-1", {"metadata": {"labels": {"gpu": None}}})
    assert claimed(server, run, ["gpu-2"], limit=1) == []


def test_a_claim_keeps_what_the_node_was_like():
    server = ApiServer()
    server.add("gpu-1", cordoned=True)
    claimed(server, started(server), ["gpu-1"])
    assert json.loads(server.annotations("gpu-1")["onprem.gpu/maint-orig"]) == {
        "unschedulable": True,
        "labels": {OPERAND: "true"},
        "allocatable": {"nvidia.com/gpu": "8"},
        "record": {"driver": "570"},
    }
    size = sum(len(key) + len(value) for key, value in server.annotations("gpu-1").items())
    assert size < 2048


def test_a_claim_that_was_announced_and_not_made_uses_its_slot_until_it_can_no_longer_arrive():
    server = fleet("gpu-1", "gpu-2")
    run = started(server)
    doomed = process(server, Wire(server, lifetime=1))
    with pytest.raises(Killed):
        doomed.claim(run, claims(["gpu-1"]))
    assert set(server.states().values()) == {""}
    run = started(server)
    assert claimed(server, run, ["gpu-2"], limit=1) == []
    server.time += 121
    assert claimed(server, run, ["gpu-2"], limit=1) == ["gpu-2"]


def test_a_claim_that_was_announced_is_made_first_after_a_crash_and_counted_once():
    server = fleet("gpu-1", "gpu-2")
    run = started(server)
    with pytest.raises(Killed):
        process(server, Wire(server, lifetime=1)).claim(run, claims(["gpu-2"]))
    run = started(server)
    assert claimed(server, run, ["gpu-1", "gpu-2"], limit=1) == ["gpu-2"]
    notes = server.leases[LEASE]["metadata"]["annotations"]
    assert notes == {"onprem.gpu/maint-started": "1"}


def test_a_claim_that_was_made_and_not_ticked_off_uses_no_slot_after_a_crash():
    server = fleet("gpu-1", "gpu-2")
    run = started(server)
    with pytest.raises(Killed):
        process(server, Wire(server, lifetime=2)).claim(run, claims(["gpu-1"]))
    assert server.states() == {"gpu-1": "claimed", "gpu-2": ""}
    run = started(server)
    process(server).abort(run, None, to_service=False)
    assert claimed(server, run, ["gpu-2"], limit=1) == ["gpu-2"]


def test_a_slow_claim_gives_up_before_its_announcement_is_forgotten():
    server = fleet("gpu-1")
    run = started(server)

    def stall(request):
        if request[0] == "PATCH":
            server.time += 61
            server.write("gpu-1", {"metadata": {"labels": {"noise": str(server.version)}}})

    server.on_request = stall
    maintenance = process(server)
    maintenance.claim(run, claims(["gpu-1"]))
    assert maintenance.written["gpu-1"].error.reason == "timeout"
    assert server.states() == {"gpu-1": ""}


def test_a_node_that_somebody_else_took_in_between_is_left_to_them():
    server = fleet("gpu-1")
    run = started(server)

    def kured(request):
        if request[0] == "PATCH":
            server.write("gpu-1", {"metadata": {"annotations": {"weave.works/kured-reboot-in-progress": "x"}}})

    server.on_request = kured
    error = node_error(server, lambda maintenance: maintenance.claim(run, claims(["gpu-1"])), "gpu-1")
    assert error.reason == "conflict"
    assert "kured" in str(error)
    assert server.states() == {"gpu-1": ""}


def test_medik8s_leases_keep_nodes_back():
    server = fleet("gpu-1", "gpu-2")
    run = started(server)
    folder = "/apis/coordination.k8s.io/v1/namespaces/medik8s/leases"
    spec = {"holderIdentity": "nmo", "leaseDurationSeconds": 3600, "renewTime": "2027-01-15T08:00:00.000000Z"}
    for name in ("node-gpu-1", "node-gpu-9"):
        server.leases[f"{folder}/{name}"] = {"metadata": {"name": name}, "spec": spec}
    maintenance = process(server)
    wish = claims(["gpu-1", "gpu-2"], 9)
    plan = maintenance.claim(run, Claims(wish.wanted, wish.rules, FLEET, (), "medik8s"))
    assert (plan.chosen, plan.skipped) == (["gpu-2"], {"gpu-1": "held: medik8s holds it (nmo)"})


def test_two_claims_at_once_never_use_the_same_slot():
    """Another claim of the same run comes in before every single request of the first."""
    for position in range(12):
        server = fleet("gpu-1", "gpu-2")
        run = started(server)
        count = iter(range(100))

        def disturb(request, server=server, run=run, count=count, position=position):
            if next(count) == position:
                server.on_request = lambda request: None
                process(server).claim(run, claims(["gpu-2"]))

        server.on_request = disturb
        process(server).claim(run, claims(["gpu-1"]))
        assert sorted(server.states().values()) == ["", "claimed"], position


# --- transitions ---

WAY = ("cordoned", "waiting-jobs", "evicting", "upgrading", "rebooting")


def through(server, run, names):
    """From claimed to restored."""
    advanced(server, run, names, *WAY)
    for name in names:
        server.reboot(name)
    advanced(server, run, names, "validating")
    maintenance = process(server)
    maintenance.restore(run, names)
    assert not any(written.error for written in maintenance.written.values())


def carried(server, name):
    """What maintenance may touch of a node."""
    node = server.nodes[name]
    return {
        "unschedulable": bool(node["spec"].get("unschedulable")),
        "taints": node["spec"].get("taints") or [],
        "labels": node["metadata"]["labels"],
    }


@pytest.mark.parametrize("cordoned", [False, True])
def test_a_node_goes_all_the_way_and_is_what_it_was(cordoned):
    server = ApiServer()
    taint = {"key": "a", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}
    server.add("gpu-1", cordoned=cordoned)
    server.write("gpu-1", {"spec": {"taints": [taint]}})
    before = carried(server, "gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    through(server, run, ["gpu-1"])
    assert carried(server, "gpu-1") == before
    assert server.annotations("gpu-1") == {"onprem.gpu/target": "t1"}
    assert claimed(server, run, ["gpu-1"]) == []
    assert claimed(server, run, ["gpu-1"], force=True) == ["gpu-1"]


def test_every_transition_is_one_patch():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    through(server, run, ["gpu-1"])
    assert sum(request[0] == "PATCH" for request in server.requests) == 8


def test_out_of_service_is_cordon_taint_and_state_in_one():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    assert carried(server, "gpu-1")["unschedulable"] is False
    server.requests.clear()
    advanced(server, run, ["gpu-1"], "cordoned")
    [patch] = [request[3] for request in server.requests if request[0] == "PATCH"]
    assert patch["spec"] == {
        "unschedulable": True,
        "taints": [{"key": "onprem.gpu/maintenance", "effect": "NoSchedule"}],
    }
    assert patch["metadata"]["annotations"]["onprem.gpu/maint-state"] == "cordoned"


def test_the_operators_pods_pause_with_the_upgrade_and_come_back_for_the_validation():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    seen = []
    for state in ("cordoned", "evicting", "upgrading", "validating"):
        advanced(server, run, ["gpu-1"], state)
        seen.append(server.nodes["gpu-1"]["metadata"]["labels"][OPERAND])
    assert seen == ["true", "true", "paused-for-driver-upgrade", "true"]


def test_a_node_never_goes_backward_and_never_jumps():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    error = node_error(server, lambda maintenance: maintenance.advance(run, ["gpu-1"], "upgrading"), "gpu-1")
    assert (error.reason, server.states()["gpu-1"]) == ("refused", "claimed")
    assert "is claimed; from there it goes to cordoned, not to upgrading" in str(error)
    advanced(server, run, ["gpu-1"], "cordoned", "evicting")
    before = len(writes(server))
    advanced(server, run, ["gpu-1"], "cordoned", "waiting-jobs", "evicting")
    assert (server.states()["gpu-1"], len(writes(server))) == ("evicting", before)


def test_a_deadline_is_kept_when_the_state_is_entered_again():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    advanced(server, run, ["gpu-1"], "cordoned")
    advanced(server, run, ["gpu-1"], "waiting-jobs", deadline_seconds=600)
    first = server.standing("gpu-1").deadline
    server.time += 100
    advanced(server, run, ["gpu-1"], "waiting-jobs", deadline_seconds=600)
    assert server.standing("gpu-1").deadline == first
    advanced(server, run, ["gpu-1"], "evicting")
    assert server.standing("gpu-1").deadline == ""


def test_a_reboot_is_proven_by_the_boot_id_and_a_kubelet_that_is_ready():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    advanced(server, run, ["gpu-1"], *WAY)

    def refusal():
        error = node_error(server, lambda maintenance: maintenance.advance(run, ["gpu-1"], "validating"), "gpu-1")
        return str(error)

    assert "has not rebooted" in refusal()
    server.reboot("gpu-1")
    server.write("gpu-1", {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    assert "not reported Ready" in refusal()
    server.write("gpu-1", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    advanced(server, run, ["gpu-1"], "validating")


def test_the_boot_id_of_the_host_counts_when_it_is_given():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    advanced(server, run, ["gpu-1"], "cordoned", "evicting")
    advanced(server, run, ["gpu-1"], "rebooting", boot_ids={"gpu-1": "seen-on-host"})
    assert server.standing("gpu-1").boot_id == "seen-on-host"


def test_a_wait_for_reboots_is_one_watch_and_advances_each_node_as_it_comes_back():
    server = fleet("gpu-1", "gpu-2")
    run = started(server)
    claimed(server, run, ["gpu-1", "gpu-2"])
    advanced(server, run, ["gpu-1", "gpu-2"], *WAY)

    def events():
        for name in ("gpu-2", "gpu-1"):
            yield {"type": "ADDED", "object": server.nodes[name]}
        for name, other in (("gpu-2", "gpu-1"), ("gpu-1", "gpu-2")):
            server.time += 30
            server.reboot(name)
            yield {"type": "MODIFIED", "object": server.nodes[name]}
            assert server.states()[name] == "validating"
            assert server.states()[other] == ("rebooting" if name == "gpu-2" else "validating")

    server.events = events
    server.requests.clear()
    maintenance = process(server)
    maintenance.advance(run, ["gpu-1", "gpu-2"], "validating", wait_seconds=600)
    assert all(written.changed and not written.error for written in maintenance.written.values())
    assert [request[0] for request in server.requests].count("WATCH") == 1


def test_who_does_not_come_back_in_time_stays_and_is_named():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    advanced(server, run, ["gpu-1"], *WAY)

    def silence():
        server.time += 100
        return iter(())

    server.events = silence
    renewed = server.lease["renewTime"]
    error = node_error(
        server, lambda maintenance: maintenance.advance(run, ["gpu-1"], "validating", wait_seconds=400), "gpu-1"
    )
    assert (error.reason, server.states()["gpu-1"]) == ("timeout", "rebooting")
    assert "has not rebooted" in str(error)
    assert server.lease["renewTime"] > renewed


def rebooting_pair():
    """A run with two nodes that reboot; gpu-1 is back when the watch begins."""
    server = fleet("gpu-1", "gpu-2")
    run = started(server)
    claimed(server, run, ["gpu-1", "gpu-2"])
    advanced(server, run, ["gpu-1", "gpu-2"], *WAY)
    return server, run


def test_an_interrupted_wait_tells_what_was_done_and_leaves_the_rest():
    server, run = rebooting_pair()

    def events():
        server.reboot("gpu-1")
        yield {"type": "MODIFIED", "object": server.nodes["gpu-1"]}
        raise KeyboardInterrupt

    server.events = events
    maintenance = process(server)
    maintenance.advance(run, ["gpu-1", "gpu-2"], "validating", wait_seconds=600)
    assert (maintenance.written["gpu-1"].changed, maintenance.written["gpu-1"].error) == (True, None)
    assert maintenance.written["gpu-2"].error.reason == "interrupted"
    assert server.states() == {"gpu-1": "validating", "gpu-2": "rebooting"}


def test_a_wait_ends_when_the_lock_is_lost_and_what_was_done_is_not_forgotten():
    server, run = rebooting_pair()

    def events():
        server.reboot("gpu-1")
        yield {"type": "MODIFIED", "object": server.nodes["gpu-1"]}
        server.time += LOCK_SECONDS + 20
        started(server, "run-b")

    server.events = events
    maintenance = process(server)
    error = error_of(maintenance.advance, run, ["gpu-1", "gpu-2"], "validating", wait_seconds=6000)
    assert (error.reason, maintenance.written["gpu-1"].changed) == ("lock_held", True)
    assert server.states()["gpu-2"] == "rebooting"


@pytest.mark.parametrize("event", ["DELETED", "ADDED"])
def test_a_node_that_is_replaced_while_it_reboots_is_not_waited_for(event):
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    advanced(server, run, ["gpu-1"], *WAY)
    gone = copy.deepcopy(server.nodes["gpu-1"])
    server.add("gpu-1")
    shown = gone if event == "DELETED" else server.nodes["gpu-1"]
    server.events = lambda: iter([{"type": event, "object": shown}])
    before = copy.deepcopy(server.nodes)
    maintenance = process(server)
    waiting = {"gpu-1": gone}
    maintenance.lock.read()
    maintenance._write_once_rebooted(run, waiting, lambda node: None, 60)
    assert maintenance.written["gpu-1"].error.reason == "conflict"
    assert server.nodes == before


def test_a_whole_gang_is_cordoned_before_any_of_it_goes_on():
    server = fleet("gpu-1", "gpu-2", labels={"domain": "a"})
    run = started(server)
    claimed(server, run, ["gpu-1", "gpu-2"], limit=2, batch_label="domain", gang_aware=True)
    advanced(server, run, ["gpu-1"], "cordoned")
    error = node_error(server, lambda maintenance: maintenance.advance(run, ["gpu-1"], "evicting"), "gpu-1")
    assert "gpu-2 is not cordoned yet" in str(error)
    advanced(server, run, ["gpu-2"], "cordoned")
    advanced(server, run, ["gpu-1", "gpu-2"], "evicting")


# --- what goes wrong ---


def test_a_failed_node_stays_cordoned_and_says_why_until_it_is_tried_again():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    advanced(server, run, ["gpu-1"], "cordoned", "evicting")
    process(server).fail(run, {"gpu-1": "a pod does not go"})
    process(server).fail(run, {"gpu-1": "something else"})
    standing = server.standing("gpu-1")
    assert (standing.state, standing.error.state, standing.error.message) == ("failed", "evicting", "a pod does not go")
    assert carried(server, "gpu-1")["unschedulable"] is True
    assert server.nodes["gpu-1"]["metadata"]["labels"]["onprem.gpu/maint"] == "failed"
    error = node_error(server, lambda maintenance: maintenance.advance(run, ["gpu-1"], "upgrading"), "gpu-1")
    assert "a pod does not go" in str(error)
    process(server).retry(run, None)
    standing = server.standing("gpu-1")
    assert (standing.state, standing.attempt, standing.error) == ("evicting", 2, None)


def test_a_node_that_fails_before_it_is_cordoned_serves_on_and_needs_a_new_claim():
    server = fleet("gpu-1")
    before = carried(server, "gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    process(server).fail(run, {"gpu-1": "no SSH"})
    assert carried(server, "gpu-1")["unschedulable"] is False
    process(server).retry(run, ["gpu-1"])
    assert (server.states()["gpu-1"], carried(server, "gpu-1")) == ("", before)


def test_a_long_error_is_cut():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    process(server).fail(run, {"gpu-1": "ö" * 5000})
    assert len(server.standing("gpu-1").error.message.encode()) <= 512


def test_a_person_who_puts_a_node_back_into_service_is_noticed():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    advanced(server, run, ["gpu-1"], "cordoned", "evicting", "upgrading")
    server.write("gpu-1", {"spec": {"unschedulable": False, "taints": None}})
    maintenance = process(server)
    maintenance.advance(run, ["gpu-1"], "validating")
    written = maintenance.written["gpu-1"]
    assert (written.changed, written.error.reason) == (True, "refused")
    assert server.standing("gpu-1").error.reason == "interfered"
    assert carried(server, "gpu-1")["unschedulable"] is False
    assert "uncordoned it" in str(written.error)


def test_a_node_can_be_cordoned_again_on_demand():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    advanced(server, run, ["gpu-1"], "cordoned")
    server.write("gpu-1", {"spec": {"unschedulable": False}})
    advanced(server, run, ["gpu-1"], "evicting", recordon=True)
    assert carried(server, "gpu-1")["unschedulable"] is True


def test_a_failed_node_that_somebody_opened_is_not_taken_out_again_without_a_claim():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    advanced(server, run, ["gpu-1"], "cordoned")
    process(server).fail(run, {"gpu-1": "x"})
    server.write("gpu-1", {"spec": {"unschedulable": False}})
    error = node_error(server, lambda maintenance: maintenance.retry(run, ["gpu-1"]), "gpu-1")
    assert "abort its maintenance" in str(error)
    process(server).abort(run, None, to_service=False)
    assert server.states()["gpu-1"] == ""


def test_a_change_is_rolled_back_once_and_remembered():
    server = fleet("gpu-1")
    before = carried(server, "gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    advanced(server, run, ["gpu-1"], "cordoned", "evicting", "upgrading", "validating")
    process(server).roll_back(run, {"gpu-1": "7 of 8 GPUs"})
    process(server).roll_back(run, {"gpu-1": "7 of 8 GPUs"})
    assert (server.states()["gpu-1"], server.standing("gpu-1").rollback) == ("upgrading", "7 of 8 GPUs")
    advanced(server, run, ["gpu-1"], "validating")
    error = node_error(server, lambda maintenance: maintenance.roll_back(run, {"gpu-1": "again"}), "gpu-1")
    assert "was rolled back before" in str(error)
    process(server).restore(run, ["gpu-1"])
    assert (server.states()["gpu-1"], carried(server, "gpu-1")) == ("rolled-back", before)
    assert "onprem.gpu/target" not in server.annotations("gpu-1")
    maintenance = process(server)
    plan = maintenance.claim(run, claims(["gpu-1"]))
    assert (plan.failures, plan.skipped["gpu-1"].split(":")[0]) == (["gpu-1"], "rolled_back")
    assert claimed(server, run, ["gpu-1"], target="t1", force=True) == ["gpu-1"]


def test_what_is_not_changed_yet_cannot_be_rolled_back():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    error = node_error(server, lambda maintenance: maintenance.roll_back(run, {"gpu-1": "x"}), "gpu-1")
    assert "is claimed" in str(error)


@pytest.mark.parametrize(
    ("states", "to_service", "ends"),
    [
        ((), False, ""),
        (("cordoned",), False, ""),
        (("cordoned", "waiting-jobs"), False, ""),
        (("cordoned", "evicting"), False, ""),
        (("cordoned", "evicting", "upgrading"), True, "upgrading"),
        (("cordoned", "evicting", "rebooting"), True, "rebooting"),
        (("cordoned", "evicting", "upgrading", "validating"), False, "validating"),
        (("cordoned", "evicting", "upgrading", "validating"), True, ""),
        (("cordoned", "evicting", "upgrading", "validating", "restoring"), False, ""),
    ],
)
def test_an_abort_gives_back_what_is_not_changed(states, to_service, ends):
    server = fleet("gpu-1")
    before = carried(server, "gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    advanced(server, run, ["gpu-1"], *states)
    maintenance = process(server)
    maintenance.abort(run, None, to_service)
    assert server.states()["gpu-1"] == ends
    assert (maintenance.written["gpu-1"].error is None) is (ends == "")
    if not ends:
        assert carried(server, "gpu-1") == before


def test_a_node_that_was_replaced_is_told_and_left_alone():
    server = fleet("gpu-1", "gpu-2")
    run = started(server)
    claimed(server, run, ["gpu-1", "gpu-2"])
    server.add("gpu-1", creationTimestamp="2027-01-15T08:00:30Z")
    before = copy.deepcopy(server.nodes["gpu-1"])
    maintenance = process(server)
    maintenance.advance(run, ["gpu-1", "gpu-2"], "cordoned")
    assert maintenance.written["gpu-1"].error.reason == "conflict"
    assert "was replaced" in str(maintenance.written["gpu-1"].error)
    assert server.nodes["gpu-1"] == before
    assert server.states()["gpu-2"] == "cordoned"


def test_a_node_that_is_gone_is_told_and_not_made():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    server.nodes.clear()
    error = node_error(server, lambda maintenance: maintenance.advance(run, ["gpu-1"], "cordoned"), "gpu-1")
    assert error.reason == "not_found"
    assert server.nodes == {}


def test_traces_that_somebody_cut_are_not_taken_for_a_node_without_maintenance():
    """Claiming it would take the cordon of maintenance for that of a person."""
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    advanced(server, run, ["gpu-1"], "cordoned")
    server.write("gpu-1", {"metadata": {"annotations": {"onprem.gpu/maint-state": None}}})
    plan = process(server).claim(run, claims(["gpu-1"]))
    assert plan.skipped["gpu-1"].startswith("unreadable")
    error = node_error(server, lambda maintenance: maintenance.advance(run, ["gpu-1"], "evicting"), "gpu-1")
    assert "by hand" in str(error)


def test_the_nodes_of_a_dead_run_are_adopted_as_they_stand():
    server = fleet("gpu-1", "gpu-2")
    dead = started(server)
    claimed(server, dead, ["gpu-1"])
    advanced(server, dead, ["gpu-1"], "cordoned", "evicting")
    original = server.annotations("gpu-1")["onprem.gpu/maint-orig"]
    assert error_of(process(server).start, "run-b", "me", FLEET).reason == "lock_held"
    server.time += LOCK_SECONDS + 20
    heir = started(server, "run-b")
    plan = process(server).claim(heir, claims(["gpu-1", "gpu-2"], limit=1))
    assert (plan.chosen, plan.skipped["gpu-1"].split(":")[0]) == ([], "orphaned")
    process(server).adopt(heir, None)
    standing = server.standing("gpu-1")
    assert (standing.run, standing.state, standing.token) == ("run-b", "evicting", heir.token)
    assert server.annotations("gpu-1")["onprem.gpu/maint-orig"] == original
    advanced(server, heir, ["gpu-1"], "upgrading")


def test_a_node_of_another_pool_is_not_adopted():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    server.write("gpu-1", {"metadata": {"annotations": {"onprem.gpu/maint-pool": "other"}}})
    process(server).release(run)
    heir = started(server, "run-b")
    assert process(server).orphans("run-b", server.nodes) == {}
    error = node_error(server, lambda maintenance: maintenance.adopt(heir, ["gpu-1"]), "gpu-1")
    assert "pool other" in str(error)


def test_a_lost_answer_to_a_restore_is_a_restore():
    server = fleet("gpu-1")
    run = started(server)
    claimed(server, run, ["gpu-1"])
    advanced(server, run, ["gpu-1"], "cordoned", "evicting", "upgrading", "validating")

    def arrives_but_the_answer_is_lost(request):
        if request[0] == "PATCH":
            server.handle(*request)
            return Lost("reset by peer")
        return None

    server.on_request = arrives_but_the_answer_is_lost
    maintenance = process(server)
    maintenance.restore(run, ["gpu-1"])
    assert (maintenance.written["gpu-1"].changed, maintenance.written["gpu-1"].error) == (True, None)
    assert server.annotations("gpu-1") == {"onprem.gpu/target": "t1"}


# --- check mode ---


@pytest.mark.parametrize("rehearsal", [ASK_SERVER, COMPUTE])
def test_a_rehearsal_plans_what_a_run_does_and_writes_nothing(rehearsal):
    server = fleet("gpu-1", "gpu-2", "gpu-3")
    run = Run("run-a", 0, POOL)
    before = copy.deepcopy((server.nodes, server.leases))
    maintenance = process(server, rehearsal=rehearsal)
    foretold = maintenance.start("run-a", "me", FLEET)
    plan = maintenance.claim(run, claims(["gpu-1", "gpu-2", "gpu-3"], limit=2))
    assert (server.nodes, server.leases) == before
    assert (foretold.lock.transitions, plan.batches) == (0, [["gpu-1", "gpu-2"], ["gpu-3"]])
    predicted = {name: written.after for name, written in maintenance.written.items()}
    assert claimed(server, started(server), ["gpu-1", "gpu-2", "gpu-3"], limit=2) == sorted(predicted)
    for name, node in predicted.items():
        assert standing_of(node, KEYS) == server.standing(name)


def test_a_rehearsal_is_told_who_holds_the_lock():
    server = fleet("gpu-1")
    started(server)
    assert error_of(process(server, rehearsal=COMPUTE).start, "run-b", "me", FLEET).reason == "lock_held"


# --- how many requests ---


def test_a_thousand_nodes_cost_the_pages_of_the_fleet_and_one_write_before_the_first_useful_action():
    server = fleet(*(f"gpu-{number:04}" for number in range(1000)))
    run = started(server)
    claimed(server, run, ["gpu-0000", "gpu-0001"])
    advanced(server, run, ["gpu-0000", "gpu-0001"], "cordoned")
    server.requests.clear()
    maintenance = process(server)
    result = maintenance.start("run-a", "me", FLEET)
    assert [request[0] for request in server.requests].count("PUT") == 1
    lists = [request for request in server.requests if request[1] == "/api/v1/nodes"]
    assert (len(lists), len(server.requests)) == (2, 4)  # this server has one page for all; the other list is short
    assert [name for name, node in result.nodes.items() if standing_of(node, KEYS).in_maintenance] == [
        "gpu-0000",
        "gpu-0001",
    ]


# --- killed anywhere, disturbed anywhere ---


class Playbook:
    """What the playbook does with the module, with decisions drawn from ``chance``."""

    def __init__(self, server, chance, names, limit, *, run="run-a", bad=()):
        self.server, self.chance, self.names, self.limit, self.run = server, chance, names, limit, run
        self.bad = bad  # nodes that do not pass acceptance after the change
        self.me = None

    def begin(self, wire):
        self.wire = wire
        self.me = Run(self.run, self.maintenance().start(self.run, "me", FLEET).lock.transitions, POOL)

    def maintenance(self):
        return process(self.server, self.wire)

    def own(self):
        return [name for name in self.names if self.server.standing(name).run == self.run]

    def step(self):
        """One call of the module and what hosts do with it; False when there is nothing left to do."""
        active = [name for name in self.own() if self.server.standing(name).active]
        if active and self.chance.random() < 0.8:
            self.go_on(self.chance.choice(active))
            return True
        rules = Rules(Amount(self.limit), Amount(99))
        wanted = {name: Wanted("t1", {}) for name in self.names}
        plan = self.maintenance().claim(self.me, Claims(wanted, rules, FLEET, (OPERAND,)))
        return bool(plan.chosen or active)

    def go_on(self, name):
        standing, maintenance = self.server.standing(name), self.maintenance()
        following = {
            "claimed": "cordoned",
            "cordoned": self.chance.choice(["waiting-jobs", "evicting"]),
            "waiting-jobs": "evicting",
            "evicting": self.chance.choice(["upgrading", "rebooting"]),
            "upgrading": self.chance.choice(["rebooting", "validating"]),
            "rebooting": "validating",
        }
        if standing.state == "rebooting":
            self.server.reboot(name)
        if standing.state == "validating" and name in self.bad and not standing.rollback:
            maintenance.roll_back(self.me, {name: "does not pass"})
        elif standing.state in following:
            maintenance.advance(self.me, [name], following[standing.state])
        else:
            maintenance.restore(self.me, [name])


class Watchman:
    """What must hold after every single write."""

    def __init__(self, server, limit):
        self.server, self.limit = server, limit
        self.original = {name: self.looks(name) for name in server.nodes}
        self.out_before = self.out()
        server.on_write = self.look

    def looks(self, name):
        seen = carried(self.server, name)
        return {**seen, "labels": {key: seen["labels"].get(key) for key in ("gpu", OPERAND)}}

    def out(self):
        return {
            name
            for name, node in self.server.nodes.items()
            if node["spec"].get("unschedulable")
            or node["metadata"]["labels"].get("onprem.gpu/maint") == "active"
            or node["status"]["conditions"][0]["status"] != "True"
        }

    def look(self):
        assert len(self.out()) <= max(self.limit, len(self.out_before))
        for name, original in self.original.items():
            standing = self.server.standing(name)
            assert not standing.damage
            if standing.in_maintenance:
                assert standing.orig.unschedulable == original["unschedulable"]
                assert standing.orig.labels == {OPERAND: "true"}
            else:
                assert self.looks(name) == original


def varied_fleet(chance):
    server = ApiServer()
    for number in range(chance.randint(2, 5)):
        server.add(f"gpu-{number}", cordoned=chance.random() < 0.2)
    return server


def finish(playbook):
    """Go on to the end, after what earlier processes had under way has come to nothing."""
    playbook.server.time += 2 * LOCK_SECONDS
    playbook.begin(Wire(playbook.server))
    playbook.maintenance().adopt(playbook.me, None)
    while playbook.step():
        playbook.server.time += 1


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(seed):
    chance = random.Random(seed)
    server = varied_fleet(chance)
    names = sorted(server.nodes)
    bad = [name for name in names if chance.random() < 0.2]
    watchman = Watchman(server, limit=chance.randint(1, 3))
    playbook = Playbook(server, chance, names, watchman.limit, bad=bad)
    for life in range(chance.randint(0, 20)):
        with contextlib.suppress(Killed):
            playbook.begin(Wire(server, chance.randint(1, 12), chance.random() < 0.7))
            playbook.maintenance().adopt(playbook.me, None)
            while playbook.step():
                server.time += 1
        if chance.random() < 0.3:  # the heir has another name, and waits until the lock has expired
            playbook = Playbook(server, chance, names, watchman.limit, run=f"run-{life}", bad=bad)
            server.time += LOCK_SECONDS + 20
    finish(playbook)
    assert {name: watchman.looks(name) for name in names} == watchman.original
    done = names if len(watchman.out_before) < watchman.limit else []
    for name in done:
        assert server.states()[name] == ("rolled-back" if name in bad else "")
        assert server.standing(name).achieved == ("" if name in bad else "t1")


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_two_runs_at_once_never_exceed_the_limit_and_lose_nothing(seed):
    """While one works, the other does a step between any two of its requests; time jumps let locks expire."""
    chance = random.Random(seed)
    server = varied_fleet(chance)
    names = sorted(server.nodes)
    watchman = Watchman(server, limit=chance.randint(1, 3))
    one, other = (Playbook(server, chance, names, watchman.limit, run=run) for run in ("run-a", "run-b"))
    inside = []

    def act(playbook):
        try:
            if playbook.me is None:
                playbook.begin(Wire(server))
                playbook.maintenance().adopt(playbook.me, None)
            else:
                playbook.step()
        except ClusterError as error:
            assert error.reason == "lock_held", error
            playbook.me = None

    def disturb(request):
        if not inside and chance.random() < 0.15:
            inside.append(True)
            if chance.random() < 0.3:
                server.time += LOCK_SECONDS + 20
            act(other)
            inside.clear()

    server.on_request = disturb
    for _step in range(40):
        act(one)
        server.time += 1
    server.on_request = lambda request: None
    finish(Playbook(server, chance, names, watchman.limit, run="run-c"))
    assert {name: watchman.looks(name) for name in names} == watchman.original
    assert set(server.states().values()) == {""}
