# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can be wrong with teams and priority classes as a user writes them. Pure."""

from __future__ import annotations

import difflib
import ipaddress
import re
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.findings import Finding, finding

Team = t.Mapping[str, t.Any]

HIGHEST_PRIORITY = 1_000_000_000
POD_SECURITY = ("privileged", "baseline", "restricted")

TEAM_KEYS = (
    "name",
    "namespace",
    "state",
    "quota",
    "max_gpus_per_container",
    "container_defaults",
    "members",
    "viewers",
    "pod_security",
    "network",
    "priority_classes",
    "labels",
    "annotations",
)
QUOTA_KEYS = ("gpus", "shared_gpus", "mig", "cpu", "memory", "storage", "pods")
SUBJECT_KEYS = ("users", "groups", "service_accounts")
NETWORK_KEYS = ("isolated", "allow_from_namespaces", "allow_to_namespaces", "allow_to_cidrs")
CLASS_KEYS = ("name", "value", "preempts", "default", "description", "state")

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_MIG_PROFILE = re.compile(r"(\d+c\.)?\d+g\.\d+gb(\+(me|me\.all|gfx)(,(me|me\.all|gfx))*|-me)?")
_RESERVED_NAMESPACES = re.compile(r"default|kube-.*")


def namespace_of(team: Team) -> str:
    return str(team.get("namespace") or team["name"])


def problems(teams: t.Sequence[Team], priority_classes: t.Sequence[t.Mapping[str, t.Any]] = ()) -> list[Finding]:
    """Return everything that is wrong with the teams and the classes, in their order."""
    if not isinstance(teams, (list, tuple)):
        return [_wrong("", teams, "gpu_teams", "is not a list", "a list of teams")]
    found = [problem for index, one in enumerate(priority_classes) for problem in _class_problems(index, one)]
    if sum(bool(isinstance(one, dict) and one.get("default")) for one in priority_classes) > 1:
        where = "gpu_tenancy_priority_classes"
        found.append(_wrong("", "default", where, "marks several classes as the default", "one default at most"))
    named = [one for one in priority_classes if isinstance(one, dict) and "name" in one]
    class_names = [one["name"] for one in named if one.get("state") != "absent"]
    for index, team in enumerate(teams):
        found += _team_problems(f"gpu_teams[{index}]", team, class_names)
    return found + _duplicates(teams) + _duplicate_classes([one["name"] for one in named])


def _wrong(who: str, value: t.Any, where: str, what: str, allowed: str) -> Finding:
    prefix = f"Team {who}: " if who else ""
    return finding("tenancy", value, f"{prefix}{where} {what}.", allowed, where)


def _unknown_keys(who: str, mapping: t.Mapping[str, t.Any], known: t.Sequence[str], where: str) -> list[Finding]:
    found = []
    for key in mapping:
        if key in known:
            continue
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f", did you mean {close[0]}?" if close else ""
        found.append(_wrong(who, key, where, f"has the unknown key {key!r}{hint}", ", ".join(known)))
    return found


def _team_problems(where: str, team: t.Any, class_names: t.Sequence[str]) -> list[Finding]:
    if not isinstance(team, dict):
        return [_wrong("", team, where, f"is {team!r}, not a team", "a mapping with the key name")]
    who = str(team.get("name", "without a name"))
    found = _unknown_keys(who, team, TEAM_KEYS, where)
    if "name" not in team:
        found.append(_wrong(who, "", f"{where}.name", "is missing", "a DNS label such as vision"))
    else:
        found += _name_problem(who, team["name"], f"{where}.name")
    if team.get("namespace") is not None:
        found += _name_problem(who, team["namespace"], f"{where}.namespace")
    if _RESERVED_NAMESPACES.fullmatch(str(team.get("namespace") or who)):
        what = f"would be the namespace {team.get('namespace') or who}, which belongs to Kubernetes"
        found.append(_wrong(who, team.get("namespace", who), f"{where}.namespace", what, "any other name"))
    found += _choice(who, team.get("state", "present"), ("present", "absent"), f"{where}.state")
    found += _choice(who, team.get("pod_security", "restricted"), POD_SECURITY, f"{where}.pod_security")
    found += _count(who, team.get("max_gpus_per_container", 0), f"{where}.max_gpus_per_container")
    found += _quota_problems(who, team.get("quota") or {}, f"{where}.quota")
    found += _quantities(who, team.get("container_defaults") or {}, ("cpu", "memory"), f"{where}.container_defaults")
    for key in ("members", "viewers"):
        found += _subject_problems(who, team.get(key) or {}, f"{where}.{key}")
    found += _network_problems(who, team.get("network") or {}, f"{where}.network")
    for name in team.get("priority_classes") or []:
        found += _choice(who, name, class_names, f"{where}.priority_classes")
    for key in ("labels", "annotations"):
        found += _texts(who, team.get(key) or {}, f"{where}.{key}")
    return found


