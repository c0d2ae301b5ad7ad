# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading nodes with few requests and writing them safely, against a small API server that misbehaves on request."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import threading
from urllib.parse import parse_qs, urlsplit

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import Answer, Cluster, ClusterError, Lost, NotSent
from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import compute, parse_wish, patched
from ansible_collections.onprem.gpu.plugins.module_utils.node_write import (
    ATTEMPTS,
    predicted,
    read_named,
    read_node,
    read_selected,
    wait_until_ready,
    write,
    write_all,
)

TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
FOREIGN = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}
WISH = parse_wish({"labels": {"a": "1"}, "taints": [TAINT]})


def goal(node):
    return compute(node, WISH)


class ApiServer:
    """The part of an API server that these functions use. ``trouble`` is asked before each request is handled."""

    where = "https://192.0.2.10:6443 (kubeconfig test)"

    def __init__(self, *names, page_size=500):
        self.nodes = {}
        self.page_size = page_size
        self.requests = []
        self.trouble = lambda request: None
        self.mutate = lambda node: node
        self.version = 0
        self.lock = threading.Lock()
        for name in names:
            self.add(name)

    def add(self, name, **spec):
        self.version += 1
        metadata = {"name": name, "uid": f"uid-{self.version}", "resourceVersion": str(self.version)}
        self.nodes[name] = {"metadata": metadata, "spec": spec, "status": {"images": ["big"], "conditions": []}}

    def write(self, name, patch):
        """Somebody else's write."""
        self.version += 1
        node = patched(self.nodes[name], patch)
        self.nodes[name] = patched(node, {"metadata": {"resourceVersion": str(self.version)}})

    def send(self, method, path, headers, body):
        url = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        with self.lock:
            request = (method, url.path, query, json.loads(body) if body else None)
            self.requests.append(request)
            answer = self.trouble(request)
            if isinstance(answer, Exception):
                raise answer
            return answer or copy.deepcopy(self.handle(*request))

    def handle(self, method, path, query, body):
        if path == "/api/v1/nodes":
            return self.page(query)
        name = path.rsplit("/", 1)[1]
        if name not in self.nodes:
            return Answer(404, {"message": f'nodes "{name}" not found'})
        if method == "GET":
            return Answer(200, self.nodes[name])
        assert headers_of_our_writes(query), query
        return self.patch(name, query, body)

    def page(self, query):
        names = sorted(self.nodes)[int(query.get("continue", 0)) :]
        items = [self.nodes[name] for name in names[: self.page_size]]
        rest = len(names) - len(items)
        following = {"continue": str(len(self.nodes) - rest), "remainingItemCount": rest} if rest else {}
        return Answer(200, {"metadata": following, "items": items})

    def patch(self, name, query, body):
        node = self.nodes[name]
        if body["metadata"]["resourceVersion"] != node["metadata"]["resourceVersion"]:
            return Answer(409, {"message": "the object has been modified"})
        assert body["metadata"]["uid"] == node["metadata"]["uid"]
        after = self.mutate(patched(node, body))
        if "dryRun" in query:
            return Answer(200, after)
        if after != node:
            self.version += 1
            after = patched(after, {"metadata": {"resourceVersion": str(self.version)}})
            self.nodes[name] = after
        return Answer(200, after)

    @contextlib.contextmanager
    def stream(self, path, headers, read_seconds):
        self.requests.append(("WATCH", urlsplit(path).path, {}, None))
        yield 200, self.events()

    def events(self):
        for node in list(self.nodes.values()):
            yield json.dumps({"type": "ADDED", "object": node}).encode()
        while self.later:
            name, patch = self.later.pop(0)
            self.write(name, patch)
            yield json.dumps({"type": "MODIFIED", "object": self.nodes[name]}).encode()

    later = ()

    def renew(self):
        pass


def headers_of_our_writes(query):
    return query["fieldManager"] == "onprem.gpu" and query["fieldValidation"] == "Strict"


def connected(server):
    return Cluster(server, sleep=lambda seconds: None)


