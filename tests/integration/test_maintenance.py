# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""maintenance against the real API server; nodes are on paper, and the test is the hosts that reboot."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

import kubernetes
import paper_nodes
import pytest
import run_module
from paper_nodes import Paper, until

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import Cluster, KubernetesTransport
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_claims import Amount, Rules
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_lock import RunLock, Terms
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_run import Claims, Maintenance, Wanted
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_state import Keys, Run

OPERAND = "nvidia.com/gpu.deploy.device-plugin"
KEYS = Keys()
Result = dict[str, t.Any]
# As the module's notes have them.
NODE_RIGHTS = ["get", "list", "watch", "patch"]
LEASE_RIGHTS = ["create", "get", "update"]


@pytest.fixture(scope="module")
def kwok(kubeconfig):
    with paper_nodes.paper(kubeconfig, "maint") as made:
        yield made


class Wire:
    """A connection that runs a hook before each write, and is dead after a number of them."""

    def __init__(self, transport: KubernetesTransport) -> None:
        self.transport = transport
        self.where = transport.where
        self.stream, self.renew = transport.stream, transport.renew
        self.before_write: t.Callable[[str], None] = lambda path: None
        self.after_write: t.Callable[[], None] = lambda: None
        self.left: int | None = None
        self.writes = 0
        self.lock = threading.Lock()

    def send(self, method: str, path: str, headers: t.Any, body: bytes | None) -> t.Any:
        with self.lock:
            if self.left is not None and self.left <= 0:
                raise Killed
            if method == "GET":
                return self.transport.send(method, path, headers, body)
            self.before_write(path)
            answer = self.transport.send(method, path, headers, body)
            self.writes += 1
            self.after_write()
            if self.left is not None:
                self.left -= 1
                if not self.left:
                    raise Killed
            return answer


class Killed(Exception):
    """The process is gone: its last write has arrived, and it does not know."""