def _mapping(who: str, value: t.Any, known: t.Sequence[str], where: str) -> list[Finding]:
    if isinstance(value, dict):
        return _unknown_keys(who, value, known, where)
    return [_wrong(who, value, where, f"is {value!r}, not a mapping", f"a mapping with the keys {', '.join(known)}")]


def _name_problem(who: str, name: t.Any, where: str) -> list[Finding]:
    if isinstance(name, str) and _LABEL.fullmatch(name):
        return []
    allowed = "1 to 63 lower-case letters, digits and dashes, no dash at the ends"
    return [_wrong(who, name, where, f"is {name!r}, which is no name for a namespace", allowed)]


def _choice(who: str, value: t.Any, choices: t.Sequence[str], where: str) -> list[Finding]:
    if value in choices:
        return []
    close = difflib.get_close_matches(str(value).lower(), choices, n=1)
    hint = f", did you mean {close[0]}?" if close else ""
    return [_wrong(who, value, where, f"is {value!r}{hint}", ", ".join(choices) or "nothing, none are defined")]


def _count(who: str, value: t.Any, where: str) -> list[Finding]:
    """Devices are handed out whole, so a count is a whole number; text of digits is fine."""
    if not isinstance(value, bool) and re.fullmatch(r"\d+", str(value)):
        return []
    return [_wrong(who, value, where, f"is {value!r}", "a whole number, 0 or more")]


def _quantities(who: str, values: t.Any, known: t.Sequence[str], where: str) -> list[Finding]:
    found = _mapping(who, values, known, where)
    for key in known if isinstance(values, dict) else ():
        if key in values and (isinstance(values[key], bool) or not _QUANTITY.fullmatch(str(values[key]))):
            allowed = "a quantity of Kubernetes, such as 64, 500m or 512Gi"
            found.append(_wrong(who, values[key], f"{where}.{key}", f"is {values[key]!r}", allowed))
    return found


def _quota_problems(who: str, quota: t.Any, where: str) -> list[Finding]:
    found = _mapping(who, quota, QUOTA_KEYS, where)
    if not isinstance(quota, dict):
        return found
    for key in ("gpus", "shared_gpus", "pods"):
        found += _count(who, quota.get(key, 0), f"{where}.{key}")
    measured = {key: quota[key] for key in ("cpu", "memory", "storage") if key in quota}
    found += _quantities(who, measured, ("cpu", "memory", "storage"), where)
    profiles = quota.get("mig") or {}
    if not isinstance(profiles, dict):
        return [*found, _wrong(who, profiles, f"{where}.mig", "is not a mapping", "counts by profile, 1g.10gb: 2")]
    for profile, count in profiles.items():
        if not _MIG_PROFILE.fullmatch(str(profile)):
            allowed = "a profile as NVIDIA writes it, such as 1g.10gb, 1g.10gb+me or 3g.40gb"
            found.append(_wrong(who, profile, f"{where}.mig", f"has {profile!r}, which is no MIG profile", allowed))
        found += _count(who, count, f"{where}.mig[{profile}]")
    return found


def _strings(who: str, values: t.Any, where: str) -> list[Finding]:
    if isinstance(values, (list, tuple)) and all(isinstance(value, str) and value for value in values):
        return []
    return [_wrong(who, values, where, f"is {values!r}", "a list of names")]


