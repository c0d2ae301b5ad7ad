# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Teams as Kubernetes objects. Pure.

One team becomes a namespace with Pod Security labels, quotas, limits, two roles and network policies. The set of names
is fixed (`OBJECTS`), so what a team no longer needs is known without asking the cluster what there is.

Facts behind the choices, all of Kubernetes' own code:
- a quota counts GPUs only under `requests.<resource>`; every resource name is counted for itself, so a name that is
  not listed is unlimited;
- a LimitRange that has `max` alone gives that many GPUs to every container that asks for none: `default` and
  `defaultRequest` must be written, and be 0;
- any namespace may use the PriorityClasses system-node-critical and system-cluster-critical unless a quota says no.
"""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.findings import Finding, PlanError, finding
from ansible_collections.onprem.gpu.plugins.module_utils.tenancy_problems import Team, namespace_of, problems

Definition = dict[str, t.Any]

MANAGER = "onprem.gpu"
MANAGED = {"app.kubernetes.io/managed-by": MANAGER}
TEAM_LABEL = "onprem.gpu/team"

GPU = "nvidia.com/gpu"
# Names that are refused to a team without being offered yet: a cluster may begin to share GPUs any day.
ALWAYS_COUNTED = (GPU, "nvidia.com/gpu.shared")

SYSTEM_CLASSES = ("system-cluster-critical", "system-node-critical")
# Sent with every request of a container that names none, because a quota on CPU or memory refuses such containers.
CONTAINER_DEFAULTS = {"cpu": "500m", "memory": "1Gi"}

# kind: (apiVersion, names); in the order they are written
OBJECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ResourceQuota": ("v1", ("gpu-team", "gpu-team-priority")),
    "LimitRange": ("v1", ("gpu-team",)),
    "Role": ("rbac.authorization.k8s.io/v1", ("gpu-team-member", "gpu-team-viewer")),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", ("gpu-team-member", "gpu-team-viewer")),
    "NetworkPolicy": (
        "networking.k8s.io/v1",
        ("gpu-team-default-deny", "gpu-team-dns", "gpu-team-internal", "gpu-team-ingress", "gpu-team-egress"),
    ),
}


# --- objects ---


def objects(
    teams: t.Sequence[Team],
    *,
    priority_classes: t.Sequence[t.Mapping[str, t.Any]] = (),
    offered: t.Iterable[str] = (),
    dns_namespace: str = "kube-system",
    dns_cidrs: t.Sequence[str] = (),
    monitoring_namespaces: t.Sequence[str] = (),
) -> list[Definition]:
    """Return the definitions of all teams that are present, in the order in which they can be applied.

    offered: resource names that nodes of the cluster offer; those of NVIDIA that a team has no quota for become 0.
    dns_namespace, dns_cidrs: where DNS is answered. monitoring_namespaces: may reach the pods of every team.
    Raises PlanError with all reasons when the teams or classes cannot be what is written.
    """
    findings = problems(teams, priority_classes)
    if findings:
        raise PlanError(findings)
    counted = sorted({*ALWAYS_COUNTED, *(name for name in offered if name.startswith("nvidia.com/"))})
    classes = [one for one in priority_classes if is_present(one)]
    class_names = [one["name"] for one in classes]
    present = [team for team in teams if is_present(team)]
    definitions = [_priority_class(one) for one in classes] + [_namespace(team) for team in present]
    for team in present:
        definitions += _quotas(team, counted, class_names)
        definitions += _limits(team)
        definitions += _access(team)
        definitions += _network(team, dns_namespace, dns_cidrs, monitoring_namespaces)
    return definitions


def unwanted(
    teams: t.Sequence[Team], wanted: t.Iterable[Definition], priority_classes: t.Sequence[t.Mapping[str, t.Any]] = ()
) -> list[Definition]:
    """Return what present teams would have with other settings and have no more, and the classes that shall go.

    wanted: what objects() made of the same teams. Definitions have kind, name and namespace only.
    """
    kept = {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in wanted}
    classes = [
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": one["name"]}}
        for one in priority_classes
        if not is_present(one)
    ]
    return classes + [
        {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace_of(team)}}
        for team in teams
        if is_present(team)
        for kind, (version, names) in OBJECTS.items()
        for name in names
        if (kind, namespace_of(team), name) not in kept
    ]


def is_present(wanted: t.Mapping[str, t.Any]) -> bool:
    return wanted.get("state", "present") == "present"


def _namespace(team: Team) -> Definition:
    level = team.get("pod_security", "restricted")
    security = {f"pod-security.kubernetes.io/{mode}": level for mode in ("enforce", "audit", "warn")}
    metadata: dict[str, t.Any] = {
        "name": namespace_of(team),
        "labels": {**(team.get("labels") or {}), **MANAGED, TEAM_LABEL: team["name"], **security},
    }
    if team.get("annotations"):
        metadata["annotations"] = dict(team["annotations"])
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def _priority_class(wanted: t.Mapping[str, t.Any]) -> Definition:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": wanted["name"], "labels": dict(MANAGED)},
        "value": int(wanted["value"]),
        "preemptionPolicy": "PreemptLowerPriority" if wanted.get("preempts", True) else "Never",
        "globalDefault": bool(wanted.get("default", False)),
        "description": wanted.get("description", ""),
    }


def _object(team: Team, kind: str, name: str, **content: t.Any) -> Definition:
    metadata = {"name": name, "namespace": namespace_of(team), "labels": {**MANAGED, TEAM_LABEL: team["name"]}}
    return {"apiVersion": OBJECTS[kind][0], "kind": kind, "metadata": metadata, **content}


def _quotas(team: Team, counted: t.Sequence[str], class_names: t.Sequence[str]) -> list[Definition]:
    quota = team.get("quota") or {}
    hard = {f"requests.{name}": "0" for name in counted}
    hard[f"requests.{GPU}"] = str(quota.get("gpus", 0))
    hard["requests.nvidia.com/gpu.shared"] = str(quota.get("shared_gpus", 0))
    for profile, count in (quota.get("mig") or {}).items():
        hard[f"requests.{mig_resource(profile)}"] = str(count)
    for key, resource in (("cpu", "requests.cpu"), ("memory", "requests.memory"), ("storage", "requests.storage")):
        if key in quota:
            hard[resource] = str(quota[key])
    if "pods" in quota:
        hard["pods"] = str(quota["pods"])
    allowed = team.get("priority_classes", class_names)
    forbidden = [*SYSTEM_CLASSES, *(name for name in class_names if name not in allowed)]
    scope = {"scopeName": "PriorityClass", "operator": "In", "values": sorted(forbidden)}
    return [
        _object(team, "ResourceQuota", "gpu-team", spec={"hard": hard}),
        _object(
            team,
            "ResourceQuota",
            "gpu-team-priority",
            spec={"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [scope]}},
        ),
    ]


def mig_resource(profile: str) -> str:
    """Return the resource name of a MIG profile under the strategy mixed: 1g.10gb+me is nvidia.com/mig-1g.10gb.me."""
    return "nvidia.com/mig-" + profile.replace("+", ".").replace(",", ".")


def _limits(team: Team) -> list[Definition]:
    maximum, defaults, default_requests = {}, {}, container_defaults(team)
    if "max_gpus_per_container" in team:
        maximum[GPU] = str(team["max_gpus_per_container"])
        defaults[GPU] = default_requests[GPU] = "0"
    if not default_requests:
        return []
    limit: dict[str, t.Any] = {"type": "Container", "defaultRequest": default_requests}
    if maximum:
        limit.update(max=maximum, default=defaults)
    return [_object(team, "LimitRange", "gpu-team", spec={"limits": [limit]})]


def container_defaults(team: Team) -> dict[str, str]:
    """Return the requests of containers that name none: the team's, and something for all that its quota counts."""
    quota = team.get("quota") or {}
    needed = {key: value for key, value in CONTAINER_DEFAULTS.items() if key in quota}
    return {**needed, **{key: str(value) for key, value in (team.get("container_defaults") or {}).items()}}


