# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gpu_node on lab hosts: bare, left half-way by a killed join, of another cluster, with a name that is taken."""

from __future__ import annotations

import base64
import contextlib
import re
import threading
import typing as t

import kubernetes
import observe
import pytest
import yaml

JOIN = observe.ROOT / "tests" / "integration" / "join.yml"
PREPARE = observe.ROOT / "playbooks" / "prepare.yml"
FOREIGN_CA = observe.ROOT / "tests/unit/plugins/module_utils/fixtures/kubeadm-1.37-ca.crt"
HOST, OTHER = "gpu-a100-1", "gpu-l4-1"
TAINT = ("nvidia.com/gpu", "present", "NoSchedule")
KUBELET_CONF = "/etc/kubernetes/kubelet.conf"
BOOTSTRAP_CONF = "/etc/kubernetes/bootstrap-kubelet.conf"
# What the role reports as changed when it joins a host, and when it only labels.
JOINED = "onprem.gpu.gpu_node : Join the cluster with kubeadm"
LABELLED = "onprem.gpu.gpu_node : Set labels, taints and annotations of the nodes that joined"


@pytest.fixture(scope="module")
def core(kubeconfig):
    return kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(str(kubeconfig)))


@pytest.fixture(scope="module", autouse=True)
def prepared(hosts, core):
    """Hosts with everything but the join; nodes again at the end, for the tests that follow."""
    observe.play(PREPARE, "--limit", f"{HOST},{OTHER}").require_success()
    yield
    join().require_success()


def join(*words: str, limit: str = f"{HOST},{OTHER}") -> observe.Run:
    return observe.play(JOIN, "--limit", limit, *words)


def leave(core, host: str = HOST) -> None:
    """The host as if it had never joined; its preparation stays."""
    observe.on_host(host, "systemctl stop kubelet")
    observe.on_host(host, f"rm -rf {KUBELET_CONF} {BOOTSTRAP_CONF} /etc/kubernetes/pki /var/lib/kubelet/pki")
    delete_node(core, host)


def delete_node(core, name: str) -> None:
    with contextlib.suppress(kubernetes.client.ApiException):
        core.delete_node(name)


def assert_is_a_node(core, host: str = HOST) -> None:
    node = core.read_node(host)
    assert node.status.node_info.machine_id == observe.on_host(host, "cat /etc/machine-id").strip()
    assert "node-role.kubernetes.io/gpu" in node.metadata.labels
    assert TAINT in [(taint.key, taint.value, taint.effect) for taint in node.spec.taints or []]
    assert [each.status for each in node.status.conditions if each.type == "Ready"] == ["True"]
    leftovers = observe.on_host(host, f"ls {BOOTSTRAP_CONF} /run/onprem-gpu-join.yaml 2>/dev/null || true")
    assert leftovers == ""


def changed(run: observe.Run, host: str = HOST) -> list[str]:
    return run.require_success().changed_items().get(host, [])


def tokens(core) -> list[str]:
    secrets = core.list_namespaced_secret("kube-system", field_selector="type=bootstrap.kubernetes.io/token")
    made = [each for each in secrets.items if b"onprem.gpu" in base64.b64decode(each.data.get("description", ""))]
    return [each.metadata.name for each in made]


# --- a bare host ---


def test_a_bare_host_joins_as_predicted_and_then_stays_as_it_is(core):
    leave(core)
    foretold = changed(join("--check", limit=HOST))
    assert foretold == [JOINED, LABELLED]
    assert observe.on_host(HOST, f"ls {KUBELET_CONF} 2>/dev/null || true") == ""

    before = tokens(core)
    run = join("-vvv", limit=HOST)
    assert changed(run) == foretold
    assert_is_a_node(core)
    assert tokens(core) == before
    assert not re.search(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b", run.log.read_text()), "a token is in the log"

    assert changed(join(limit=HOST)) == []


def test_taints_are_on_from_the_first_moment(core):
    """The Node is born with its taint: a pod that tolerates nothing never fits, not even between join and labels."""
    leave(core)
    born = []
    watch = kubernetes.watch.Watch()

    def look() -> None:
        for event in watch.stream(core.list_node, field_selector=f"metadata.name={HOST}", timeout_seconds=120):
            if event["type"] == "ADDED":
                born.append(event["object"].spec.taints or [])
                return

    watching = threading.Thread(target=look)
    watching.start()
    join(limit=HOST).require_success()
    watching.join(timeout=60)
    assert TAINT in [(taint.key, taint.value, taint.effect) for taint in born[0]]


# --- half-way ---


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.7, 1.5])
def test_a_join_that_was_killed_is_finished_by_the_next_run(core, delay):
    leave(core)
    kill = f"while ! pgrep -x kubeadm >/dev/null; do sleep 0.02; done; sleep {delay}; pkill -KILL -x kubeadm || true"
    killer = threading.Thread(target=observe.on_host, args=(HOST, kill))
    killer.start()
    join(limit=HOST)
    killer.join()
    join(limit=HOST).require_success()
    assert_is_a_node(core)
    assert changed(join(limit=HOST)) == []