def patches(server):
    return [request for request in server.requests if request[0] == "PATCH"]


def once(answer, on="PATCH"):
    """Trouble for the first request of a kind."""
    waiting = [answer]

    def trouble(request):
        return waiting.pop() if waiting and request[0] == on else None

    return trouble


def written(server, name="gpu-1", compute_=goal, **options):
    cluster = connected(server)
    return write(cluster, read_node(cluster, name), compute_, sleep=lambda seconds: None, **options)


# --- reading ---


@pytest.mark.parametrize(
    ("wanted", "requests"),
    [
        ([], 0),
        (["n-3"], 1),  # one GET, whatever the size of the cluster
        (["n-0", "n-1"], 1),  # both on the first page
        (["n-0", "n-9"], 2),  # the first page, then a GET instead of two more pages
        ([f"n-{number}" for number in range(10)], 3),
        (["n-0", "missing"], 2),  # a page, then a GET that proves it missing
    ],
)
def test_reading_by_name_never_costs_more_than_the_pages(wanted, requests):
    server = ApiServer(*(f"n-{number}" for number in range(10)), page_size=4)
    found = read_named(connected(server), wanted)
    assert sorted(found) == sorted(set(wanted) - {"missing"})
    assert len(server.requests) == requests


def test_reading_leaves_the_image_list_behind():
    server = ApiServer("gpu-1")
    assert "images" not in read_selected(connected(server), "")["gpu-1"]["status"]


# --- the safe write ---


def test_a_write_is_one_patch_with_the_version_it_was_computed_from():
    server = ApiServer("gpu-1")
    result = written(server)
    assert (result.changed, result.error) == (True, None)
    [(_method, path, query, body)] = patches(server)
    assert path == "/api/v1/nodes/gpu-1"
    assert "dryRun" not in query
    assert body == {
        "metadata": {"labels": {"a": "1"}, "resourceVersion": "1", "uid": "uid-1"},
        "spec": {"taints": [TAINT]},
    }


def test_nothing_is_sent_to_a_node_that_is_right():
    server = ApiServer("gpu-1")
    written(server)
    server.requests.clear()
    assert written(server).changed is False
    assert patches(server) == []


def test_a_taint_that_came_in_between_survives():
    server = ApiServer("gpu-1")

    def somebody_is_faster(request):
        if request[0] == "PATCH" and len(patches(server)) == 1:
            server.write("gpu-1", {"spec": {"taints": [FOREIGN]}})

    server.trouble = somebody_is_faster
    result = written(server)
    assert (result.changed, result.conflicts) == (True, 1)
    assert server.nodes["gpu-1"]["spec"]["taints"] == [FOREIGN, TAINT]
    assert len(patches(server)) == 2


def test_when_somebody_else_did_the_same_it_is_not_our_change():
    server = ApiServer("gpu-1")

    def somebody_does_it(request):
        if request[0] == "PATCH":
            server.write("gpu-1", {"metadata": {"labels": {"a": "1"}}, "spec": {"taints": [TAINT]}})

    server.trouble = somebody_does_it
    result = written(server)
    assert (result.changed, result.error, result.conflicts) == (False, None, 1)


def test_endless_conflicts_end_and_name_the_writers():
    server = ApiServer("gpu-1")
    managed = [
        {"manager": "kubelet", "time": "2026-01-01T00:00:00Z"},
        {"manager": "busybody", "time": "2026-01-02T00:00:00Z"},
    ]
    server.nodes["gpu-1"]["metadata"]["managedFields"] = managed

    def storm(request):
        if request[0] == "PATCH":
            server.write("gpu-1", {"metadata": {"labels": {"noise": str(server.version)}}})

    server.trouble = storm
    result = written(server)
    assert (result.changed, result.error.reason) == (False, "conflict")
    assert "Last writers: busybody, kubelet" in str(result.error)
    assert len(patches(server)) == ATTEMPTS