class Fleet:
    """Nodes on paper, one pool, and the module at work on them with the options they have in common."""

    def __init__(self, paper: Paper, kubeconfig: t.Any, selector: str) -> None:
        self.paper, self.core, self.selector = paper, paper.core, selector
        self.coordination = kubernetes.client.CoordinationV1Api(paper.client)
        self.pool = f"maint-{secrets.token_hex(4)}"
        self.transport = KubernetesTransport({"kubeconfig": str(kubeconfig)})
        self.common: Result = {
            "kubeconfig": str(kubeconfig),
            "pool": self.pool,
            "lock_namespace": paper.namespace,
        }

    def nodes(self, count: int) -> list[str]:
        """Names of new nodes that are Ready, have an operator's label and a boot id."""
        names = self.paper.nodes(count)
        for name in names:
            self.core.patch_node(name, {"metadata": {"labels": {OPERAND: "true"}}})
            self.reboot(name)
        return names

    def reboot(self, name: str) -> None:
        self.core.patch_node_status(name, {"status": {"nodeInfo": {"bootID": secrets.token_hex(8)}}})

    def __call__(self, action: str, check_mode: bool = False, **options: t.Any) -> Result:
        """The module's result; whatever it says, `changed` must be what happened."""
        before = self.everything()
        result = run_module.run_module("maintenance", {**self.common, "action": action, **options}, check_mode)
        changed = self.everything() != before
        assert changed is (bool(result["changed"]) and not check_mode), result
        return result

    def everything(self) -> tuple[t.Any, ...]:
        """All that maintenance may write."""
        lease = self.lease()
        return (self.looks_of_all(), lease and lease.metadata.resource_version)

    def looks_of_all(self) -> dict[str, Result]:
        nodes = self.core.list_node(label_selector=self.selector).items
        return {node.metadata.name: self.looks(node) for node in nodes}

    def looks(self, node: t.Any) -> Result:
        """What maintenance writes on a node. The control plane's own taints come and go."""
        annotations = node.metadata.annotations or {}
        labels = node.metadata.labels or {}
        return {
            "annotations": {key: value for key, value in annotations.items() if key.startswith("onprem.gpu/")},
            "labels": {key: value for key, value in labels.items() if key == OPERAND or key.startswith("onprem.gpu/")},
            "cordoned": bool(node.spec.unschedulable),
            "taints": [
                taint.key for taint in node.spec.taints or [] if not taint.key.startswith("node.kubernetes.io/")
            ],
        }

    def carried(self, name: str) -> Result:
        return self.looks(self.core.read_node(name))

    def states(self, *names: str) -> list[str]:
        annotations = [self.carried(name)["annotations"] for name in names]
        return [each.get("onprem.gpu/maint-state", "") for each in annotations]

    def lease(self) -> t.Any:
        found = self.coordination.list_namespaced_lease(self.paper.namespace).items
        return next((each for each in found if each.metadata.name == f"onprem-gpu-maint-{self.pool}"), None)

    def controller(self, wire: Wire | None = None, lock_seconds: int = 900) -> Maintenance:
        """What the module works with, in this process: quick, and with a connection that can be disturbed."""
        cluster = Cluster(wire or Wire(self.transport))
        terms = Terms(self.pool, self.paper.namespace, KEYS.prefix, lock_seconds)
        return Maintenance(cluster, RunLock(cluster, terms), KEYS)

    def under_way(self, names: list[str], *states: str, run: str = "first", lock_seconds: int = 900) -> Result:
        """A run that has the lock and these nodes, claimed and then brought into the states."""
        lock = self.controller(lock_seconds=lock_seconds).start(run, "ops, job 4711", self.selector).lock
        me = {"run": run, "token": lock.transitions}
        wanted = {name: Wanted("t1", {}) for name in names}
        rules = Rules(Amount(100, percent=True), Amount(9), allow_not_ready=True)
        claims = Claims(wanted, rules, self.selector, (OPERAND,))
        assert self.controller(lock_seconds=lock_seconds).claim(self.run_of(me), claims).chosen == names
        for state in states:
            self.bring(me, names, state, lock_seconds=lock_seconds)
        return me

    def bring(self, run: Result, names: list[str], state: str, **options: t.Any) -> None:
        maintenance = self.controller(**options)
        maintenance.advance(self.run_of(run), names, state)
        assert not any(written.error for written in maintenance.written.values())

    def run_of(self, run: Result) -> Run:
        return Run(run["run"], run["token"], self.pool)

    def start(self, **options: t.Any) -> Result:
        """Common options of a run that has the lock."""
        result = self("start", label_selector=self.selector, **options)
        assert not result["failed"], result
        return {"run": result["run"], "token": result["token"]}

    def claim(self, run: Result, names: list[str], **options: t.Any) -> Result:
        defaults = {"target": "t1", "max_unavailable": "100%"}
        return self("claim", label_selector=self.selector, names=names, **{**defaults, **run, **options})

    def advance(self, run: Result, names: list[str], *states: str, **options: t.Any) -> Result:
        for state in states:
            result = self("advance", to=state, names=names, **run, **options)
            assert not result["failed"], result
        return result


@pytest.fixture
def fleet(kwok, kubeconfig):
    """A pool of its own; what a test leaves behind is gone for the next one."""
    yield Fleet(kwok, kubeconfig, kwok.selector)
    kwok.clear()


@pytest.fixture(scope="module", autouse=True)
def dead_run(kwok, kubeconfig):
    """A fleet whose run has died, made first so that the lock has expired when the test for it comes last."""
    label = f"{kwok.run}-dead"
    fleet = Fleet(kwok, kubeconfig, f"{paper_nodes.LABEL}={label}")
    names = [f"maint-{label}-{number}" for number in range(2)]
    try:
        for name in names:
            fleet.core.create_node({"metadata": {"name": name, "labels": {paper_nodes.LABEL: label, OPERAND: "true"}}})
        before = fleet.looks_of_all()
        run = fleet.under_way(names, run="dead", lock_seconds=1)
        for state in ("cordoned", "evicting"):
            fleet.bring(run, names[:1], state, lock_seconds=1)
        early = fleet("start", run="heir", label_selector=fleet.selector)
        assert (early["reason"], early["changed"]) == ("lock_held", False)
        yield fleet, names, before, run
    finally:
        fleet.core.delete_collection_node(label_selector=fleet.selector)


# --- a run ---


