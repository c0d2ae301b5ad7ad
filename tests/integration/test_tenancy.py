# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Teams on a real API server: what the playbook writes, and what the API server then refuses.

The team's names are new for each run, and no host is needed: the playbook works on the controller alone.
"""

from __future__ import annotations

import json
import secrets
import typing as t
from pathlib import Path

import observe
import pytest
import yaml

TENANCY = observe.ROOT / "playbooks" / "tenancy.yml"
RUN = secrets.token_hex(3)
NAMESPACE = f"contract-{RUN}"
TEAM: dict[str, t.Any] = {
    "name": NAMESPACE,
    "quota": {"gpus": 2, "cpu": "4", "memory": "8Gi"},
    "max_gpus_per_container": 3,
    "members": {"users": ["ann"]},
    "viewers": {"groups": ["audit"]},
    "network": {"allow_from_namespaces": ["monitoring"]},
    "priority_classes": [f"contract-{RUN}-low"],
}
CLASSES: list[dict[str, t.Any]] = [
    {"name": f"contract-{RUN}-low", "value": 1000, "preempts": False},
    {"name": f"contract-{RUN}-high", "value": 100000},
]


def pod(*, gpus: int = 0, resource: str = "nvidia.com/gpu", **spec: t.Any) -> str:
    """A pod that Pod Security's level restricted admits; it asks for no CPU and no memory."""
    container = {
        "name": "main",
        "image": "none.invalid/none:1",
        "resources": {"limits": {resource: str(gpus)}} if gpus else {},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}}
    content = {"securityContext": security, "containers": [container], **spec}
    metadata = {"name": f"pod-{secrets.token_hex(3)}", "namespace": NAMESPACE}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": content})


def created(definition: str, *words: str) -> dict[str, t.Any]:
    """The object as the API server stored it."""
    return t.cast(
        "dict[str, t.Any]", json.loads(observe.kubectl("create", "-o", "json", "-f", "-", *words, text=definition))
    )


def refusal(definition: str, *words: str) -> str:
    with pytest.raises(observe.ObservationError) as refused:
        observe.kubectl("create", "-f", "-", *words, text=definition)
    return str(refused.value)


def allowed(user: str, verb: str, resource: str, *words: str) -> bool:
    answer = ["auth", "can-i", verb, resource, "--namespace", NAMESPACE, f"--as={user}", *words]
    try:
        return observe.kubectl(*answer).strip() == "yes"
    except observe.ObservationError:
        return False


@pytest.fixture(scope="module")
def run_tenancy(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory):
    """run_tenancy(*words, **variables) runs the playbook with one team, or with what the variables say."""
    inventory = tmp_path_factory.mktemp("tenancy") / "inventory.yml"

    def run(*words: str, **variables: t.Any) -> observe.Run:
        content = {
            "gpu_cluster_kubeconfig": str(kubeconfig),
            "gpu_teams": [TEAM],
            "gpu_tenancy_priority_classes": CLASSES,
            **variables,
        }
        inventory.write_text(
            yaml.safe_dump({"all": {"vars": content, "children": {"gpu_nodes": {"hosts": {"any": {}}}}}})
        )
        return observe.play(TENANCY, *words, inventory=inventory)

    yield run
    run(gpu_teams=[{"name": NAMESPACE, "state": "absent"}], gpu_tenancy_confirm_removal=[NAMESPACE])
    observe.kubectl("delete", "priorityclass", *(one["name"] for one in CLASSES), "--ignore-not-found")


@pytest.fixture(scope="module")
def predicted(run_tenancy) -> list[str]:
    """What check mode said about a namespace that did not exist."""
    return changed_objects(run_tenancy("--check", "--diff").require_success())


@pytest.fixture(scope="module")
def team(run_tenancy, predicted: list[str]) -> observe.Run:
    """The run that made the team, after check mode was asked."""
    return t.cast("observe.Run", run_tenancy("--diff").require_success())


def changed_objects(run: observe.Run) -> list[str]:
    return [
        item["object"] for event in run.results(("changed",)) for item in event["result"]["objects"] if item["changed"]
    ]


