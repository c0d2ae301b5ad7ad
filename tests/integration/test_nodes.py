# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nodes, nodes_info and bootstrap_token against a real API server, with Node objects made for each test."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import secrets
import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

import kubernetes
import observe
import pytest
import yaml
from paper_nodes import user_who_may
from run_module import run_module

TEST_LABEL = "onprem-gpu-contract"
FOREIGN_CA = observe.ROOT / "tests/unit/plugins/module_utils/fixtures/kubeadm-1.37-ca.crt"
TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
WISHES: dict[str, t.Any] = {
    "labels": {"node-role.kubernetes.io/gpu": "", "example.com/rack": "r1"},
    "annotations": {"example.com/note": "any text: {}"},
    "taints": [TAINT],
    "unschedulable": True,
}


@pytest.fixture(scope="module")
def client(kubeconfig):
    """The Python client, an independent view on the cluster."""
    return kubernetes.config.new_client_from_config(str(kubeconfig))


@pytest.fixture(scope="module")
def core(client):
    return kubernetes.client.CoreV1Api(client)


@pytest.fixture
def make_nodes(core):
    """make_nodes(count, **spec) gives names of new Node objects, which are gone after the test."""
    run = secrets.token_hex(4)

    def make(count: int, **spec: t.Any) -> list[str]:
        names = [f"contract-{run}-{number:04}" for number in range(count)]

        def create(name: str) -> None:
            metadata = {"name": name, "labels": {TEST_LABEL: run}}
            core.create_node({"metadata": metadata, "spec": spec})

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(create, names))
        return names

    yield make
    core.delete_collection_node(label_selector=f"{TEST_LABEL}={run}")


def our_writes(core, names: list[str]) -> dict[str, list[t.Any]]:
    """What the module wrote to each node, and when; the cluster's own controllers write to new nodes as well."""
    fields = {name: core.read_node(name).metadata.managed_fields or [] for name in names}
    return {name: [entry for entry in entries if entry.manager == "onprem.gpu"] for name, entries in fields.items()}


@pytest.fixture
def nodes(kubeconfig):
    """nodes(**options) runs the module with the lab's kubeconfig."""

    def run(check_mode: bool = False, **options: t.Any) -> dict[str, t.Any]:
        return run_module("nodes", {"kubeconfig": str(kubeconfig), **options}, check_mode)

    return run


def taints_of(node) -> list[tuple[str, str | None, str]]:
    return [(taint.key, taint.value, taint.effect) for taint in node.spec.taints or []]


def carried(node) -> dict[str, t.Any]:
    """What this test wrote, without what the control plane adds (taints of a node without kubelet)."""
    return {
        "labels": {key: node.metadata.labels.get(key) for key in WISHES["labels"]},
        "annotations": {key: (node.metadata.annotations or {}).get(key) for key in WISHES["annotations"]},
        "taints": [taint for taint in taints_of(node) if taint[0] == TAINT["key"]],
        "unschedulable": node.spec.unschedulable,
    }


EVERYTHING = {
    "labels": WISHES["labels"],
    "annotations": WISHES["annotations"],
    "taints": [("nvidia.com/gpu", "present", "NoSchedule")],
    "unschedulable": True,
}


# --- what it does ---


def test_it_sets_all_it_is_asked_for_and_then_nothing(make_nodes, nodes, core):
    names = make_nodes(3)
    first = nodes(names=names, **WISHES)
    assert (first["failed"], first["changed"], first["msg"]) == (False, True, "3 nodes: 3 changed")
    assert [carried(core.read_node(name)) for name in names] == [EVERYTHING] * 3
    before = our_writes(core, names)

    second = nodes(names=names, **WISHES)
    assert (second["failed"], second["changed"], second["diff"]) == (False, False, [])
    assert second["http"] == {"requests": 1, "retries": 0, "throttled_seconds": 0.0}
    assert our_writes(core, names) == before


