# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which nodes a maintenance run may take out of service next: slots, batches, stop rule, other people's claims.

Pure. ``max_unavailable`` holds for the whole fleet and counts every node that is out of service, whoever took it out.
A node is claimed only when no more than that many are out afterwards, the node included. That leaves one way for a node
that is out already, cordoned by a person say: it takes no further slot, but neither does it jump a limit that is used
up.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_state import (
    FAILED,
    ROLLED_BACK,
    Keys,
    Standing,
    standing_of,
)
from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import Node

# How other tools say that they are working on a node.
DRIVER_UPGRADE_LABEL = "nvidia.com/gpu-driver-upgrade-state"
DRIVER_UPGRADE_IDLE = ("", "upgrade-done", "upgrade-required")
SENTINEL_LABEL = "dgxc.nvidia.com/nvsentinel-state"
KURED_ANNOTATION = "weave.works/kured-reboot-in-progress"
PARTITION_ANNOTATION = "onprem.gpu/partition"
AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"
MACHINE_CONFIG = "machineconfiguration.openshift.io/"

_AMOUNT = re.compile(r"(?P<count>[0-9]{1,6})(?P<percent>%?)")


class ClaimError(ValueError):
    """Limits that can never be met, or text that is none."""


# --- Limits ---


@dataclass(frozen=True)
class Amount:
    """A number of nodes, or a percentage of them."""

    count: int
    percent: bool = False

    def of(self, total: int) -> int:
        """How many of a total; percentages are rounded down, and it is never less than one."""
        return max(1, total * self.count // 100) if self.percent else self.count


def parse_amount(text: str, name: str) -> Amount:
    """Raises ClaimError naming the option."""
    found = _AMOUNT.fullmatch(text.strip())
    count = int(found["count"]) if found else 0
    percent = bool(found and found["percent"])
    if count < 1 or (percent and count > 100):
        raise ClaimError(f"{name} is {text!r}; allowed is a whole number from 1, or a percentage from '1%' to '100%'")
    return Amount(count, percent)


@dataclass(frozen=True)
class Rules:
    """What a run may do."""

    max_unavailable: Amount
    max_failures: Amount
    batch_label: str = ""
    gang_aware: bool = False
    allow_not_ready: bool = False
    force: bool = False


# --- The fleet ---


@dataclass(frozen=True)
class Member:
    """What claims depend on, of one node."""

    name: str
    standing: Standing
    ready: bool
    cordoned: bool
    labels: t.Mapping[str, str] = field(default_factory=dict)
    holders: tuple[str, ...] = ()

    @property
    def out(self) -> str:
        """Why it serves no pods; '' when it does."""
        if self.standing.active:
            return "in maintenance"
        if not self.ready:
            return "NotReady"
        return "cordoned" if self.cordoned else ""


def member_of(node: Node, keys: Keys, ready: bool) -> Member:
    return Member(
        name=node["metadata"]["name"],
        standing=standing_of(node, keys),
        ready=ready,
        cordoned=bool((node.get("spec") or {}).get("unschedulable")),
        labels=node["metadata"].get("labels") or {},
        holders=tuple(foreign_holders(node)),
    )


def foreign_holders(node: Node) -> list[str]:
    """Who else is working on the node, by what they write on it."""
    labels = node["metadata"].get("labels") or {}
    annotations = node["metadata"].get("annotations") or {}
    taints = {taint["key"] for taint in (node.get("spec") or {}).get("taints") or []}
    drains = {annotations.get(f"{MACHINE_CONFIG}{name}", "") for name in ("desiredDrain", "lastAppliedDrain")}
    signs = {
        f"the GPU Operator upgrades its driver ({DRIVER_UPGRADE_LABEL}={labels.get(DRIVER_UPGRADE_LABEL)})": labels.get(
            DRIVER_UPGRADE_LABEL, ""
        )
        not in DRIVER_UPGRADE_IDLE,
        f"NVSentinel has it ({SENTINEL_LABEL}={labels.get(SENTINEL_LABEL)})": bool(labels.get(SENTINEL_LABEL)),
        f"kured reboots it ({KURED_ANNOTATION})": KURED_ANNOTATION in annotations,
        f"it is being partitioned ({PARTITION_ANNOTATION})": PARTITION_ANNOTATION in annotations,
        f"the cluster autoscaler deletes it (taint {AUTOSCALER_TAINT})": AUTOSCALER_TAINT in taints,
        f"the machine config operator drains it ({MACHINE_CONFIG}desiredDrain)": len(drains) > 1,
    }
    return [sign for sign, present in signs.items() if present]


# --- The plan ---


@dataclass(frozen=True)
class Plan:
    """What a claim does and why not more.

    ``chosen`` are claimed now, ``batches`` is the order in which all would be as things stand, the chosen ones first.
    ``skipped`` are not wanted or not possible, ``unavailable`` are out of service, each with the reason. ``stopped``
    says why nothing may be claimed.
    """

    chosen: list[str]
    remaining: list[str]
    batches: list[list[str]]
    skipped: dict[str, str]
    unavailable: dict[str, str]
    limit: int
    failures: list[str]
    stopped: str


def plan_claims(
    fleet: t.Mapping[str, Member],
    targets: t.Mapping[str, str],
    rules: Rules,
    run: str,
    *,
    announced: t.Collection[str] = (),
    started: int = 0,
) -> Plan:
    """What a run claims among the nodes of ``targets``, in its order.

    ``announced`` are nodes that a claim said it would take and that are not seen taken yet: they count as out, and are
    the first to be chosen. ``started`` is how many nodes the run has claimed so far. Raises ClaimError when a gang can
    never fit.
    """
    skipped = {name: why for name, target in targets.items() if (why := _unwanted(fleet[name], target, rules, run))}
    wanted = [name for name in targets if name not in skipped]
    out = {name: member.out for name, member in fleet.items() if member.out}
    out.update({name: "about to be claimed" for name in announced if name not in out})
    own = [member for member in fleet.values() if member.standing.run == run]
    busy = {_domain(member, rules) for member in own if member.standing.active}
    failures = sorted(member.name for member in own if member.standing.state in (FAILED, ROLLED_BACK))
    limit = rules.max_unavailable.of(len(fleet))
    groups = _groups(wanted, fleet, rules, first={*announced, *busy})
    _refuse_large_gangs(groups, limit, rules)
    stopped = _stopped(failures, started, rules)
    chosen = [] if stopped else _choice(groups, set(out), limit, rules, busy)
    in_work = {name for name, member in fleet.items() if member.standing.active} | set(announced)
    return Plan(
        chosen=chosen,
        remaining=[name for name in wanted if name not in set(chosen)],
        batches=[] if stopped else _batches(chosen, groups, set(out) - in_work, limit, rules),
        skipped=skipped,
        unavailable=dict(sorted(out.items())),
        limit=limit,
        failures=failures,
        stopped=stopped,
    )


def _unwanted(member: Member, target: str, rules: Rules, run: str) -> str:
    """Why a node is not claimed, whatever the limits; '' when it may be."""
    standing = member.standing
    foreign = standing.in_maintenance and standing.run != run
    rolled_back = standing.state == ROLLED_BACK and standing.target == target
    reasons: tuple[tuple[t.Any, str], ...] = (
        (standing.damage, f"unreadable: {standing.damage}"),
        (foreign, f"orphaned: in maintenance by run {standing.run} ({standing.place}); adopt it"),
        (standing.state == FAILED, f"failed: in {standing.place}; retry or abort it"),
        (standing.in_maintenance, f"in_maintenance: {standing.state}"),
        (rolled_back and not rules.force, f"rolled_back: by run {standing.run}; set force to true to try again"),
        (standing.achieved == target and not rules.force, "target_met"),
        (member.holders, f"held: {'; '.join(member.holders)}"),
        (not member.ready and not rules.allow_not_ready, "not_ready"),
    )
    return next((why for applies, why in reasons if applies), "")


def _domain(member: Member, rules: Rules) -> str:
    """The domain of the batch label a node belongs to; one that does not carry the label is its own."""
    if not rules.batch_label:
        return ""
    value = member.labels.get(rules.batch_label)
    return f"node {member.name}" if value is None else f"{rules.batch_label}={value}"


def batch_of(member: Member, rules: Rules) -> str:
    """What is noted on a node whose whole domain moves together."""
    return _domain(member, rules) if rules.gang_aware and rules.batch_label in member.labels else ""


Groups = dict[str, list[str]]


def _groups(wanted: t.Iterable[str], fleet: t.Mapping[str, Member], rules: Rules, first: t.Collection[str]) -> Groups:
    """Domain -> its wanted nodes, in the order they were asked for; domains and nodes of ``first`` come before."""
    groups: Groups = {}
    for name in sorted(wanted, key=lambda name: name not in first):
        groups.setdefault(_domain(fleet[name], rules), []).append(name)
    return dict(sorted(groups.items(), key=lambda group: group[0] not in first))


def _refuse_large_gangs(groups: Groups, limit: int, rules: Rules) -> None:
    for domain, names in groups.items() if rules.gang_aware else ():
        if len(names) > limit:
            more = ", ..." if len(names) > 5 else ""
            raise ClaimError(
                f"{len(names)} nodes of {domain} have to go together ({', '.join(names[:5])}{more}), but "
                f"max_unavailable allows {limit}; raise it, or set gang_aware to false"
            )


def _choice(groups: Groups, out: set[str], limit: int, rules: Rules, busy: t.Collection[str]) -> list[str]:
    """As many as the limit lets through, of one domain at a time."""
    if rules.gang_aware:
        return _whole_gangs(groups, out, limit)
    chosen: list[str] = []
    for names in [names for domain, names in groups.items() if not busy or domain in busy]:
        for name in names:
            if len(out.union(chosen, [name])) <= limit:
                chosen.append(name)
        if chosen:
            return chosen
    return chosen


def _whole_gangs(groups: Groups, out: set[str], limit: int) -> list[str]:
    """As many domains as fit. The first that does not fit ends it, or smaller ones would keep it waiting for ever."""
    chosen: list[str] = []
    for names in groups.values():
        if len(out.union(chosen, names)) > limit:
            break
        chosen += names
    return chosen


def _batches(chosen: list[str], groups: Groups, out: set[str], limit: int, rules: Rules) -> list[list[str]]:
    """One choice after the other, each when the one before is back in service. Ends where nothing fits any more."""
    batches: list[list[str]] = []
    following = chosen or _choice(groups, out, limit, rules, ())
    while following:
        batches.append(following)
        taken = set(following)
        groups = {domain: [name for name in names if name not in taken] for domain, names in groups.items()}
        following = _choice({domain: names for domain, names in groups.items() if names}, out, limit, rules, ())
    return batches


def _stopped(failures: t.Sequence[str], started: int, rules: Rules) -> str:
    allowed = rules.max_failures.of(started)
    if len(failures) < allowed:
        return ""
    return (
        f"{len(failures)} of {started} nodes failed or were rolled back ({', '.join(failures)}), and max_failures is "
        f"{allowed}; nothing more is claimed, what is under way may end"
    )