_READ = ["get", "list", "watch"]
_WRITE = [*_READ, "create", "update", "patch", "delete", "deletecollection"]


def _rule(groups: list[str], resources: list[str], verbs: list[str]) -> Definition:
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


# Nothing here may change quotas, limits, roles, bindings or network policies, nor act as another service account.
_STATUS_RULES = [
    _rule([""], ["events", "limitranges", "resourcequotas", "pods/status", "replicationcontrollers/status"], _READ),
    _rule(["metrics.k8s.io"], ["pods"], _READ),
    _rule(["networking.k8s.io"], ["networkpolicies"], _READ),
    _rule(["events.k8s.io"], ["events"], _READ),
]
_WORKLOADS: list[tuple[list[str], list[str]]] = [
    ([""], ["configmaps", "persistentvolumeclaims", "pods", "replicationcontrollers", "services"]),
    (["apps"], ["daemonsets", "deployments", "deployments/scale", "replicasets", "statefulsets", "statefulsets/scale"]),
    (["autoscaling"], ["horizontalpodautoscalers"]),
    (["batch"], ["cronjobs", "jobs"]),
    (["networking.k8s.io"], ["ingresses"]),
    (["policy"], ["poddisruptionbudgets"]),
]
_VIEWER_RULES = [
    *(_rule(groups, resources, _READ) for groups, resources in _WORKLOADS),
    _rule([""], ["pods/log"], _READ),
    *_STATUS_RULES,
]
_MEMBER_RULES = [
    *(_rule(groups, resources, _WRITE) for groups, resources in _WORKLOADS),
    _rule([""], ["secrets", "serviceaccounts"], _WRITE),
    _rule([""], ["pods/log"], _READ),
    _rule([""], ["pods/attach", "pods/exec", "pods/portforward"], ["get", "create"]),
    _rule([""], ["pods/eviction"], ["create"]),
    *_STATUS_RULES,
]