def test_a_replaced_node_is_left_alone():
    server = ApiServer("gpu-1")
    server.trouble = lambda request: server.add("gpu-1") if request[0] == "PATCH" else None
    result = written(server)
    assert (result.changed, result.error.reason) == (False, "conflict")
    assert "replaced" in str(result.error)
    assert len(patches(server)) == 1
    assert "labels" not in server.nodes["gpu-1"]["metadata"]


def test_a_node_that_vanishes_is_not_made():
    server = ApiServer("gpu-1")
    server.trouble = lambda request: server.nodes.clear() if request[0] == "PATCH" else None
    result = written(server)
    assert (result.changed, result.error.reason) == (False, "not_found")
    assert server.nodes == {}


def test_a_lost_answer_to_a_patch_that_arrived_counts_as_changed():
    server = ApiServer("gpu-1")

    def arrives_but_the_answer_is_lost(request):
        if request[0] == "PATCH":
            server.handle(*request)
            return Lost("reset by peer")
        return None

    server.trouble = arrives_but_the_answer_is_lost
    result = written(server)
    assert (result.changed, result.error) == (True, None)
    assert "labels" not in result.before["metadata"]
    assert len(patches(server)) == 1


@pytest.mark.parametrize("trouble", [Lost("reset by peer"), Answer(500, {"message": "webhook timed out"})])
def test_a_patch_that_did_not_arrive_is_sent_again(trouble):
    server = ApiServer("gpu-1")
    server.trouble = once(trouble)
    assert written(server).changed is True
    assert len(patches(server)) == 2


def test_when_the_server_goes_away_with_the_answer_the_doubt_is_told():
    server = ApiServer("gpu-1")
    cluster = connected(server)
    node = read_node(cluster, "gpu-1")
    server.trouble = lambda request: Lost("reset") if request[0] == "PATCH" else Answer(403, {"message": "no"})
    result = write(cluster, node, goal, sleep=lambda seconds: None)
    assert (result.changed, result.error.reason) == (False, "forbidden")
    assert "had arrived is not known" in str(result.error)


def test_a_server_that_fails_each_time_is_reported_with_its_words():
    server = ApiServer("gpu-1")
    server.trouble = lambda request: Answer(500, {"message": "webhook down"}) if request[0] == "PATCH" else None
    result = written(server)
    assert (result.changed, result.error.reason) == (False, "conflict")
    assert "webhook down" in str(result.error)


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "forbidden"), (422, "refused"), (400, "refused"), (404, "not_found")]
)
def test_a_refusal_is_final(status, reason):
    server = ApiServer("gpu-1")
    server.trouble = lambda request: Answer(status, {"message": "no"}) if request[0] == "PATCH" else None
    result = written(server)
    assert (result.changed, result.error.reason) == (False, reason)
    assert len(patches(server)) == 1


def test_a_webhook_that_puts_values_back_is_noticed():
    server = ApiServer("gpu-1")
    server.mutate = lambda node: patched(node, {"spec": {"taints": None}})
    result = written(server)
    assert (result.changed, result.error.reason) == (True, "refused")
    assert "webhook" in str(result.error)


def test_a_foreign_value_is_refused_without_a_request():
    server = ApiServer("gpu-1")
    server.write("gpu-1", {"metadata": {"labels": {"a": "theirs"}}})
    result = written(server, compute_=lambda node: compute(node, WISH, overwrite=False))
    assert (result.changed, result.error.reason) == (False, "refused")
    assert "label a is 'theirs', not '1'" in str(result.error)
    assert patches(server) == []


def test_a_dry_run_changes_nothing_and_tells_what_would():
    server = ApiServer("gpu-1")
    result = written(server, dry_run=True)
    assert (result.changed, result.error) == (True, None)
    assert result.after["spec"]["taints"] == [TAINT]
    assert patches(server)[0][2]["dryRun"] == "All"
    assert server.nodes["gpu-1"]["spec"] == {}


def test_a_dry_run_that_was_lost_changed_nothing():
    server = ApiServer("gpu-1")
    server.trouble = once(Lost("reset"))
    assert written(server, dry_run=True).changed is True
    assert server.nodes["gpu-1"]["spec"] == {}