def test_nodes_go_all_the_way_and_are_what_they_were(fleet):
    names = fleet.nodes(2)
    fleet.core.patch_node(names[1], {"spec": {"unschedulable": True}})
    before = {name: fleet.carried(name) for name in names}
    run = fleet.start(names=names)
    claim = fleet.claim(run, names, nodes=[{"name": names[0], "record": {"driver": "570"}}])
    assert (claim["claimed"], claim["remaining"], claim["limit"]) == (names, [], 2)
    assert claim["unavailable"] == {names[1]: "cordoned"}
    assert claim["msg"] == "2 claimed, 0 waiting, 0 skipped; 1 were unavailable, allowed are 2"

    cordoned = fleet.advance(run, names, "cordoned")
    assert {name: node["state"] for name, node in cordoned["nodes"].items()} == dict.fromkeys(names, "cordoned")
    assert cordoned["nodes"][names[0]]["record"] == {"driver": "570"}
    assert [entry["after"]["unschedulable"] for entry in cordoned["diff"]] == [True, True]
    assert fleet.advance(run, names, "cordoned")["changed"] is False

    fleet.advance(run, names, "evicting", deadline_seconds=600)
    assert 590 <= fleet.advance(run, names, "evicting", deadline_seconds=900)["nodes"][names[0]]["seconds_left"] <= 600
    fleet.advance(run, names, "upgrading")
    assert fleet.carried(names[0])["labels"][OPERAND] == "paused-for-driver-upgrade"
    fleet.advance(run, names, "rebooting")

    early = fleet("advance", to="validating", names=names, **run)
    assert (early["failed"], early["changed"], early["reason"]) == (True, False, "refused")
    assert f"Node {names[0]} has not rebooted" in early["msg"]
    hosts = [threading.Timer(1 + number, fleet.reboot, [name]) for number, name in enumerate(names)]
    for host in hosts:
        host.start()
    back = fleet.advance(run, names, "validating", timeout_seconds=60)
    assert [back["nodes"][name]["state"] for name in names] == ["validating", "validating"]
    # lock, the nodes of the pool, one watch, a look at the lock, and a patch for each node
    assert back["http"]["requests"] - 2 * back.get("conflicts", 0) <= 7

    restored = fleet("restore", names=names, **run)
    assert (restored["failed"], restored["msg"]) == (False, "2 nodes: 2 changed")
    for name in names:
        assert fleet.carried(name) == {**before[name], "annotations": {"onprem.gpu/target": "t1"}}
    assert fleet("restore", names=names, **run)["changed"] is False
    assert fleet.claim(run, names)["skipped"] == dict.fromkeys(names, "target_met")
    assert fleet("release", **run)["changed"] is True
    assert fleet("release", **run)["changed"] is False


def test_check_mode_shows_the_plan_and_writes_nothing(fleet):
    names = fleet.nodes(5)
    chosen = {"label_selector": fleet.selector, "names": names}
    rules = {"target": "t1", "max_unavailable": "40%"}
    foretold = fleet("start", check_mode=True, run="planned", **chosen)
    assert (foretold["changed"], foretold["token"], fleet.lease()) == (True, 0, None)
    run = {"run": "planned", "token": foretold["token"]}
    plan = fleet("claim", check_mode=True, **chosen, **rules, **run)
    assert plan["batches"] == [names[:2], names[2:4], names[4:]]
    assert plan["claimed"] == names[:2]

    fleet.start(run="planned")
    done = fleet("claim", **chosen, **rules, **run)
    timeless = ("claimed", "remaining", "batches", "skipped", "unavailable", "limit", "msg", "changed")
    assert {key: plan[key] for key in timeless} == {key: done[key] for key in timeless}
    foretold = fleet("advance", check_mode=True, to="cordoned", names=names[:2], check_mode_server=False, **run)
    assert (foretold["changed"], foretold["nodes"][names[0]]["state"]) == (True, "cordoned")
    told = fleet("start", check_mode=True, run="another", label_selector=fleet.selector)
    assert told["reason"] == "lock_held"


def test_status_is_a_table_of_where_every_node_stands(fleet):
    names = fleet.nodes(3)
    run = fleet.under_way(names[:2])
    fleet.bring(run, names[:1], "cordoned")
    fleet.controller().fail(fleet.run_of(run), {names[1]: "no SSH"})
    status = fleet("status", label_selector=fleet.selector)
    rows = [line.split()[:2] for line in status["table"]]
    assert rows[0] == ["NODE", "STATE"]
    assert rows[1:4] == [[names[0], "cordoned"], [names[1], "failed"], [names[2], "none"]]
    assert status["table"][2].endswith("claimed: no SSH")
    assert status["table"][4] == "3 nodes: 1 cordoned, 1 failed, 1 not in maintenance"
    assert (status["lock"]["state"], status["lock"]["owner"]) == ("held", "ops, job 4711")
    assert (status["changed"], status["orphaned"], status["http"]["requests"]) == (False, [], 2)
    assert fleet("status", names=[*names[:1], "maint-typo"])["reason"] == "not_found"