def test_leftovers_without_an_identity_are_cleared_and_the_host_joins(core):
    leave(core)
    observe.on_host(
        HOST, f"mkdir -p /etc/kubernetes/pki; echo x > /etc/kubernetes/pki/ca.crt; echo '{{}}' > {BOOTSTRAP_CONF}"
    )
    foretold = changed(join("--check", limit=HOST))
    assert changed(join(limit=HOST)) == foretold
    assert JOINED in foretold
    assert_is_a_node(core)


def test_a_deleted_node_comes_back(core):
    join(limit=HOST).require_success()
    delete_node(core, HOST)
    assert JOINED not in changed(join(limit=HOST))
    assert_is_a_node(core)


def test_an_identity_the_cluster_does_not_know_any_more_is_replaced(core):
    """Its certificate is gone, so the kubelet cannot register however often it starts."""
    join(limit=HOST).require_success()
    observe.on_host(HOST, "systemctl stop kubelet; rm -rf /var/lib/kubelet/pki")
    delete_node(core, HOST)
    assert JOINED in changed(join(limit=HOST))
    assert_is_a_node(core)


def test_credentials_a_finished_join_left_are_removed(core):
    join(limit=HOST).require_success()
    observe.on_host(HOST, f"cp {KUBELET_CONF} {BOOTSTRAP_CONF}; touch /run/onprem-gpu-join.yaml")
    join(limit=HOST).require_success()
    assert_is_a_node(core)


# --- refusals ---


def test_a_name_another_machine_has_is_refused_and_the_others_join(core):
    leave(core)
    leave(core, OTHER)
    core.create_node({"metadata": {"name": HOST}})
    stranger = {"nodeInfo": dict.fromkeys(NODE_INFO, "x") | {"machineID": "another-machine"}}
    core.patch_node_status(HOST, {"status": stranger})
    try:
        run = join()
        assert run.exit_code != 0
        [failure] = [each for each in run.failures() if HOST in each]
        for word in (f"{HOST} was not joined", "another-machine", f"kubectl delete node {HOST}", "gpu_node_name"):
            assert word in failure
        assert observe.on_host(HOST, f"ls {KUBELET_CONF} 2>/dev/null || true") == ""
        assert "node-role.kubernetes.io/gpu" not in (core.read_node(HOST).metadata.labels or {})
        assert_is_a_node(core, OTHER)
        assert tokens(core) == []
    finally:
        delete_node(core, HOST)


NODE_INFO = (
    "architecture",
    "bootID",
    "containerRuntimeVersion",
    "kernelVersion",
    "kubeProxyVersion",
    "kubeletVersion",
    "operatingSystem",
    "osImage",
    "systemUUID",
)


def test_a_host_of_another_cluster_is_refused_and_not_touched(core):
    leave(core)
    data = base64.b64encode(FOREIGN_CA.read_bytes()).decode()
    foreign: dict[str, t.Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "x", "cluster": {"server": "https://192.0.2.99:6443", "certificate-authority-data": data}}
        ],
    }
    observe.on_host(HOST, f"mkdir -p /etc/kubernetes; cat > {KUBELET_CONF}", yaml.safe_dump(foreign))
    before = observe.on_host(HOST, f"sha256sum {KUBELET_CONF}; systemctl show -P ActiveState,NRestarts kubelet")
    run = join(limit=HOST)
    assert run.exit_code != 0
    for word in ("another cluster", "https://192.0.2.99:6443", "kubeadm reset", "gpu_cluster_kubeconfig"):
        assert word in run.failures()[0]
    assert observe.on_host(HOST, f"sha256sum {KUBELET_CONF}; systemctl show -P ActiveState,NRestarts kubelet") == before


def test_a_missing_right_is_named_although_the_token_is_secret(core):
    leave(core)
    run = observe.play(JOIN, "--limit", HOST, environment={"K8S_AUTH_IMPERSONATE_USER": "nobody"})
    assert run.exit_code != 0
    for word in (HOST, 'User "nobody" cannot get resource "configmaps"'):
        assert word in " ".join(run.failures())
