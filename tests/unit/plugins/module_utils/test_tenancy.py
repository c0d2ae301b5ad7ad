# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils import tenancy
from ansible_collections.onprem.gpu.plugins.module_utils.findings import PlanError, sentence
from ansible_collections.onprem.gpu.plugins.module_utils.tenancy_problems import problems

CLASSES = [{"name": "gpu-low", "value": 100, "preempts": False}, {"name": "gpu-high", "value": 1000}]
VISION = {"name": "vision", "namespace": "team-vision", "quota": {"gpus": 4}}


def definitions(*teams: dict[str, t.Any], **settings: t.Any) -> list[dict[str, t.Any]]:
    return tenancy.objects(list(teams), **{"priority_classes": CLASSES, **settings})


def one(kind: str, name: str, team: dict[str, t.Any], **settings: t.Any) -> dict[str, t.Any]:
    found = [item for item in definitions(team, **settings) if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{kind} {name}: {len(found)} of them"
    return found[0]


def names(team: dict[str, t.Any], **settings: t.Any) -> set[str]:
    return {f"{item['kind']}/{item['metadata']['name']}" for item in definitions(team, **settings)}


def hard(team: dict[str, t.Any], **settings: t.Any) -> dict[str, str]:
    return one("ResourceQuota", "gpu-team", team, **settings)["spec"]["hard"]


# --- order and identity ---


def test_a_namespace_comes_before_what_is_in_it() -> None:
    found = definitions(VISION, {"name": "speech"})
    seen: set[str] = set()
    for item in found:
        if item["kind"] == "Namespace":
            seen.add(item["metadata"]["name"])
        elif "namespace" in item["metadata"]:
            assert item["metadata"]["namespace"] in seen
    assert seen == {"team-vision", "speech"}


def test_every_object_says_whose_it_is() -> None:
    for item in definitions(VISION):
        assert item["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "onprem.gpu"
        if item["kind"] != "PriorityClass":
            assert item["metadata"]["labels"]["onprem.gpu/team"] == "vision"


def test_the_same_teams_give_the_same_objects_whatever_the_order_of_keys() -> None:
    other = {key: VISION[key] for key in reversed(VISION)}
    assert definitions(VISION, offered=["nvidia.com/b", "nvidia.com/a"]) == definitions(
        other, offered=["nvidia.com/a", "nvidia.com/b"]
    )


def test_pod_security_is_restricted_unless_said_otherwise() -> None:
    labels = one("Namespace", "team-vision", VISION)["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}
    labels = one("Namespace", "team-vision", {**VISION, "pod_security": "baseline"})["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "baseline"


def test_a_team_s_own_labels_cannot_replace_ours() -> None:
    team = {**VISION, "labels": {"cost-centre": "7", "onprem.gpu/team": "other"}}
    labels = one("Namespace", "team-vision", team)["metadata"]["labels"]
    assert (labels["cost-centre"], labels["onprem.gpu/team"]) == ("7", "vision")


# --- quotas ---


def test_quota_counts_requests_because_nothing_else_is_enforced() -> None:
    team = {
        "name": "a",
        "quota": {"gpus": 4, "mig": {"1g.10gb": 2, "1g.10gb+me": 1}, "cpu": 64, "memory": "1Ti", "pods": 9},
    }
    assert hard(team) == {
        "requests.nvidia.com/gpu": "4",
        "requests.nvidia.com/gpu.shared": "0",
        "requests.nvidia.com/mig-1g.10gb": "2",
        "requests.nvidia.com/mig-1g.10gb.me": "1",
        "requests.cpu": "64",
        "requests.memory": "1Ti",
        "pods": "9",
    }


def test_what_the_cluster_offers_and_the_team_has_not_got_is_forbidden() -> None:
    found = hard(VISION, offered=["cpu", "nvidia.com/gpu", "nvidia.com/mig-2g.20gb", "rdma/hca"])
    assert found["requests.nvidia.com/mig-2g.20gb"] == "0"
    assert found["requests.nvidia.com/gpu"] == "4"
    assert not any("rdma" in key or key.endswith("cpu") for key in found)


def test_a_team_without_quota_has_no_gpus_rather_than_all_of_them() -> None:
    assert hard({"name": "a"}) == {"requests.nvidia.com/gpu": "0", "requests.nvidia.com/gpu.shared": "0"}


def test_priority_classes_not_allowed_and_those_of_the_system_admit_no_pod() -> None:
    def forbidden(team: dict[str, t.Any]) -> list[str]:
        spec = one("ResourceQuota", "gpu-team-priority", team)["spec"]
        assert spec["hard"] == {"pods": "0"}
        return spec["scopeSelector"]["matchExpressions"][0]["values"]

    assert forbidden(VISION) == ["system-cluster-critical", "system-node-critical"]
    assert forbidden({**VISION, "priority_classes": ["gpu-low"]})[0] == "gpu-high"


# --- limits ---


def test_the_limit_range_never_hands_gpus_to_containers_that_ask_for_none() -> None:
    limit = one("LimitRange", "gpu-team", {**VISION, "max_gpus_per_container": 2})["spec"]["limits"][0]
    assert limit == {
        "type": "Container",
        "max": {"nvidia.com/gpu": "2"},
        "default": {"nvidia.com/gpu": "0"},
        "defaultRequest": {"nvidia.com/gpu": "0"},
    }


def test_a_quota_on_cpu_brings_a_default_request_so_that_plain_pods_are_admitted() -> None:
    team = {"name": "a", "quota": {"cpu": "8", "memory": "1Gi"}, "container_defaults": {"memory": "64Mi"}}
    limit = one("LimitRange", "gpu-team", team)["spec"]["limits"][0]
    assert limit == {"type": "Container", "defaultRequest": {"cpu": "500m", "memory": "64Mi"}}


def test_no_limit_range_where_there_is_nothing_to_limit() -> None:
    assert "LimitRange/gpu-team" not in names(VISION)


# --- access ---


def verbs_of(role: dict[str, t.Any], resource: str) -> set[str]:
    return {verb for rule in role["rules"] if resource in rule["resources"] for verb in rule["verbs"]}


def test_members_work_with_pods_and_cannot_lift_their_own_limits() -> None:
    role = one("Role", "gpu-team-member", VISION)
    assert {"create", "delete"} <= verbs_of(role, "pods")
    for resource in ("resourcequotas", "limitranges", "networkpolicies", "roles", "rolebindings"):
        assert verbs_of(role, resource) <= {"get", "list", "watch"}
    assert not any("*" in rule["resources"] + rule["verbs"] + rule["apiGroups"] for rule in role["rules"])
    assert "impersonate" not in verbs_of(role, "serviceaccounts")


def test_viewers_write_nothing_and_see_no_secrets() -> None:
    role = one("Role", "gpu-team-viewer", VISION)
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert not any({"secrets", "pods/exec"} & set(rule["resources"]) for rule in role["rules"])


def test_members_of_every_kind_are_bound() -> None:
    team = {**VISION, "members": {"users": ["ann"], "groups": ["vision"], "service_accounts": ["ci", "tools/argo"]}}
    assert one("RoleBinding", "gpu-team-member", team)["subjects"] == [
        {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"},
        {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "vision"},
        {"kind": "ServiceAccount", "name": "ci", "namespace": "team-vision"},
        {"kind": "ServiceAccount", "name": "argo", "namespace": "tools"},
    ]


# --- network ---


def test_network_is_closed_but_for_dns_and_the_team_itself() -> None:
    assert {name for name in names(VISION) if name.startswith("NetworkPolicy")} == {
        "NetworkPolicy/gpu-team-default-deny",
        "NetworkPolicy/gpu-team-dns",
        "NetworkPolicy/gpu-team-internal",
    }
    deny = one("NetworkPolicy", "gpu-team-default-deny", VISION)["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    dns = one("NetworkPolicy", "gpu-team-dns", VISION, dns_cidrs=["169.254.20.10/32"])["spec"]["egress"][0]
    assert {port["protocol"] for port in dns["ports"]} == {"UDP", "TCP"}
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in dns["to"]


def test_openings_are_only_those_that_are_written() -> None:
    network = {
        "allow_from_namespaces": ["gateway"],
        "allow_to_namespaces": ["minio"],
        "allow_to_cidrs": ["10.1.0.0/16"],
    }
    team = {**VISION, "network": network}
    ingress = one("NetworkPolicy", "gpu-team-ingress", team, monitoring_namespaces=["monitoring"])["spec"]
    assert ingress["ingress"][0]["from"][0]["namespaceSelector"]["matchExpressions"][0]["values"] == [
        "gateway",
        "monitoring",
    ]
    egress = one("NetworkPolicy", "gpu-team-egress", team)["spec"]
    assert {"ipBlock": {"cidr": "10.1.0.0/16"}} in egress["egress"][0]["to"] and egress["policyTypes"] == ["Egress"]


def test_a_team_may_be_left_open() -> None:
    assert not any(name.startswith("NetworkPolicy") for name in names({**VISION, "network": {"isolated": False}}))


# --- what goes ---


def test_what_settings_no_longer_ask_for_is_named_for_removal() -> None:
    def stale(team: dict[str, t.Any]) -> set[str]:
        found = tenancy.unwanted([team], definitions(team))
        assert {item["metadata"]["namespace"] for item in found} <= {"team-vision"}
        return {f"{item['kind']}/{item['metadata']['name']}" for item in found}

    assert "LimitRange/gpu-team" in stale(VISION)
    assert "LimitRange/gpu-team" not in stale({**VISION, "max_gpus_per_container": 1})
    assert "NetworkPolicy/gpu-team-default-deny" in stale({**VISION, "network": {"isolated": False}})
    assert "RoleBinding/gpu-team-member" in stale(VISION)
    assert stale({**VISION, "state": "absent"}) == set()


def test_a_class_goes_only_when_that_is_said() -> None:
    classes = [{"name": "gpu-low", "value": 1, "state": "absent"}, {"name": "gpu-high", "value": 2}]
    found = definitions({"name": "a"}, priority_classes=classes)
    assert [one["metadata"]["name"] for one in found if one["kind"] == "PriorityClass"] == ["gpu-high"]
    assert tenancy.unwanted([], [], classes) == [
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "gpu-low"}}
    ]
    assert "gpu-low" in refusal({"name": "a", "priority_classes": ["gpu-low"]}, priority_classes=classes)


def test_every_object_a_team_can_have_is_on_the_list_of_names() -> None:
    team = {
        **VISION,
        "max_gpus_per_container": 1,
        "members": {"users": ["a"]},
        "viewers": {"users": ["b"]},
        "network": {"allow_from_namespaces": ["x"], "allow_to_namespaces": ["y"]},
    }
    found = definitions(team)
    assert tenancy.unwanted([team], found) == []
    known = {(kind, name) for kind, (_, all_names) in tenancy.OBJECTS.items() for name in all_names}
    own = {(item["kind"], item["metadata"]["name"]) for item in found if "namespace" in item["metadata"]}
    assert own == known


def test_absent_teams_get_nothing() -> None:
    assert [item for item in definitions({**VISION, "state": "absent"}) if item["kind"] != "PriorityClass"] == []


def namespace(name: str, labels: dict[str, str]) -> dict[str, t.Any]:
    return {"kind": "Namespace", "metadata": {"name": name, "labels": labels}}


OURS = {"onprem.gpu/team": "vision"}
POD = {"kind": "Pod", "metadata": {"name": "train-0", "namespace": "team-vision"}}
CLAIM = {"kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "team-vision"}}
ELSEWHERE = {"kind": "Pod", "metadata": {"name": "web", "namespace": "other"}}


@pytest.mark.parametrize(
    ("labels", "held", "confirmed", "word"),
    [
        (OURS, [ELSEWHERE], [], None),
        (OURS, [POD], [], "pod train-0"),
        (OURS, [CLAIM], ["speech"], "volume claim data"),
        (OURS, [POD], ["vision"], None),
        ({}, [], ["vision"], "was not made by this collection"),
        ({"onprem.gpu/team": "speech"}, [], ["vision"], "belongs to team speech"),
    ],
    ids=["empty", "pods", "data", "confirmed", "foreign", "another team's"],
)
def test_removal_takes_only_what_is_ours_and_idle(
    labels: dict[str, str], held: list[dict[str, t.Any]], confirmed: list[str], word: str | None
) -> None:
    teams = [{**VISION, "state": "absent"}, {"name": "other"}]
    namespaces = [namespace("team-vision", labels), namespace("other", {})]
    found = tenancy.removal_problems(teams, namespaces, held, confirmed)
    assert [word in sentence(one) for one in found if word] == ([True] if word else [])
    assert bool(found) == bool(word)


def test_a_team_that_is_gone_already_is_no_problem() -> None:
    assert tenancy.removal_problems([{**VISION, "state": "absent"}], [namespace("other", {})], [], []) == []


# --- bad input ---


def refusal(*teams: t.Any, **settings: t.Any) -> str:
    with pytest.raises(PlanError) as refused:
        definitions(*teams, **settings)
    return str(refused.value)


@pytest.mark.parametrize(
    ("team", "words"),
    [
        ({"name": "Team_A"}, ["Team_A", "lower-case"]),
        ({}, ["gpu_teams[0].name is missing"]),
        ({"name": "a", "quotas": {}}, ["quotas", "did you mean quota?"]),
        ({"name": "a", "quota": {"gpu": 1}}, ["gpu_teams[0].quota", "did you mean gpus?"]),
        ({"name": "a", "quota": {"gpus": -1}}, ["gpu_teams[0].quota.gpus is -1", "whole number"]),
        ({"name": "a", "quota": {"gpus": 1.5}}, ["1.5"]),
        ({"name": "a", "quota": {"gpus": True}}, ["True"]),
        ({"name": "a", "quota": {"gpus": "4Gi"}}, ["'4Gi'", "whole number"]),
        ({"name": "a", "quota": {"cpu": "many"}}, ["'many'", "500m"]),
        ({"name": "a", "quota": {"mig": {"10gb": 1}}}, ["10gb", "1g.10gb"]),
        ({"name": "a", "quota": {"mig": {"1g.10gb": -2}}}, ["-2"]),
        ({"name": "a", "pod_security": "Restricted"}, ["did you mean restricted?", "baseline"]),
        ({"name": "a", "state": "gone"}, ["present, absent"]),
        ({"name": "a", "max_gpus_per_container": "all"}, ["max_gpus_per_container"]),
        ({"name": "a", "members": {"user": ["x"]}}, ["did you mean users?"]),
        ({"name": "a", "members": {"users": "ann"}}, ["'ann'", "a list of names"]),
        ({"name": "a", "members": ["ann"]}, ["not a mapping"]),
        ({"name": "a", "network": {"allow_to_cidrs": ["10.0.0.0/33"]}}, ["10.0.0.0/33"]),
        ({"name": "a", "network": {"allow_to_cidrs": ["10.0.0.1"]}}, ["10.0.0.1/32"]),
        ({"name": "a", "network": {"allow_from_namespaces": ["Mon"]}}, ["Mon"]),
        ({"name": "a", "network": {"isolated": "yes"}}, ["true or false"]),
        ({"name": "a", "priority_classes": ["gpu-hgh"]}, ["did you mean gpu-high?"]),
        ({"name": "a", "container_defaults": {"gpu": 1}}, ["unknown key 'gpu'"]),
        ({"name": "a", "labels": {"tier": 1}}, ["need quotes"]),
        ({"name": "a", "namespace": "kube-system"}, ["kube-system", "belongs to Kubernetes"]),
        ({"name": "default"}, ["belongs to Kubernetes"]),
        ("vision", ["'vision'", "not a team"]),
    ],
)
def test_a_wrong_team_is_refused_with_its_place_and_what_is_allowed(team: t.Any, words: list[str]) -> None:
    text = refusal(team)
    for word in ["gpu_teams[0]", "Allowed:", *words]:
        assert word in text


def test_all_problems_are_told_at_once_and_name_the_team() -> None:
    teams = [{"name": "a", "quota": {"gpus": -1}}, {"name": "b", "state": "x"}, {"name": "a", "namespace": "z"}]
    text = " ".join(sentence(found) for found in problems(teams))
    for word in ("Team a: gpu_teams[0].quota.gpus", "Team b: gpu_teams[1].state", "gpu_teams[2].name is 'a'"):
        assert word in text


def test_two_teams_cannot_share_a_namespace() -> None:
    assert "the namespace of team a too" in refusal({"name": "a"}, {"name": "b", "namespace": "a"})


@pytest.mark.parametrize(
    ("classes", "word"),
    [
        ([{"name": "system-x", "value": 1}], "system-x"),
        ([{"name": "x", "value": 2_000_000_000}], "2000000000"),
        ([{"name": "x", "value": "high"}], "'high'"),
        ([{"name": "x"}], "value is None"),
        ([{"name": "x", "value": 1, "state": "gone"}], "present, absent"),
        ([{"name": "x", "value": 1, "preemptionPolicy": "Never"}], "preemptionPolicy"),
        ([{"name": "x", "value": 1}, {"name": "x", "value": 2}], "several times"),
        ([{"name": "x", "value": 1, "default": True}, {"name": "y", "value": 2, "default": True}], "one default"),
    ],
)
def test_a_wrong_priority_class_is_refused(classes: list[dict[str, t.Any]], word: str) -> None:
    text = refusal({"name": "a"}, priority_classes=classes)
    assert word in text and "gpu_tenancy_priority_classes" in text


@pytest.mark.parametrize(
    "profile", ["1g.10gb", "1g.10gb+me", "7g.80gb", "1c.3g.40gb", "1g.24gb-me", "2g.48gb+gfx", "1g.24gb+me.all"]
)
def test_nvidia_s_profile_names_are_known(profile: str) -> None:
    assert problems([{"name": "a", "quota": {"mig": {profile: 1}}}]) == []