def _texts(who: str, values: t.Any, where: str) -> list[Finding]:
    if isinstance(values, dict) and all(isinstance(value, str) for value in values.values()):
        return []
    return [_wrong(who, values, where, f"is {values!r}", "texts by name; numbers and true need quotes")]


def _subject_problems(who: str, subjects: t.Any, where: str) -> list[Finding]:
    found = _mapping(who, subjects, SUBJECT_KEYS, where)
    for key in SUBJECT_KEYS if isinstance(subjects, dict) else ():
        found += _strings(who, subjects.get(key) or [], f"{where}.{key}")
    return found


def _network_problems(who: str, network: t.Any, where: str) -> list[Finding]:
    found = _mapping(who, network, NETWORK_KEYS, where)
    if not isinstance(network, dict):
        return found
    if not isinstance(network.get("isolated", True), bool):
        found.append(_wrong(who, network["isolated"], f"{where}.isolated", "is not a boolean", "true or false"))
    for key in ("allow_from_namespaces", "allow_to_namespaces"):
        values = network.get(key) or []
        wrong = _strings(who, values, f"{where}.{key}")
        found += wrong or [problem for name in values for problem in _name_problem(who, name, f"{where}.{key}")]
    cidrs = network.get("allow_to_cidrs") or []
    wrong = _strings(who, cidrs, f"{where}.allow_to_cidrs")
    return found + (wrong or [problem for cidr in cidrs for problem in _cidr(who, cidr, f"{where}.allow_to_cidrs")])


def _cidr(who: str, cidr: str, where: str) -> list[Finding]:
    try:
        ipaddress.ip_network(cidr)
    except ValueError as error:
        return [_wrong(who, cidr, where, f"has {cidr!r}: {error}", "networks such as 10.20.0.0/16")]
    if "/" not in cidr:
        return [_wrong(who, cidr, where, f"has {cidr!r} without a prefix length", f"{cidr}/32 for one address")]
    return []


def _class_problems(index: int, wanted: t.Any) -> list[Finding]:
    where = f"gpu_tenancy_priority_classes[{index}]"
    found = _mapping("", wanted, CLASS_KEYS, where)
    if not isinstance(wanted, dict):
        return found
    found += _choice("", wanted.get("state", "present"), ("present", "absent"), f"{where}.state")
    name, value = str(wanted.get("name", "")), wanted.get("value")
    if not _SUBDOMAIN.fullmatch(name) or name.startswith("system-"):
        allowed = "lower-case letters, digits, dashes and points; system- belongs to Kubernetes"
        found.append(_wrong("", name, f"{where}.name", f"is {name!r}", allowed))
    if wanted.get("state") == "absent":
        return found
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > HIGHEST_PRIORITY:
        allowed = f"a whole number from -{HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}"
        found.append(_wrong("", value, f"{where}.value", f"is {value!r}", allowed))
    return found


def _duplicates(teams: t.Sequence[t.Any]) -> list[Finding]:
    found = []
    first_name: dict[str, int] = {}
    first_namespace: dict[str, str] = {}
    for index, team in enumerate(teams):
        if not isinstance(team, dict) or "name" not in team:
            continue
        name, namespace = str(team["name"]), namespace_of(team)
        if name in first_name:
            what = f"is {name!r}, the name of gpu_teams[{first_name[name]}] too"
            found.append(_wrong(name, name, f"gpu_teams[{index}].name", what, "each team once"))
        elif namespace in first_namespace:
            what = f"is {namespace!r}, the namespace of team {first_namespace[namespace]} too"
            found.append(_wrong(name, namespace, f"gpu_teams[{index}].namespace", what, "a namespace for each team"))
        first_name.setdefault(name, index)
        first_namespace.setdefault(namespace, name)
    return found


def _duplicate_classes(names: t.Sequence[str]) -> list[Finding]:
    where = "gpu_tenancy_priority_classes"
    return [
        _wrong("", name, where, f"has the class {name!r} several times", "each class once")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