def test_check_mode_predicts_each_object_although_the_namespace_is_not_there(predicted: list[str], team) -> None:
    assert predicted == changed_objects(team)
    assert f"ResourceQuota {NAMESPACE}/gpu-team" in predicted and f"Namespace {NAMESPACE}" in predicted


def test_check_mode_shows_a_diff_of_each_object(run_tenancy, team) -> None:
    smaller = {**TEAM, "quota": {**TEAM["quota"], "gpus": 1}}
    run = run_tenancy("--check", "--diff", gpu_teams=[smaller]).require_success()
    (diff,) = [one for event in run.results(("changed",)) for one in event["result"]["diff"]]
    assert diff["before_header"] == f"ResourceQuota {NAMESPACE}/gpu-team"
    assert diff["before"]["spec"]["hard"] == {"requests.nvidia.com/gpu": "2"}
    assert diff["after"]["spec"]["hard"] == {"requests.nvidia.com/gpu": "1"}


def test_a_second_run_changes_nothing(run_tenancy, team) -> None:
    before = observe.generations()
    assert run_tenancy().require_success().changed_items() == {}
    assert observe.generations() == before


def test_a_pod_over_quota_is_refused_by_name(team) -> None:
    answer = refusal(pod(gpus=3))
    assert "exceeded quota" in answer and "requests.nvidia.com/gpu" in answer


def test_gpus_under_other_names_are_forbidden(team) -> None:
    answer = refusal(pod(gpus=1, resource="nvidia.com/gpu.shared"))
    assert "exceeded quota" in answer and "nvidia.com/gpu.shared" in answer


def test_a_container_over_the_team_s_maximum_is_refused(team) -> None:
    assert "maximum nvidia.com/gpu usage per Container is 3" in refusal(pod(gpus=4))


def test_a_pod_that_asks_for_nothing_gets_no_gpu_and_is_admitted(team) -> None:
    stored = created(pod(), "--dry-run=server")["spec"]["containers"][0]["resources"]
    assert stored["limits"]["nvidia.com/gpu"] == "0" and stored["requests"]["nvidia.com/gpu"] == "0"
    assert stored["requests"]["cpu"] == "500m" and stored["requests"]["memory"] == "1Gi"