def test_a_change_that_does_not_pass_is_rolled_back_once_and_counts_as_a_failure(fleet):
    names = fleet.nodes(2)
    before = fleet.carried(names[1])
    run = fleet.under_way(names[:1], "cordoned", "evicting", "upgrading", "validating")
    assert fleet("roll_back", names=names[:1], error="7 of 8 GPUs", **run)["nodes"][names[0]]["state"] == "upgrading"
    fleet.bring(run, names[:1], "validating")
    assert fleet("roll_back", names=names[:1], error="again", **run)["reason"] == "refused"
    fleet("restore", names=names[:1], **run)
    claim = fleet.claim(run, names, max_failures="1")
    assert (claim["failed"], claim["claimed"], claim["failures"]) == (False, [], names[:1])
    assert "max_failures is 1" in claim["stopped"]
    assert fleet.carried(names[1]) == before


# --- two at once ---


def test_of_two_runs_one_works_and_the_other_is_told_who(fleet):
    fleet.nodes(1)
    options = {**fleet.common, "action": "start", "label_selector": fleet.selector}

    def start(run: str) -> Result:
        return run_module.run_module("maintenance", {**options, "run": run, "owner": f"shell of {run}"})

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(start, ["one", "two"]))
    [winner], [loser] = ([each for each in results if each["failed"] is failed] for failed in (False, True))
    assert (loser["reason"], loser["changed"]) == ("lock_held", False)
    assert f"is held by run {winner['run']} (shell of {winner['run']})" in loser["msg"]
    assert fleet.lease().spec.holder_identity == f"{winner['run']}/shell of {winner['run']}"


def test_claims_at_the_same_time_keep_the_limit(fleet):
    names = fleet.nodes(4)
    run = fleet.under_way([])
    options = {**fleet.common, **run, "action": "claim", "label_selector": fleet.selector, "target": "t1"}

    def claim(name: str) -> Result:
        return run_module.run_module("maintenance", {**options, "names": [name], "max_unavailable": "2"})

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(claim, names))
    assert not any(result["failed"] for result in results), results
    assert sorted(fleet.states(*names)) == ["", "", "claimed", "claimed"]
    assert sum(len(result["claimed"]) for result in results) == 2


def test_going_on_with_a_run_stops_what_is_left_of_its_earlier_process(fleet):
    names = fleet.nodes(1)
    earlier = fleet.under_way(names, run="same")
    later = fleet("start", label_selector=fleet.selector, run="same")
    assert (later["resumed"], later["token"], list(later["nodes"])) == (True, earlier["token"] + 1, names)
    assert later["nodes"][names[0]]["state"] == "claimed"
    stopped = fleet("advance", to="cordoned", names=names, **earlier)
    assert (stopped["failed"], stopped["changed"], stopped["reason"]) == (True, False, "lock_held")
    fleet.advance({"run": "same", "token": later["token"]}, names, "cordoned")


# --- other writers ---


def test_a_write_that_came_in_between_is_kept_and_the_transition_made(fleet):
    names = fleet.nodes(1)
    run = fleet.under_way(names)
    taint = {"key": "example.com/theirs", "effect": "NoSchedule"}
    wire = Wire(fleet.transport)
    strangers = iter([lambda: add_taint(fleet, names[0], taint)])
    wire.before_write = lambda path: next(strangers, lambda: None)() if "/nodes/" in path else None
    maintenance = fleet.controller(wire)
    maintenance.advance(fleet.run_of(run), names, "cordoned")
    written = maintenance.written[names[0]]
    assert (written.changed, written.error, written.conflicts) == (True, None, 1)
    assert {"example.com/theirs", "onprem.gpu/maintenance"} <= set(fleet.carried(names[0])["taints"])


def add_taint(fleet: Fleet, name: str, taint: Result) -> None:
    taints = [each.to_dict() for each in fleet.core.read_node(name).spec.taints or []]
    kept = [{key: value for key, value in each.items() if key != "time_added" and value} for each in taints]
    fleet.core.patch_node(name, {"spec": {"taints": [*kept, taint]}})


