# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one policy for requests: what is sent again, what is not, how long, and what is said when it is given up."""

from __future__ import annotations

import contextlib
import json

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import (
    FIRST_CONTACT_SECONDS,
    METADATA_LIST,
    PATIENCE_SECONDS,
    Answer,
    Cluster,
    ClusterError,
    Lost,
    NotSent,
    OutcomeUnknown,
    TokenBucket,
    secrets_of,
)

GOOD = Answer(200, {"kind": "Node"})
WHERE = "https://192.0.2.10:6443 (kubeconfig /home/me/config, context lab)"


class FakeTime:
    """A clock that moves only when somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class ScriptedTransport:
    """Gives the scripted answers in turn, the last one for ever."""

    where = WHERE

    def __init__(self, *script):
        self.script = list(script)
        self.sent = []
        self.renewed = 0

    def send(self, method, path, headers, body):
        self.sent.append((method, path, headers, body))
        step = self.script[0] if len(self.script) == 1 else self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    @contextlib.contextmanager
    def stream(self, path, headers, read_seconds):
        self.sent.append(("WATCH", path, headers, read_seconds))
        step = self.script[0] if len(self.script) == 1 else self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        yield step

    def renew(self):
        self.renewed += 1


def cluster_with(*script):
    time = FakeTime()
    transport = ScriptedTransport(*script)
    return Cluster(transport, clock=time.clock, sleep=time.sleep), transport, time


def throttled(retry_after=None):
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Answer(429, headers=headers, text="Too many requests, please try again later.")


# --- what is sent again ---


@pytest.mark.parametrize(
    "trouble", [NotSent("connection refused"), Lost("reset"), Answer(500), Answer(503), throttled(1)]
)
def test_a_read_is_repeated_until_it_is_answered(trouble):
    cluster, transport, _time = cluster_with(trouble, trouble, GOOD)
    assert cluster.get("/x") is GOOD
    assert cluster.http["requests"] == len(transport.sent) == 3
    assert cluster.http["retries"] == 2


@pytest.mark.parametrize("trouble", [NotSent("connection refused"), throttled(1), throttled()])
def test_a_write_that_did_nothing_is_repeated(trouble):
    cluster, transport, _time = cluster_with(trouble, GOOD)
    assert cluster.patch("/x", {}) is GOOD
    assert len(transport.sent) == 2


@pytest.mark.parametrize("trouble", [Lost("reset by peer"), Answer(500, {"message": "webhook timed out"}), Answer(504)])
def test_a_write_of_unknown_outcome_is_not_repeated_blindly(trouble):
    cluster, transport, _time = cluster_with(trouble, GOOD)
    with pytest.raises(OutcomeUnknown) as unknown:
        cluster.patch("/x", {})
    assert unknown.value.answer is (trouble if isinstance(trouble, Answer) else None)
    assert len(transport.sent) == 1


@pytest.mark.parametrize("status", [200, 201, 400, 403, 404, 409, 410, 422])
def test_an_answer_is_an_answer(status):
    cluster, transport, _time = cluster_with(Answer(status))
    assert cluster.get("/x").status == status
    assert len(transport.sent) == 1


def test_a_disruption_budget_is_an_answer_and_no_throttling():
    refusal = Answer(429, {"details": {"causes": [{"reason": "DisruptionBudget"}]}})
    cluster, transport, _time = cluster_with(refusal)
    assert cluster.request("POST", "/eviction", body={}) is refusal
    assert len(transport.sent) == 1


# --- how long ---


def test_the_servers_retry_after_is_kept_and_holds_everybody_up():
    cluster, _transport, time = cluster_with(throttled(7), GOOD, GOOD)
    cluster.get("/x")
    assert 7 <= time.now <= 7 * 1.25
    assert cluster.http["throttled_seconds"] >= 7


def test_a_retry_after_with_a_server_error_is_kept_too():
    cluster, _transport, time = cluster_with(Answer(503, headers={"Retry-After": "5"}), GOOD)
    with pytest.raises(OutcomeUnknown):
        cluster.patch("/x", {})
    cluster.get("/x")
    assert time.now >= 5


def test_a_server_that_never_answers_is_given_up_soon_and_named():
    cluster, _transport, time = cluster_with(NotSent("connection refused"))
    with pytest.raises(ClusterError) as error:
        cluster.get("/x")
    assert error.value.reason == "api_unavailable"
    assert time.now <= FIRST_CONTACT_SECONDS
    for word in (WHERE, "connection refused", "K8S_AUTH_KUBECONFIG"):
        assert word in str(error.value)


def test_a_server_that_has_answered_gets_time_to_restart():
    cluster, _transport, time = cluster_with(GOOD, NotSent("connection refused"))
    cluster.get("/x")
    with pytest.raises(ClusterError):
        cluster.get("/x")
    assert FIRST_CONTACT_SECONDS < time.now <= PATIENCE_SECONDS


def test_endless_throttling_ends():
    cluster, _transport, time = cluster_with(throttled(32))
    with pytest.raises(ClusterError) as error:
        cluster.patch("/x", {})
    assert error.value.reason == "api_unavailable"
    assert time.now <= PATIENCE_SECONDS


# --- credentials ---


def test_expired_credentials_are_fetched_again_once():
    cluster, transport, _time = cluster_with(Answer(401), GOOD)
    assert cluster.get("/x") is GOOD
    assert transport.renewed == 1


def test_credentials_another_thread_has_fetched_are_not_fetched_again():
    cluster, transport, _time = cluster_with(GOOD)

    def expires_while_two_requests_are_out(method, path, headers, body):
        if transport.renewed == 0:
            if path == "/first":
                cluster.get("/second")
            return Answer(401)
        return GOOD

    transport.send = expires_while_two_requests_are_out
    assert cluster.get("/first") is GOOD
    assert transport.renewed == 1


def test_credentials_that_stay_bad_say_where_and_what_to_do():
    cluster, transport, _time = cluster_with(Answer(401, {"message": "Unauthorized"}))
    with pytest.raises(ClusterError) as error:
        cluster.get("/x")
    assert (error.value.reason, transport.renewed, len(transport.sent)) == ("forbidden", 1, 2)
    for word in (WHERE, "expired", "kubeconfig"):
        assert word in str(error.value)


def test_a_missing_right_names_verb_and_place():
    message = (
        'nodes "gpu-1" is forbidden: User "ops" cannot patch resource "nodes" in API group "" at the cluster scope'
    )
    cluster, _transport, _time = cluster_with(GOOD)
    error = cluster.failure(Answer(403, {"message": message}), "patch node gpu-1")
    assert error.reason == "forbidden"
    for word in ("cannot patch", WHERE, "Grant"):
        assert word in str(error)


def test_something_else_that_answers_is_not_taken_for_an_api_server():
    cluster, _transport, _time = cluster_with(Answer(200, text="<html>Welcome to nginx"))
    with pytest.raises(ClusterError, match=r"not an API server.*nginx"):
        list(cluster.list_pages("/api/v1/nodes"))


# --- lists ---


def page(*names, position="", left=0):
    metadata = {"continue": position, **({"remainingItemCount": left} if left else {})}
    return Answer(200, {"metadata": metadata, "items": [{"metadata": {"name": name}} for name in names]})


def test_a_list_is_read_in_pages_of_500():
    cluster, transport, _time = cluster_with(page("a", position="p2"), page("b"))
    pages = list(cluster.list_pages("/api/v1/nodes", {"labelSelector": "x=y"}))
    assert [item["metadata"]["name"] for each in pages for item in each["items"]] == ["a", "b"]
    assert [path for _method, path, _headers, _body in transport.sent] == [
        "/api/v1/nodes?labelSelector=x%3Dy&limit=500",
        "/api/v1/nodes?labelSelector=x%3Dy&limit=500&continue=p2",
    ]


def test_an_expired_continue_token_goes_on_with_the_one_the_server_offers():
    expired = Answer(410, {"metadata": {"continue": "p2b"}})
    cluster, transport, _time = cluster_with(page("a", position="p2"), expired, page("b"))
    assert len(list(cluster.list_pages("/api/v1/nodes"))) == 2
    assert transport.sent[2][1].endswith("continue=p2b")


def test_a_list_of_metadata_is_asked_for_as_such():
    cluster, transport, _time = cluster_with(page("a"))
    list(cluster.list_pages("/apis/apps/v1/daemonsets", accept=METADATA_LIST))
    assert "PartialObjectMetadataList" in transport.sent[0][2]["Accept"]


# --- watches ---


def lines(*events):
    return (200, iter([json.dumps(event).encode() for event in events]))


def test_a_watch_gives_events_until_the_server_ends_it():
    event = {"type": "ADDED", "object": {"metadata": {"name": "a"}}}
    cluster, _transport, _time = cluster_with(lines(event, event))
    assert list(cluster.watch("/api/v1/nodes", {}, 30)) == [event, event]


GONE = (410, iter([b'{"message": "too old resource version"}']))


def test_an_error_event_ends_a_watch():
    event = {"type": "ADDED", "object": {"metadata": {"name": "a"}}}
    expired = {"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}
    cluster, transport, _time = cluster_with(lines(event, expired, event))
    assert list(cluster.watch("/api/v1/pods", {"resourceVersion": "7"}, 30)) == [event]
    assert "resourceVersion=7" in transport.sent[0][1]


@pytest.mark.parametrize(
    "trouble", [Lost("idle"), NotSent("refused"), (500, iter([b"{}"])), (429, iter([b"busy"])), GONE]
)
def test_a_broken_watch_just_ends_after_a_pause(trouble):
    cluster, _transport, time = cluster_with(trouble)
    assert list(cluster.watch("/api/v1/nodes", {}, 30)) == []
    assert time.now >= 1


def test_a_watch_without_the_right_is_an_error():
    cluster, _transport, _time = cluster_with((403, iter([b'{"message": "cannot watch"}'])))
    with pytest.raises(ClusterError, match="cannot watch"):
        list(cluster.watch("/api/v1/nodes", {}, 30))


# --- rate ---


def test_the_rate_limit_lets_a_burst_through_and_then_the_rate():
    time = FakeTime()
    bucket = TokenBucket(rate=50, burst=100, clock=time.clock, sleep=time.sleep)
    for _request in range(100):
        bucket.take()
    assert time.now == 0
    for _request in range(100):
        bucket.take()
    assert time.now == pytest.approx(2.0, abs=0.1)


# --- secrets ---


def test_a_kubeconfig_path_is_no_secret_but_keys_and_tokens_are():
    assert secrets_of({"kubeconfig": "/home/me/.kube/config", "api_key": "t0ken"}) == {"t0ken"}
    kubeconfig = {
        "clusters": [{"name": "kubernetes", "cluster": {"server": "https://192.0.2.10:6443"}}],
        "users": [
            {"name": "me", "user": {"client-certificate-data": "CERT", "client-key-data": "KEY", "token": "TOKEN"}},
            {"name": "sso", "user": {"exec": {"command": "kubelogin", "env": [{"name": "S", "value": "ENV"}]}}},
            {"name": "oidc", "user": {"auth-provider": {"config": {"refresh-token": "REFRESH"}}}},
        ],
    }
    assert secrets_of({"kubeconfig": kubeconfig}) == {"KEY", "TOKEN", "ENV", "REFRESH"}