def _access(team: Team) -> list[Definition]:
    found = [
        _object(team, "Role", "gpu-team-member", rules=_MEMBER_RULES),
        _object(team, "Role", "gpu-team-viewer", rules=_VIEWER_RULES),
    ]
    for name, who in (("gpu-team-member", "members"), ("gpu-team-viewer", "viewers")):
        subjects = _subjects(team, team.get(who) or {})
        if subjects:
            role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
            found.append(_object(team, "RoleBinding", name, roleRef=role, subjects=subjects))
    return found


def _subjects(team: Team, who: t.Mapping[str, t.Any]) -> list[Definition]:
    group = "rbac.authorization.k8s.io"
    found = [{"apiGroup": group, "kind": "User", "name": name} for name in who.get("users") or []]
    found += [{"apiGroup": group, "kind": "Group", "name": name} for name in who.get("groups") or []]
    for account in who.get("service_accounts") or []:
        namespace, _slash, name = account.rpartition("/")
        found.append({"kind": "ServiceAccount", "name": name, "namespace": namespace or namespace_of(team)})
    return found


def _network(
    team: Team, dns_namespace: str, dns_cidrs: t.Sequence[str], monitoring_namespaces: t.Sequence[str]
) -> list[Definition]:
    network = team.get("network") or {}
    if not network.get("isolated", True):
        return []
    everybody: Definition = {"podSelector": {}}
    dns = [_from_namespaces([dns_namespace]), *({"ipBlock": {"cidr": cidr}} for cidr in dns_cidrs)]
    dns_ports = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    found = [
        _policy(team, "gpu-team-default-deny", policyTypes=["Ingress", "Egress"]),
        _policy(team, "gpu-team-dns", policyTypes=["Egress"], egress=[{"to": dns, "ports": dns_ports}]),
        _policy(
            team,
            "gpu-team-internal",
            policyTypes=["Ingress", "Egress"],
            ingress=[{"from": [everybody]}],
            egress=[{"to": [everybody]}],
        ),
    ]
    sources = sorted({*(network.get("allow_from_namespaces") or []), *monitoring_namespaces})
    if sources:
        ingress = [{"from": [_from_namespaces(sources)]}]
        found.append(_policy(team, "gpu-team-ingress", policyTypes=["Ingress"], ingress=ingress))
    targets = [_from_namespaces(network["allow_to_namespaces"])] if network.get("allow_to_namespaces") else []
    targets += [{"ipBlock": {"cidr": cidr}} for cidr in network.get("allow_to_cidrs") or []]
    if targets:
        found.append(_policy(team, "gpu-team-egress", policyTypes=["Egress"], egress=[{"to": targets}]))
    return found


def _policy(team: Team, name: str, **spec: t.Any) -> Definition:
    return _object(team, "NetworkPolicy", name, spec={"podSelector": {}, **spec})


def _from_namespaces(names: t.Iterable[str]) -> Definition:
    expression = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": sorted(names)}
    return {"namespaceSelector": {"matchExpressions": [expression]}}


# --- removal ---


def removal_problems(
    teams: t.Sequence[Team],
    namespaces: t.Sequence[Definition],
    held: t.Sequence[Definition],
    confirmed: t.Container[str],
) -> list[Finding]:
    """Return why teams with state absent must not be removed now.

    namespaces: the Namespace objects there are. held: pods that have not ended and volume claims, of any namespace.
    confirmed: names of the teams whose pods and volumes may be lost.
    """
    owners = {one["metadata"]["name"]: (one["metadata"].get("labels") or {}).get(TEAM_LABEL) for one in namespaces}
    found = []
    for team in removable(teams, owners):
        namespace = namespace_of(team)
        here = [_spoken(one) for one in held if one["metadata"]["namespace"] == namespace]
        if owners[namespace] != team["name"]:
            found.append(_foreign(team, owners[namespace]))
        elif here and team["name"] not in confirmed:
            found.append(_still_used(team, here))
    return found


def _spoken(held: Definition) -> str:
    kinds = {"Pod": "pod", "PersistentVolumeClaim": "volume claim"}
    return f"{kinds.get(held['kind'], held['kind'])} {held['metadata']['name']}"


def _foreign(team: Team, owner: str | None) -> Finding:
    namespace = namespace_of(team)
    whose = f"belongs to team {owner}" if owner else "was not made by this collection"
    return finding(
        "team_removal",
        namespace,
        f"Team {team['name']} cannot be removed: its namespace {namespace} {whose}.",
        f"a namespace with the label {TEAM_LABEL}={team['name']}; others are deleted by hand",
        "gpu_teams",
    )


def _still_used(team: Team, held: t.Sequence[str]) -> Finding:
    shown = ", ".join(held[:5]) + (f" and {len(held) - 5} more" if len(held) > 5 else "")
    return finding(
        "team_removal",
        team["name"],
        f"Team {team['name']} cannot be removed: its namespace {namespace_of(team)} still has {shown}.",
        f"removal once they are gone, or now and with all their data when {team['name']} is on the list",
        "gpu_tenancy_confirm_removal",
    )


def removable(teams: t.Sequence[Team], namespaces: t.Container[str]) -> list[Team]:
    """Return the teams that shall not exist and do."""
    return [team for team in teams if not is_present(team) and namespace_of(team) in namespaces]