def test_an_uncordon_that_came_in_between_fails_the_node_and_says_so(fleet):
    names = fleet.nodes(1)
    run = fleet.under_way(names, "cordoned")
    wire = Wire(fleet.transport)
    strangers = iter([lambda: fleet.core.patch_node(names[0], {"spec": {"unschedulable": False}})])
    wire.before_write = lambda path: next(strangers, lambda: None)() if "/nodes/" in path else None
    maintenance = fleet.controller(wire)
    maintenance.advance(fleet.run_of(run), names, "evicting")
    assert maintenance.written[names[0]].changed is True
    assert "somebody uncordoned it" in str(maintenance.written[names[0]].error)
    assert fleet.states(*names) == ["failed"]
    assert fleet.carried(names[0])["cordoned"] is False


def test_a_node_that_is_replaced_meanwhile_is_told_and_left_alone(fleet):
    names = fleet.nodes(2)
    run = fleet.under_way(names, "cordoned")
    time.sleep(1)  # times of nodes and locks carry whole seconds
    fleet.core.delete_node(names[0])
    labels = {paper_nodes.LABEL: fleet.paper.run}
    fleet.core.create_node({"metadata": {"name": names[0], "labels": labels}})
    before = fleet.carried(names[0])
    result = fleet("advance", to="evicting", names=names, **run)
    assert (result["failed"], result["changed"], result["reason"]) == (True, True, "conflict")
    assert f"Node {names[0]} was replaced" in result["msg"]
    assert (fleet.carried(names[0]), fleet.states(names[1])) == (before, ["evicting"])


# --- bad input ---


def test_a_node_that_does_not_exist_is_told_before_the_lock_is_taken_and_never_made(fleet):
    names = fleet.nodes(1)
    typo = f"{names[0]}-typo"
    result = fleet("start", label_selector=fleet.selector, names=[*names, typo])
    assert (result["failed"], result["reason"], fleet.lease()) == (True, "not_found", None)
    for word in (f"There is no node {typo}", "Nothing was changed"):
        assert word in result["msg"]
    run = fleet.under_way([])
    assert fleet.claim(run, [typo])["reason"] == "not_found"
    assert fleet("fail", names=[typo], error="x", **run)["reason"] == "not_found"
    with pytest.raises(kubernetes.client.ApiException, match="404"):
        fleet.core.read_node(typo)


def test_a_fleet_that_is_not_in_this_cluster_is_told_with_its_address(fleet, kubeconfig):
    result = fleet("start", label_selector="no=such")
    assert (result["failed"], result["reason"], fleet.lease()) == (True, "not_found", None)
    for word in ("'no=such' matches no node", str(kubeconfig), "right cluster"):
        assert word in result["msg"]


def test_a_lock_namespace_that_does_not_exist_is_named(fleet):
    fleet.nodes(1)
    result = fleet("start", label_selector=fleet.selector, lock_namespace="maint-no-such")
    assert (result["failed"], result["reason"]) == (True, "not_found")
    assert 'namespaces "maint-no-such" not found' in result["msg"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"action": "claim", "run": "a", "token": 0, "label_selector": "x", "names": ["n"]}, "target is not set for n"),
        ({"action": "fail", "run": "a", "token": 0, "names": ["n"]}, "error is not set for n"),
        ({"action": "advance", "run": "a", "token": 0, "names": ["A_B"], "to": "cordoned"}, "node name 'A_B'"),
        ({"action": "start", "label_selector": " "}, "every node"),
        ({"action": "start", "label_selector": "x", "run": "two words"}, "run is 'two words'"),
        ({"action": "start", "label_selector": "x", "to": "cordoned"}, "to is only for the action advance"),
        ({"action": "start", "label_selector": "x", "lock_duration_seconds": 0}, "lock_duration_seconds is 0"),
        ({"action": "status", "prefix": "Bad Prefix"}, "Bad Prefix"),
    ],
)
def test_bad_options_are_refused_before_any_request(options, words):
    result = run_module.run_module("maintenance", {"host": "https://127.0.0.1:1", **options})
    assert (result["failed"], result["reason"], result["changed"]) == (True, "refused", False)
    assert words in result["msg"]
    assert "http" not in result


@pytest.mark.parametrize("value", ["0", "0%", "half"])
def test_a_limit_that_is_none_is_refused(value):
    options = {"action": "claim", "run": "a", "token": 0, "label_selector": "x", "names": ["n"], "target": "t"}
    assert "max_unavailable is" in run_module.run_module("maintenance", {**options, "max_unavailable": value})["msg"]