def test_a_webhook_without_dry_run_says_how_to_go_on():
    server = ApiServer("gpu-1")
    message = "admission webhook x does not support dry run"
    server.trouble = lambda request: Answer(400, {"message": message}) if request[0] == "PATCH" else None
    assert "check_mode_server" in str(written(server, dry_run=True).error)


def test_the_prediction_is_what_the_write_does():
    server = ApiServer("gpu-1")
    cluster = connected(server)
    node = read_node(cluster, "gpu-1")
    foretold = predicted(node, goal)
    after = write(cluster, node, goal).after
    assert foretold.changed is True
    assert foretold.after["metadata"]["labels"] == after["metadata"]["labels"]
    assert foretold.after["spec"] == after["spec"]


def test_one_bad_node_does_not_stop_the_others():
    names = [f"gpu-{number}" for number in range(20)]
    server = ApiServer(*names)
    bad = re.compile("/gpu-7$")
    server.trouble = lambda request: (
        Answer(403, {"message": "no"}) if request[0] == "PATCH" and bad.search(request[1]) else None
    )
    cluster = connected(server)
    results = write_all(cluster, read_named(cluster, names), lambda name: goal)
    assert [name for name, result in results.items() if result.error] == ["gpu-7"]
    assert sum(result.changed for result in results.values()) == 19
    assert cluster.http["requests"] == 21


def test_many_writers_of_the_same_node_lose_nothing():
    """Eight threads put a taint each on one node, through the same server that refuses stale versions."""
    server = ApiServer("gpu-1")
    cluster = connected(server)
    stale = read_node(cluster, "gpu-1")
    errors = []

    def add(number):
        wish = parse_wish({"taints": [{"key": f"t-{number}", "effect": "NoSchedule"}]})
        result = write(cluster, stale, lambda node: compute(node, wish))
        while result.error and result.error.reason == "conflict":
            result = write(cluster, stale, lambda node: compute(node, wish))
        if result.error:
            errors.append(result.error)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(taint["key"] for taint in server.nodes["gpu-1"]["spec"]["taints"]) == [f"t-{n}" for n in range(8)]


# --- waiting ---

READY = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
NOT_READY = {"status": {"conditions": [{"type": "Ready", "status": "False", "message": "cni plugin not initialized"}]}}


def test_waiting_for_ready_nodes_costs_nothing():
    server = ApiServer("gpu-1")
    server.write("gpu-1", READY)
    cluster = connected(server)
    nodes = read_named(cluster, ["gpu-1"])
    server.requests.clear()
    wait_until_ready(cluster, nodes, 60)
    assert server.requests == []


def test_waiting_ends_when_the_last_node_is_ready():
    server = ApiServer("gpu-1", "gpu-2", "other")
    nodes = read_named(connected(server), ["gpu-1", "gpu-2"])
    server.later = [("gpu-2", READY), ("gpu-1", NOT_READY), ("gpu-1", READY)]
    server.requests.clear()
    after = wait_until_ready(connected(server), nodes, 60)
    assert sorted(after) == ["gpu-1", "gpu-2"]
    assert [request[0] for request in server.requests] == ["WATCH"]
    assert after["gpu-1"]["status"]["conditions"][0]["status"] == "True"


def test_waiting_ends_with_the_time_and_the_last_state():
    server = ApiServer("gpu-1")
    nodes = read_named(connected(server), ["gpu-1"])
    server.write("gpu-1", NOT_READY)
    ticks = iter(range(0, 1000, 5))
    after = wait_until_ready(connected(server), nodes, 20, clock=lambda: next(ticks))
    assert after["gpu-1"]["status"]["conditions"][0]["message"] == "cni plugin not initialized"


def test_an_unreachable_server_is_one_error_for_the_list():
    server = ApiServer()
    server.trouble = lambda request: NotSent("connection refused")
    ticks = iter(range(1000))
    cluster = Cluster(server, clock=lambda: next(ticks), sleep=lambda seconds: None)
    with pytest.raises(ClusterError) as error:
        read_named(cluster, ["a", "b"])
    assert error.value.reason == "api_unavailable"