def test_a_pod_within_quota_is_admitted(team) -> None:
    assert (
        created(pod(gpus=2), "--dry-run=server")["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
        == "2"
    )


@pytest.mark.parametrize("name", ["system-node-critical", f"contract-{RUN}-high"])
def test_priorities_a_team_has_not_got_admit_no_pod(team, name: str) -> None:
    assert "exceeded quota: gpu-team-priority" in refusal(pod(priorityClassName=name))


def test_the_team_s_own_priority_is_admitted(team) -> None:
    assert created(pod(priorityClassName=f"contract-{RUN}-low"), "--dry-run=server")["spec"]["priority"] == 1000


def test_pod_security_is_enforced(team) -> None:
    assert 'violates PodSecurity "restricted' in refusal(pod(hostNetwork=True))


def test_members_work_and_cannot_lift_their_limits(team) -> None:
    assert allowed("ann", "create", "pods") and allowed("ann", "create", "pods", "--subresource=exec")
    for resource in ("resourcequotas", "limitranges", "networkpolicies", "rolebindings", "roles"):
        assert not any(allowed("ann", verb, resource) for verb in ("create", "patch", "delete")), resource
    assert not allowed("ann", "get", "pods", "--all-namespaces")


def test_viewers_look_and_see_no_secrets(team) -> None:
    group = "--as-group=audit"
    assert allowed("eve", "list", "pods", group) and allowed("eve", "get", "pods", "--subresource=log", group)
    assert not allowed("eve", "get", "secrets", group) and not allowed("eve", "delete", "pods", group)
    assert not allowed("eve", "list", "pods")


def test_a_change_by_somebody_else_is_undone_and_told(run_tenancy, team) -> None:
    patch = json.dumps({"spec": {"hard": {"requests.nvidia.com/gpu": "99"}}})
    observe.kubectl("patch", "resourcequota", "gpu-team", "--namespace", NAMESPACE, "--type=merge", "-p", patch)
    assert changed_objects(run_tenancy().require_success()) == [f"ResourceQuota {NAMESPACE}/gpu-team"]
    quota = observe.cluster_objects("get", "resourcequota", "gpu-team", "--namespace", NAMESPACE)
    assert quota["spec"]["hard"]["requests.nvidia.com/gpu"] == "2"


def test_bad_input_stops_before_anything_is_written(run_tenancy, team) -> None:
    before = observe.generations()
    run = run_tenancy(gpu_teams=[TEAM, {"name": f"{NAMESPACE}-b", "quota": {"gpus": -1}}])
    assert run.exit_code != 0 and observe.generations() == before
    (failure,) = run.failures()
    for word in (f"Team {NAMESPACE}-b", "gpu_teams[1].quota.gpus is -1", "a whole number, 0 or more"):
        assert word in failure


def test_what_is_no_longer_asked_for_goes(run_tenancy, team) -> None:
    bare = {"name": NAMESPACE, "quota": {"gpus": 2}, "network": {"isolated": False}}
    assert run_tenancy("--check", gpu_teams=[bare]).require_success().changed_items() == (
        run_tenancy(gpu_teams=[bare]).require_success().changed_items()
    )
    kinds = "resourcequota,limitrange,networkpolicy,rolebinding"
    found = observe.cluster_objects("get", kinds, "--namespace", NAMESPACE)["items"]
    assert {(one["kind"], one["metadata"]["name"]) for one in found} == {
        ("ResourceQuota", "gpu-team"),
        ("ResourceQuota", "gpu-team-priority"),
    }
    assert run_tenancy(gpu_teams=[bare]).require_success().changed_items() == {}
    run_tenancy().require_success()


def test_a_team_at_work_is_not_removed_unless_that_is_confirmed(run_tenancy, team) -> None:
    name = created(pod())["metadata"]["name"]
    gone = {"name": NAMESPACE, "state": "absent"}
    run = run_tenancy(gpu_teams=[gone])
    (failure,) = run.failures()
    assert f"pod {name}" in failure and "gpu_tenancy_confirm_removal" in failure
    observe.kubectl("get", "namespace", NAMESPACE)

    confirmed = {"gpu_teams": [gone], "gpu_tenancy_confirm_removal": [NAMESPACE]}
    assert changed_objects(run_tenancy("--check", **confirmed).require_success()) == [f"Namespace {NAMESPACE}"]
    assert changed_objects(run_tenancy(**confirmed).require_success()) == [f"Namespace {NAMESPACE}"]
    assert run_tenancy(gpu_teams=[gone]).require_success().changed_items() == {}
    run_tenancy().require_success()


def test_a_priority_class_goes_when_that_is_said(run_tenancy, team) -> None:
    low, high = CLASSES
    fewer = [{**high, "state": "absent"}, low]
    changed = changed_objects(run_tenancy(gpu_tenancy_priority_classes=fewer).require_success())
    assert f"PriorityClass {high['name']}" in changed
    assert run_tenancy(gpu_tenancy_priority_classes=fewer).require_success().changed_items() == {}
    run_tenancy().require_success()


def test_a_namespace_that_is_nobody_s_is_not_removed(run_tenancy, team) -> None:
    foreign = f"{NAMESPACE}-foreign"
    observe.kubectl("create", "namespace", foreign)
    try:
        (failure,) = run_tenancy(gpu_teams=[{"name": foreign, "state": "absent"}]).failures()
        assert "was not made by this collection" in failure
        observe.kubectl("get", "namespace", foreign)
    finally:
        observe.kubectl("delete", "namespace", foreign, "--wait=false")


def test_an_unreachable_server_is_named(run_tenancy, kubeconfig: Path, tmp_path: Path) -> None:
    dead = tmp_path / "dead.conf"
    dead.write_text(kubeconfig.read_text().replace(":6443", ":1"))
    (failure,) = run_tenancy(gpu_cluster_kubeconfig=str(dead)).failures()
    assert str(dead) in failure and ":1 " in failure