# --- rights ---


@contextlib.contextmanager
def user_who_may(fleet: Fleet, nodes: list[str], leases: list[str]) -> t.Iterator[str]:
    """A user with these rights: on nodes, and on leases in the namespace of the lock."""
    name = f"maint-{secrets.token_hex(4)}"
    rbac = kubernetes.client.RbacAuthorizationV1Api(fleet.paper.client)
    rule = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": leases}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    rbac.create_namespaced_role(fleet.paper.namespace, {"metadata": {"name": name}, "rules": [rule]})
    binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
    rbac.create_namespaced_role_binding(fleet.paper.namespace, binding)
    node_rule = {"apiGroups": [""], "resources": ["nodes"], "verbs": nodes}
    with paper_nodes.user_who_may(fleet.paper.client, name, [node_rule]):
        yield name


def test_the_documented_rights_are_enough(fleet):
    names = fleet.nodes(2)
    with user_who_may(fleet, NODE_RIGHTS, LEASE_RIGHTS) as user:
        fleet.common["impersonate_user"] = user
        run = fleet.start(names=names)
        fleet.claim(run, names)
        fleet.advance(run, names, "cordoned", "evicting", "rebooting")
        for name in names:
            fleet.reboot(name)
        fleet.advance(run, names, "validating", timeout_seconds=5)
        for action, options in (("restore", {"names": names}), ("release", {})):
            assert fleet(action, **options, **run)["failed"] is False
        assert fleet("status", label_selector=fleet.selector)["failed"] is False


@pytest.mark.parametrize(
    ("verb", "resource"), [("list", "nodes"), ("get", "leases"), ("create", "leases"), ("update", "leases")]
)
def test_a_missing_right_is_named_before_anything_is_changed(fleet, verb, resource):
    fleet.nodes(1)
    if verb == "update":
        fleet.controller().release(fleet.run_of(fleet.under_way([])))
    nodes, leases = (
        [each for each in verbs if (each, kind) != (verb, resource)]
        for kind, verbs in (("nodes", NODE_RIGHTS), ("leases", LEASE_RIGHTS))
    )
    with user_who_may(fleet, nodes, leases) as user:
        result = fleet("start", label_selector=fleet.selector, impersonate_user=user)
    assert (result["failed"], result["changed"], result["reason"]) == (True, False, "forbidden")
    for word in (f'User "{user}" cannot {verb} resource "{resource}"', "Grant"):
        assert word in result["msg"]


def test_without_the_right_to_patch_nodes_nothing_is_claimed_and_no_slot_is_lost(fleet):
    names = fleet.nodes(1)
    run = fleet.under_way([])
    with user_who_may(fleet, ["get", "list"], LEASE_RIGHTS) as user:
        result = fleet.claim(run, names, impersonate_user=user)
        foretold = fleet(
            "claim",
            check_mode=True,
            label_selector=fleet.selector,
            names=names,
            target="t",
            **run,
            impersonate_user=user,
        )
    assert (result["failed"], result["reason"], result["claimed"]) == (True, "forbidden", [])
    assert (foretold["failed"], foretold["reason"]) == (True, "forbidden")
    assert "announced" not in str(fleet.lease().metadata.annotations)
    assert fleet.claim(run, names, max_unavailable="1")["claimed"] == names


# --- killed ---


class Playbook:
    """A run on a fleet until it is done, in this process, so that it can be killed at any write."""

    def __init__(self, fleet: Fleet, names: list[str], target: str) -> None:
        self.fleet, self.names, self.target = fleet, names, target

    def carry_on(self, wire: Wire) -> None:
        started = self.fleet.controller(wire).start("killed", "me", self.fleet.selector, self.names)
        self.me = Run("killed", started.lock.transitions, self.fleet.pool)
        while self.go_on(wire) or self.claim(wire):
            pass
        self.fleet.controller(wire).release(self.me)

    def claim(self, wire: Wire) -> bool:
        wanted = {name: Wanted(self.target, {}) for name in self.names}
        rules = Rules(Amount(2), Amount(9))
        claims = Claims(wanted, rules, self.fleet.selector, (OPERAND,))
        return bool(self.fleet.controller(wire).claim(self.me, claims).chosen)

    def go_on(self, wire: Wire) -> bool:
        """The next state of every node that is under way."""
        following = {
            **{"claimed": "cordoned", "cordoned": "evicting", "evicting": "upgrading", "upgrading": "rebooting"},
            "rebooting": "validating",
        }
        nodes = self.fleet.looks_of_all()
        under_way: dict[str, list[str]] = {}
        for name in self.names:
            state = nodes[name]["annotations"].get("onprem.gpu/maint-state")
            if state:
                under_way.setdefault(state, []).append(name)
        for state, names in under_way.items():
            maintenance = self.fleet.controller(wire)
            if state == "validating":
                maintenance.restore(self.me, names)
                continue
            for name in names if state == "rebooting" else ():
                self.fleet.reboot(name)
            maintenance.advance(self.me, names, following[state])
        return bool(under_way)