def test_it_takes_away_what_is_named_and_nothing_else(make_nodes, nodes, core):
    foreign = [
        {"key": "a", "effect": "NoSchedule"},
        {"key": "gone", "value": "x", "effect": "NoExecute"},
        {"key": "b", "value": "y", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
    ]
    [name] = make_nodes(1, taints=foreign)
    nodes(names=[name], labels={"keep": "1", "drop": "1"})
    result = nodes(
        names=[name], labels={"drop": None}, taints=[{"key": "gone", "state": "absent"}], unschedulable=False
    )
    assert result["changed"] is True
    node = core.read_node(name)
    assert node.metadata.labels["keep"] == "1"
    assert "drop" not in node.metadata.labels
    kept = [taint for taint in node.spec.taints if taint.key in ("a", "gone", "b")]
    assert [taint.key for taint in kept] == ["a", "b"]
    assert kept[1].time_added == datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def test_a_node_of_its_own_wishes_gets_those_on_top_of_the_common_ones(make_nodes, nodes, core):
    names = make_nodes(2)
    nodes(
        names=names,
        labels={"rack": "r1", "pool": "a"},
        nodes=[{"name": names[1], "labels": {"rack": "r2", "count": 8}, "unschedulable": True}],
    )
    first, second = (core.read_node(name) for name in names)
    assert (first.metadata.labels["rack"], first.spec.unschedulable) == ("r1", None)
    assert second.metadata.labels["rack"] == "r2"
    assert (second.metadata.labels["pool"], second.metadata.labels["count"]) == ("a", "8")
    assert second.spec.unschedulable is True


def test_a_selector_chooses_the_nodes(make_nodes, nodes, core):
    names = make_nodes(3)
    run = core.read_node(names[0]).metadata.labels[TEST_LABEL]
    result = nodes(label_selector=f"{TEST_LABEL}={run}", labels={"x": "1"})
    assert sorted(result["nodes"]) == names


def test_the_writer_can_be_seen_on_the_node(make_nodes, nodes, core):
    [name] = make_nodes(1)
    nodes(names=[name], **WISHES)
    assert "onprem.gpu" in {entry.manager for entry in core.read_node(name).metadata.managed_fields}


def test_the_diff_shows_each_changed_node_and_only_what_was_asked_about(make_nodes, nodes):
    names = make_nodes(2)
    nodes(names=names[:1], labels={"x": "1"})
    assert nodes(names=names, labels={"x": "1"})["diff"] == [
        {
            "before_header": names[1],
            "after_header": names[1],
            "before": {"labels": {}},
            "after": {"labels": {"x": "1"}},
        }
    ]


# --- check mode ---


@pytest.mark.parametrize("server", [True, False])
def test_check_mode_predicts_the_run_and_writes_nothing(make_nodes, nodes, core, server):
    names = make_nodes(2)
    before = our_writes(core, names)
    foretold = nodes(check_mode=True, names=names, check_mode_server=server, **WISHES)
    assert our_writes(core, names) == before
    assert foretold["http"]["requests"] == (3 if server else 1)
    done = nodes(names=names, **WISHES)
    same = ("changed", "nodes", "diff", "msg")
    assert {key: foretold[key] for key in same} == {key: done[key] for key in same}


def test_check_mode_knows_hosts_that_would_join(nodes):
    options = {
        "nodes": [{"name": "would-join", "labels": {"x": "1"}, "taints": [TAINT]}],
        "joining": [{"name": "would-join", "labels": {}, "taints": [TAINT]}],
    }
    result = nodes(check_mode=True, **options)
    assert result["nodes"]["would-join"]["before"] == {"labels": {}, "taints": ["nvidia.com/gpu=present:NoSchedule"]}
    assert (result["failed"], result["changed"]) == (False, True)
    assert nodes(**options)["reason"] == "not_found"


# --- how many requests ---


def test_a_thousand_nodes_cost_their_pages_and_one_request_for_each_that_differs(make_nodes, nodes, core):
    names = make_nodes(1000)
    total = len(core.list_node(_preload_content=False).json()["items"])
    # the list is left when all names were seen, so strangers' nodes at its end cost nothing
    pages = range(-(-len(names) // 500), -(-total // 500) + 1)
    chosen = names[:100]
    options = {"names": names, "nodes": [{"name": name, "labels": {"x": "1"}} for name in chosen]}
    first = nodes(**options)
    assert first["msg"] == "1000 nodes: 100 changed"
    # the cluster's controllers write to new nodes as well; a patch they forestall is a patch and a read more
    assert first["http"]["requests"] - len(chosen) - 2 * first["conflicts"] in pages
    second = nodes(**options)
    assert second["changed"] is False
    assert second["http"]["requests"] in pages


def test_one_node_is_one_get_whatever_the_size_of_the_cluster(make_nodes, nodes):
    names = make_nodes(3)
    assert nodes(names=names[:1])["http"]["requests"] == 1


# --- other writers ---


def test_concurrent_writers_lose_no_taint(make_nodes, nodes, core):
    """Eight processes put a taint each on one node, while somebody else writes its labels all the time."""
    [name] = make_nodes(1)
    wished = [{"key": f"writer-{number}", "effect": "NoSchedule"} for number in range(8)]

    def add(taint: dict[str, str]) -> None:
        for _try in range(5):
            result = nodes(names=[name], taints=[taint])
            if not result["failed"]:
                return
            assert result["reason"] == "conflict", result["msg"]
        raise AssertionError(f"five calls in a row met five conflicts each: {result['msg']}")

    with busybody(core, name, pause=0.05), ThreadPoolExecutor(8) as pool:
        list(pool.map(add, wished))
    present = {key for key, _value, _effect in taints_of(core.read_node(name))}
    assert {taint["key"] for taint in wished} <= present


def test_under_a_storm_of_conflicts_changed_is_the_truth(make_nodes, nodes, core):
    [name] = make_nodes(1)
    for number in range(3):
        with busybody(core, name, pause=0):
            result = nodes(names=[name], labels={"number": number})
        written = core.read_node(name).metadata.labels.get("number") == str(number)
        assert result["changed"] is written
        if result["failed"]:
            assert result["reason"] == "conflict"
            assert "busybody" in result["msg"]


@contextlib.contextmanager
def busybody(core, name: str, pause: float) -> t.Iterator[None]:
    """Somebody who writes a label of the node again and again."""
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(pause):
            body = {"metadata": {"labels": {"busybody": secrets.token_hex(4)}}}
            core.patch_node(name, body, field_manager="busybody")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_without_overwrite_a_foreign_value_stays(make_nodes, nodes, core):
    names = make_nodes(2)
    nodes(names=names[:1], labels={"rack": "theirs"})
    result = nodes(names=names, labels={"rack": "ours"}, overwrite=False)
    assert (result["failed"], result["changed"], result["reason"]) == (True, True, "refused")
    assert "label rack is 'theirs', not 'ours'" in result["msg"]
    assert [core.read_node(name).metadata.labels["rack"] for name in names] == ["theirs", "ours"]


# --- failures ---


def test_an_unknown_name_is_told_and_never_made(make_nodes, nodes, core):
    [name] = make_nodes(1)
    missing = f"{name}-typo"
    result = nodes(names=[name, missing], labels={"x": "1"})
    assert (result["failed"], result["changed"], result["reason"]) == (True, True, "not_found")
    assert result["missing"] == [missing]
    for word in (f"There is no node {missing}", "never created"):
        assert word in result["msg"]
    assert core.read_node(name).metadata.labels["x"] == "1"
    with pytest.raises(kubernetes.client.ApiException, match="404"):
        core.read_node(missing)


def test_bad_input_is_refused_before_any_request(nodes):
    options = {"host": "https://127.0.0.1:1", "names": ["a"], "labels": {"two words": "x"}, "taints": [{"key": "k"}]}
    result = nodes(**options)
    assert (result["failed"], result["reason"]) == (True, "refused")
    for word in ("'two words'", "taint k has no effect"):
        assert word in result["msg"]
    assert "http" not in result


@pytest.mark.parametrize("selector", ["", " "])
def test_an_empty_selector_does_not_mean_every_node(nodes, selector):
    assert "every node" in nodes(label_selector=selector, unschedulable=True)["msg"]


def test_a_malformed_selector_is_the_servers_to_explain(nodes):
    result = nodes(label_selector="a in (", labels={"x": "1"})
    assert result["reason"] == "refused"
    assert "unable to parse" in result["msg"]


def user_who_may_with_nodes(client, verbs: list[str]) -> contextlib.AbstractContextManager[str]:
    """A user with these rights on nodes and no others."""
    rule = {"apiGroups": [""], "resources": ["nodes"], "verbs": verbs}
    return user_who_may(client, f"contract-{secrets.token_hex(4)}", [rule])


@pytest.mark.parametrize("missing", ["patch", "list"])
def test_a_missing_right_names_user_and_verb(make_nodes, nodes, core, client, missing):
    names = make_nodes(2)
    with user_who_may_with_nodes(client, sorted({"list", "get", "patch"} - {missing})) as user:
        result = nodes(names=names, labels={"x": "1"}, impersonate_user=user)
    assert (result["failed"], result["changed"], result["reason"]) == (True, False, "forbidden")
    for word in (f'User "{user}" cannot {missing} resource "nodes"', "Grant"):
        assert word in result["msg"]
    assert "x" not in core.read_node(names[0]).metadata.labels


def test_check_mode_finds_a_missing_right_too(make_nodes, nodes, client):
    names = make_nodes(1)
    with user_who_may_with_nodes(client, ["list", "get"]) as user:
        result = nodes(check_mode=True, names=names, labels={"x": "1"}, impersonate_user=user)
    assert (result["failed"], result["reason"]) == (True, "forbidden")


def test_the_documented_rights_are_enough(make_nodes, nodes, client):
    names = make_nodes(2)
    with user_who_may_with_nodes(client, ["list", "get", "watch", "patch"]) as user:
        result = nodes(names=names, ready_timeout_seconds=1, impersonate_user=user, **WISHES)
    assert {node["changed"] for node in result["nodes"].values()} == {True}


def test_a_token_that_is_not_accepted_says_where_and_what_to_do(nodes, kubeconfig):
    result = nodes(api_key="not-a-token", names=["a"])
    assert (result["failed"], result["changed"], result["reason"]) == (True, False, "forbidden")
    for word in (server_of(kubeconfig), str(kubeconfig), "expired"):
        assert word in result["msg"]
    assert "not-a-token" not in json.dumps(result)


def test_an_unreachable_server_is_given_up_soon_and_named(nodes, kubeconfig):
    started = time.monotonic()
    result = nodes(host="https://127.0.0.1:1", names=["a"], labels={"x": "1"})
    assert time.monotonic() - started < 20
    assert (result["failed"], result["changed"], result["reason"]) == (True, False, "api_unavailable")
    for word in ("https://127.0.0.1:1", str(kubeconfig), "K8S_AUTH_KUBECONFIG"):
        assert word in result["msg"]


def test_a_server_of_another_ca_is_not_trusted(nodes):
    result = nodes(ca_cert=str(FOREIGN_CA), names=["a"])
    assert (result["failed"], result["reason"]) == (True, "refused")
    assert "cannot be trusted" in result["msg"]


def test_a_kubeconfig_that_is_not_there_is_named(nodes):
    result = nodes(kubeconfig="/nowhere/config", names=["a"])
    assert (result["failed"], result["reason"]) == (True, "refused")
    assert "/nowhere/config" in result["msg"]


def test_an_unknown_context_is_named(nodes):
    result = nodes(context="no-such-context", names=["a"])
    assert (result["failed"], result["reason"]) == (True, "refused")
    assert "no-such-context" in result["msg"]


def test_a_kubeconfig_given_as_data_works_and_stays_secret(nodes, kubeconfig):
    data = yaml.safe_load(kubeconfig.read_text())
    result = nodes(kubeconfig=data, label_selector="no=such", labels={"x": "1"})
    assert (result["failed"], result["nodes"]) == (False, {})
    secret = data["users"][0]["user"]["client-key-data"]
    assert secret not in json.dumps(run_module("nodes", {"kubeconfig": data, "context": secret, "names": ["a"]}))


def test_the_environment_names_the_kubeconfig(kubeconfig):
    result = run_module("nodes_info", {"names": ["a"]}, environment={"K8S_AUTH_KUBECONFIG": str(kubeconfig)})
    assert (result["failed"], result["missing"]) == (False, ["a"])


def server_of(kubeconfig) -> str:
    return yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]


# --- an overloaded server ---


def test_a_server_that_turns_requests_away_is_waited_for(make_nodes, nodes, client, core):
    """Priority and fairness without a seat takes one request at a time and answers 429 to those beside it."""
    names = make_nodes(40)
    flow = kubernetes.client.FlowcontrolApiserverV1Api(client)
    with user_who_may_with_nodes(client, ["list", "get", "patch"]) as user, level_without_seats(flow, user):
        opener = threading.Timer(3, lambda: open_level(flow, user))
        opener.start()
        result = nodes(names=names, labels={"x": "1"}, impersonate_user=user)
        opener.join()
    assert (result["failed"], result["changed"]) == (False, True), result
    assert result["http"]["retries"] >= 1
    assert result["http"]["throttled_seconds"] >= 1


@contextlib.contextmanager
def level_without_seats(flow, user: str) -> t.Iterator[None]:
    limited = {"nominalConcurrencyShares": 0, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}
    limited["borrowingLimitPercent"] = 0
    flow.create_priority_level_configuration(
        {"metadata": {"name": user}, "spec": {"type": "Limited", "limited": limited}}
    )
    rule = {
        "subjects": [{"kind": "User", "user": {"name": user}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": True}],
    }
    flow.create_flow_schema(
        {
            "metadata": {"name": user},
            "spec": {
                "priorityLevelConfiguration": {"name": user},
                "matchingPrecedence": 2,
                "distinguisherMethod": {"type": "ByUser"},
                "rules": [rule],
            },
        }
    )
    time.sleep(2)  # the server takes it up with a delay
    try:
        yield
    finally:
        flow.delete_flow_schema(user)
        flow.delete_priority_level_configuration(user)


def open_level(flow, name: str) -> None:
    flow.patch_priority_level_configuration(name, {"spec": {"limited": {"nominalConcurrencyShares": 10}}})


# --- waiting ---


def set_ready(core, name: str, status: str, message: str = "") -> None:
    condition = {"type": "Ready", "status": status, "reason": "Test", "message": message}
    core.patch_node_status(name, {"status": {"conditions": [condition]}})


def test_it_waits_until_all_nodes_are_ready(make_nodes, nodes, core):
    names = make_nodes(2)
    set_ready(core, names[0], "True")
    kubelet = threading.Timer(2, lambda: set_ready(core, names[1], "True"))
    kubelet.start()
    result = nodes(names=names, ready_timeout_seconds=60)
    kubelet.join()
    assert (result["failed"], result["changed"]) == (False, False)
    assert [result["nodes"][name]["ready"] for name in names] == [True, True]
    assert result["http"]["requests"] == 2  # the list and one watch


def test_nodes_that_stay_unready_fail_with_what_the_kubelet_says(make_nodes, nodes, core):
    names = make_nodes(2)
    set_ready(core, names[0], "True")
    set_ready(core, names[1], "False", "cni plugin not initialized")
    result = nodes(names=names, labels={"x": "1"}, ready_timeout_seconds=3)
    assert (result["failed"], result["changed"], result["reason"]) == (True, True, "timeout")
    for word in (names[1], "3 s", "cni plugin not initialized"):
        assert word in result["msg"]
    assert "reason" not in result["nodes"][names[0]]


# --- nodes_info ---


def test_nodes_info_reports_nodes_and_names_those_that_are_none(make_nodes, kubeconfig, core):
    names = make_nodes(2, unschedulable=True)
    set_ready(core, names[0], "True", "kubelet is posting ready status")
    result = run_module("nodes_info", {"kubeconfig": str(kubeconfig), "names": [*names, "no-such-node"]})
    assert (result["changed"], result["missing"]) == (False, ["no-such-node"])
    node = result["nodes"][names[0]]
    assert (node["ready"], node["unschedulable"], node["machine_id"]) == (True, True, "")
    assert node["uid"] == core.read_node(names[0]).metadata.uid
    assert TEST_LABEL in node["labels"]


# --- bootstrap_token ---


def token_secrets(core) -> set[str]:
    tokens = core.list_namespaced_secret("kube-system", field_selector="type=bootstrap.kubernetes.io/token")
    return {secret.metadata.name for secret in tokens.items}


def test_a_token_lets_hosts_in_until_it_is_removed(core, kubeconfig):
    options = {"kubeconfig": str(kubeconfig)}
    made = run_module("bootstrap_token", {**options, "lifetime_minutes": 5})
    assert (made["failed"], made["changed"]) == (False, True), made
    name = f"bootstrap-token-{made['token_id']}"
    try:
        stored = core.read_namespaced_secret(name, "kube-system").data
        expires = datetime.datetime.fromisoformat(base64.b64decode(stored["expiration"]).decode())
        left = expires - datetime.datetime.now(datetime.UTC)
        assert datetime.timedelta(minutes=4) < left <= datetime.timedelta(minutes=5)
        assert who_am_i(kubeconfig, made["token"]) == {"system:bootstrappers:kubeadm:default-node-token"}
        assert made["api_server_endpoint"] == server_of(kubeconfig).rpartition("//")[2]
    finally:
        gone = run_module("bootstrap_token", {**options, "state": "absent", "token_id": made["token_id"]})
    assert gone["changed"] is True
    assert name not in token_secrets(core)
    assert (
        run_module("bootstrap_token", {**options, "state": "absent", "token_id": made["token_id"]})["changed"] is False
    )


def who_am_i(kubeconfig, token: str) -> set[str]:
    """The bootstrap groups of the user the API server takes a token for."""
    configuration = kubernetes.client.Configuration()
    kubernetes.config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    configuration.cert_file = configuration.key_file = None
    configuration.api_key = {"authorization": f"Bearer {token}"}
    configuration.refresh_api_key_hook = None
    api = kubernetes.client.AuthenticationV1Api(kubernetes.client.ApiClient(configuration))
    groups = api.create_self_subject_review({}).status.user_info.groups
    return {group for group in groups if group.startswith("system:bootstrappers:")}


def test_check_mode_makes_no_token(core, kubeconfig):
    before = token_secrets(core)
    result = run_module("bootstrap_token", {"kubeconfig": str(kubeconfig)}, check_mode=True)
    assert result["changed"] is True
    assert "token" not in result
    assert result["ca_cert_hashes"]
    assert token_secrets(core) == before


def test_without_the_rights_for_a_token_the_verb_is_named(kubeconfig, client):
    with user_who_may_with_nodes(client, ["list"]) as user:
        result = run_module("bootstrap_token", {"kubeconfig": str(kubeconfig), "impersonate_user": user})
    assert (result["failed"], result["reason"]) == (True, "forbidden")
    assert f'User "{user}" cannot get resource "configmaps"' in result["msg"]