def test_a_run_that_is_killed_after_any_write_ends_the_same_when_it_is_run_again(fleet):
    names = fleet.nodes(3)
    fleet.core.patch_node(names[2], {"spec": {"unschedulable": True}})
    before = fleet.looks_of_all()

    def no_more_than_two_are_out_and_each_says_why() -> None:
        seen = fleet.looks_of_all()
        out = [name for name, each in seen.items() if each["cordoned"] or "onprem.gpu/maint" in each["labels"]]
        assert len(out) <= 2
        for name, each in seen.items():
            if each["cordoned"] != before[name]["cordoned"]:
                assert "onprem.gpu/maint-state" in each["annotations"]
            if "onprem.gpu/maint-orig" in each["annotations"]:
                original = json.loads(each["annotations"]["onprem.gpu/maint-orig"])
                assert original["unschedulable"] is before[name]["cordoned"]

    def new_wire(left: int | None) -> Wire:
        wire = Wire(fleet.transport)
        wire.left = left
        wire.after_write = no_more_than_two_are_out_and_each_says_why
        return wire

    def run(target: str, kill_after: int | None) -> int:
        playbook = Playbook(fleet, names, target)
        if kill_after is not None:
            with pytest.raises(Killed):
                playbook.carry_on(new_wire(kill_after))
        wire = new_wire(None)
        playbook.carry_on(wire)
        done = {name: {**each, "annotations": {"onprem.gpu/target": target}} for name, each in before.items()}
        assert fleet.looks_of_all() == done
        assert fleet.lease().spec.holder_identity == ""
        return wire.writes

    total = run("whole", None)
    assert total > 25
    for point in range(1, total):
        run(f"killed-after-{point}", point)


def test_a_module_that_is_killed_in_the_middle_of_many_nodes_is_simply_run_again(fleet):
    names = fleet.nodes(12)
    run = fleet.under_way(names)
    arguments = {**fleet.common, **run, "action": "advance", "to": "cordoned", "names": names}
    process = subprocess.Popen(
        [sys.executable, "-c", run_module.PROGRAM],
        stdin=subprocess.PIPE,
        env=paper_nodes.environment(),
        text=True,
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin
    process.stdin.write(json.dumps(["maintenance", arguments]))
    process.stdin.close()
    until(lambda: "cordoned" in fleet.states(*names[:1]))
    process.kill()
    process.wait()
    for each in fleet.looks_of_all().values():
        assert each["cordoned"] is (each["annotations"]["onprem.gpu/maint-state"] == "cordoned")
    fleet.advance(run, names, "cordoned")
    assert set(fleet.states(*names)) == {"cordoned"}
    fleet("abort", **run)
    assert {str(fleet.carried(name)["annotations"]) for name in names} == {"{}"}


# --- dead ---


def test_a_dead_runs_lock_expires_and_its_nodes_are_adopted_and_given_back(dead_run):
    fleet, names, before, dead = dead_run
    heir = fleet("start", run="heir", label_selector=fleet.selector, lock_timeout_seconds=30)
    assert (heir["failed"], heir["orphaned"], heir["token"]) == (False, names, dead["token"] + 1)
    assert heir["taken_from"].startswith("dead/")
    run = {"run": "heir", "token": heir["token"]}
    assert fleet("advance", to="cordoned", names=names[1:], **dead)["reason"] == "lock_held"
    assert fleet("advance", to="cordoned", names=names[1:], **run)["reason"] == "conflict"
    assert fleet.claim(run, names)["claimed"] == []
    adopted = fleet("adopt", **run)
    assert [adopted["nodes"][name]["state"] for name in names] == ["evicting", "claimed"]
    assert fleet("abort", **run)["failed"] is False
    assert fleet.looks_of_all() == before
