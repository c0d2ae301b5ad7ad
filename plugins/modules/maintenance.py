#!/usr/bin/python
# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: maintenance
short_description: Take Kubernetes nodes through a rolling maintenance that survives crashes of the controller
version_added: 0.2.0
description:
  - Keeps the books of a rolling maintenance on the cluster itself. A Lease is the lock, so that one run works on a pool
    of nodes at a time. Label and annotations of each node say which state it is in and what it was like before. A
    playbook that uses this module can be killed anywhere and started again, on another controller as well.
  - It does not drain, upgrade or reboot. It says which nodes may be taken out of service next, cordons them, notes
    each step before it is taken, and gives back exactly what was found. A node that was cordoned before stays cordoned.
  - >-
    The states are V(claimed), V(cordoned), V(waiting-jobs), V(evicting), V(upgrading), V(rebooting), V(validating) and
    V(restoring), in this order, and V(failed). State S means that the work of S may have been done in part, so the work
    of every state must be repeatable, and going on after a crash means doing the work of the stored state again.
  - Each transition is one patch of the node, made only if the node belongs to this run, in the state it should be in,
    and if it was not written under a later lock. A Node is never created.
  - All nodes are handled in one call.
author:
  - Contributors to the onprem.gpu collection (@onprem-gpu)
extends_documentation_fragment:
  - onprem.gpu.cluster
attributes:
  check_mode:
    support: full
    description: Shows the plan and writes nothing, neither nodes nor lock; see O(check_mode_server).
  diff_mode:
    support: full
    description: One entry for each node that changes, limited to what maintenance writes.
  idempotent:
    support: partial
    details:
      - Transitions of nodes are idempotent. A node that is in the state that was asked for, or past it, is left as it
        is.
      - V(start) writes the lock each time, because it fences off an earlier process of the same run. V(renew) writes it
        too, and other actions do so when a third of O(lock_duration_seconds) is over; that counts as a change.
    description: Repeating an action does no harm.
options:
  action:
    description:
      - V(start) takes the lock of the pool, or takes it up again for O(run). What an earlier process of this run still
        tries is refused from then on.
      - V(claim) takes as many of the nodes as O(max_unavailable) lets through, saves what they are like, and brings
        them to V(claimed).
      - V(advance) brings nodes to the state O(to).
      - V(renew) makes the lock last O(lock_duration_seconds) from now. Call it while long work runs on hosts, and
        before a step that cannot be undone.
      - V(fail) notes on nodes why work on them stops. They stay cordoned if they were.
      - V(retry) brings failed nodes back to the state in which they failed. A node that failed before it was cordoned
        is let go, so that it can be claimed again.
      - V(roll_back) brings nodes that are changed and unproven, failed ones too, back to V(upgrading), once. The caller
        installs what was there before; see O(nodes[].record).
      - V(restore) gives validated nodes back to service as they were found and notes the target as achieved.
      - V(abort) gives nodes back without a result. What is being upgraded or rebooted cannot be interrupted and is an
        error.
      - V(adopt) takes over nodes of runs that are dead. Their states and what they were like before stay.
      - V(release) leaves the lock to others. Nodes that are still in maintenance keep their states and can be adopted.
      - V(status) reads where every node stands, and who holds the lock.
    type: str
    choices: [start, claim, advance, renew, fail, retry, roll_back, restore, abort, adopt, release, status]
    required: true
  run:
    description:
      - Name of the run. V(start) makes one up when it is not set, and returns it; give that name to go on with a run
        that was killed. Needed for all other actions but V(status).
      - Two runs at the same time need different names. The second V(start) with the same name stops the first run.
    type: str
  token:
    description:
      - Fencing token that V(start) returned. Needed for all other actions but V(status).
    type: int
  pool:
    description:
      - Name of the set of nodes that has one lock and one budget.
    type: str
    default: gpu
  owner:
    description:
      - Who works here, for people who meet the lock. A link to the job is a good choice. Default is user and host
        name of the controller.
    type: str
  lock_namespace:
    description:
      - Namespace of the Lease, which is named C(onprem-gpu-maint-<pool>). It must exist.
    type: str
    default: kube-system
  lock_duration_seconds:
    description:
      - How long the lock stays ours without another call of this module. Make it longer than the longest work between
        two calls. The work of V(upgrading) and V(rebooting) begins with the whole of it.
    type: int
    default: 900
  lock_timeout_seconds:
    description:
      - How long V(start) waits for a lock that another run holds. Slices of a job that wait here work one after the
        other, each with the whole budget.
    type: int
    default: 0
  break_lock:
    description:
      - Whether V(start) takes the lock though another run holds it. Only right when it is certain that its process is
        dead.
    type: bool
    default: false
  label_selector:
    description:
      - The fleet, as a label selector. O(max_unavailable) counts among its nodes. Needed for V(start) and V(claim), and
        it must match something.
      - For V(status) the nodes to report; all nodes by default.
    type: str
  names:
    description:
      - Nodes the action is about. Needed for V(claim), V(advance), V(fail), V(roll_back) and V(restore), unless
        O(nodes) is set.
      - V(claim) chooses among them, in their order.
      - V(retry) and V(abort) take all nodes of the run by default, V(adopt) all orphaned nodes of the pool.
      - V(start) only checks that they are in the fleet, before it takes the lock.
    type: list
    elements: str
  nodes:
    description:
      - As O(names), for nodes with data of their own. Both may be set.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the node.
        type: str
        required: true
      target:
        description: As O(target), for this node.
        type: str
      record:
        description: For V(claim), data to keep on the node, such as the versions to go back to. At most 512 bytes as
          JSON.
        type: dict
      boot_id:
        description: For V(advance) to V(rebooting), boot id of the running system. Default is what the kubelet has
          reported.
        type: str
      error:
        description: As O(error), for this node.
        type: str
  target:
    description:
      - For V(claim), a hash of what is to be installed. A node that has achieved it already is skipped.
    type: str
  max_unavailable:
    description:
      - For V(claim), how many nodes of the fleet may be out of service at the same time, as a number or a percentage
        such as V('10%'). A percentage is rounded down, but is never less than one node.
      - Every node counts that is cordoned, not Ready or in maintenance, whoever took it out. A node is claimed only
        when no more than this many are out afterwards.
    type: str
    default: "1"
  max_failures:
    description:
      - For V(claim), with how many failed or rolled back nodes of this run nothing more is claimed, as a number or as a
        percentage of the nodes claimed so far. Rounded as O(max_unavailable).
    type: str
    default: "1"
  batch_label:
    description:
      - For V(claim), label of the nodes whose value is their domain, such as a rack. Nodes of one domain are claimed at
        a time. A node without the label is a domain of its own.
    type: str
  gang_aware:
    description:
      - For V(claim), whether nodes of one domain of O(batch_label) are claimed all at once or not at all, because the
        jobs on them stop together anyway. As many domains are claimed as O(max_unavailable) lets through. None of
        them gets past V(cordoned) before all are cordoned.
    type: bool
    default: false
  allow_not_ready:
    description:
      - For V(claim), whether nodes that are not Ready may be claimed.
    type: bool
    default: false
  force:
    description:
      - For V(claim), whether nodes that have achieved O(target), or were rolled back from it, are claimed all the same.
        Right where hosts have drifted since.
    type: bool
    default: false
  operand_labels:
    description:
      - For V(claim), labels by which the GPU Operator's pods are paused. Those with the value V('true') become
        V(paused-for-driver-upgrade) with the state V(upgrading), and V('true') again with V(validating).
    type: list
    elements: str
    default:
      - nvidia.com/gpu.deploy.device-plugin
      - nvidia.com/gpu.deploy.gpu-feature-discovery
      - nvidia.com/gpu.deploy.dcgm-exporter
      - nvidia.com/gpu.deploy.dcgm
      - nvidia.com/gpu.deploy.nvsm
      - nvidia.com/gpu.deploy.mig-manager
      - nvidia.com/gpu.deploy.operator-validator
  medik8s_namespace:
    description:
      - For V(claim), namespace of the leases named C(node-<name>) by which medik8s' operators hold nodes. Nodes they
        hold are skipped. Not looked at by default.
    type: str
  to:
    description:
      - For V(advance), the state to enter. A node that is past it stays where it is.
      - V(cordoned) cordons and taints the node. V(upgrading) pauses the operator's pods, V(rebooting) notes the boot
        id. V(validating) resumes the operator's pods and takes the taint off for them; after V(rebooting) it needs
        another boot id and a kubelet that reports Ready.
    type: str
    choices: [cordoned, waiting-jobs, evicting, upgrading, rebooting, validating, restoring]
  deadline_seconds:
    description:
      - For V(advance), how much time the state has. The moment it ends is kept on the node, so that a resumed run does
        not start the clock again; see RV(nodes.seconds_left).
    type: int
  timeout_seconds:
    description:
      - For V(advance) to V(validating), how long to wait until nodes have rebooted. The lock is renewed meanwhile.
    type: int
    default: 0
  recordon:
    description:
      - For V(advance), whether a node that somebody uncordoned meanwhile is cordoned again. By default it fails.
    type: bool
    default: false
  error:
    description:
      - For V(fail) and V(roll_back), why. At most 512 bytes are kept. No secrets, everybody can read it.
    type: str
  abort_to_service:
    description:
      - For V(abort), whether nodes are put into service that were changed and are not proven.
    type: bool
    default: false
  prefix:
    description:
      - Prefix of the label, the annotations and the taint.
    type: str
    default: onprem.gpu
  check_mode_server:
    description:
      - Whether check mode sends each patch of a node as a dry run, so that admission and the user's rights are tested
        too. V(false) predicts from what was read alone.
    type: bool
    default: true
notes:
  - 'Needs these rights: nodes C(get), C(list), C(patch), and C(watch) with O(timeout_seconds); leases of
    coordination.k8s.io C(get), C(create), C(update) in O(lock_namespace), and C(list) in O(medik8s_namespace).'
  - 'Written on nodes, with O(prefix) V(onprem.gpu): the label C(onprem.gpu/maint) (V(active) or V(failed)), annotations
    C(onprem.gpu/maint-*) and C(onprem.gpu/target), the cordon, and the taint C(onprem.gpu/maintenance:NoSchedule),
    which goes with V(validating), so that the operator''s pods come back.'
  - A node is also skipped while the GPU Operator upgrades its driver, NVSentinel, kured, the machine config operator
    or M(onprem.gpu.mig) by C(onprem.gpu.partition) work on it, or the cluster autoscaler is about to delete it.
seealso:
  - module: onprem.gpu.drain
  - module: onprem.gpu.nodes
"""

EXAMPLES = r"""
# A whole run, one node after the other as the budget allows. What happens on hosts is left out. To go on after a
# crash, start again with the name of the run: the nodes that start returns are where they were.
- name: Take the lock
  onprem.gpu.maintenance:
    action: start
    run: "{{ maintain_run | default(omit) }}"
    label_selector: node-role.kubernetes.io/gpu
    names: "{{ groups['gpu_nodes'] }}"
  register: maintain

- name: Claim the next nodes, waiting for a slot if there is none
  onprem.gpu.maintenance:
    action: claim
    run: "{{ maintain.run }}"
    token: "{{ maintain.token }}"
    label_selector: node-role.kubernetes.io/gpu
    nodes:
      - name: gpu-1
        record: {driver: "570.195.03"}
      - name: gpu-2
        record: {driver: "570.195.03"}
    target: "{{ wishes | to_json | hash('sha256') }}"
    max_unavailable: 10%
    max_failures: "2"
  register: claim
  until: claim.claimed or claim.stopped or not claim.remaining
  retries: 120
  delay: 30

- name: Cordon what was claimed
  onprem.gpu.maintenance:
    action: advance
    to: cordoned
    run: "{{ maintain.run }}"
    token: "{{ maintain.token }}"
    names: "{{ claim.claimed }}"

- name: Note that pods are about to be evicted, and until when
  onprem.gpu.maintenance:
    action: advance
    to: evicting
    deadline_seconds: 3600
    run: "{{ maintain.run }}"
    token: "{{ maintain.token }}"
    names: "{{ claim.claimed }}"
  register: evicting

- name: Evict them
  onprem.gpu.drain:
    nodes: "{{ claim.claimed }}"
    delete_emptydir_data: true
    timeout_seconds: "{{ evicting.nodes.values() | map(attribute='seconds_left') | min }}"

- name: Note that the driver is about to be changed; the lock lasts for as long as that may take
  onprem.gpu.maintenance:
    action: advance
    to: upgrading
    lock_duration_seconds: 1800
    run: "{{ maintain.run }}"
    token: "{{ maintain.token }}"
    names: "{{ claim.claimed }}"

- name: Note the boot that is about to end
  onprem.gpu.maintenance:
    action: advance
    to: rebooting
    run: "{{ maintain.run }}"
    token: "{{ maintain.token }}"
    names: "{{ claim.claimed }}"

- name: Wait until the nodes have rebooted, by their boot ids
  onprem.gpu.maintenance:
    action: advance
    to: validating
    timeout_seconds: 900
    run: "{{ maintain.run }}"
    token: "{{ maintain.token }}"
    names: "{{ claim.claimed }}"

- name: Stop work on a node that does not pass acceptance
  onprem.gpu.maintenance:
    action: fail
    run: "{{ maintain.run }}"
    token: "{{ maintain.token }}"
    names: [gpu-2]
    error: 7 of 8 GPUs are there

- name: Go back once to the driver that the node had; then upgrade, reboot and validate as above
  onprem.gpu.maintenance:
    action: roll_back
    run: "{{ maintain.run }}"
    token: "{{ maintain.token }}"
    names: [gpu-2]
    error: 7 of 8 GPUs are there

- name: Give the others back to service
  onprem.gpu.maintenance:
    action: restore
    run: "{{ maintain.run }}"
    token: "{{ maintain.token }}"
    names: [gpu-1]

- name: Leave the lock to the next run
  onprem.gpu.maintenance:
    action: release
    run: "{{ maintain.run }}"
    token: "{{ maintain.token }}"

# What a killed run left, by a run of another name, once the lock has expired.
- name: Take the lock
  onprem.gpu.maintenance:
    action: start
    label_selector: node-role.kubernetes.io/gpu
    lock_timeout_seconds: 1000
  register: maintain

- name: Take over its nodes
  onprem.gpu.maintenance:
    action: adopt
    run: "{{ maintain.run }}"
    token: "{{ maintain.token }}"

- name: Give back those that are not changed yet
  onprem.gpu.maintenance:
    action: abort
    run: "{{ maintain.run }}"
    token: "{{ maintain.token }}"

- name: Read where every node stands
  onprem.gpu.maintenance:
    action: status
    label_selector: node-role.kubernetes.io/gpu
  register: status

- name: Show it
  ansible.builtin.debug:
    var: status.table
"""

RETURN = r"""
run:
  description: Name of the run.
  returned: when there is one
  type: str
  sample: 20261126-111350-3fa9c1
token:
  description: Fencing token of the lock.
  returned: O(action=start)
  type: int
  sample: 4
resumed:
  description: Whether the lock was this run's before.
  returned: O(action=start)
  type: bool
taken_from:
  description: Run and owner that held the lock before, where it had expired or was broken; empty when it was free.
  returned: O(action=start)
  type: str
lock:
  description:
    - The lock as it is now (in check mode, would be). C(state) is V(mine), V(free), V(expired), V(held) or V(unclear).
      C(owner) is who works there, C(expires_in_seconds) is when others may take it unless it is renewed, C(started) how
      many nodes the run has claimed so far.
  returned: O(action=start), O(action=renew), O(action=status)
  type: dict
  sample:
    lease: kube-system/onprem-gpu-maint-gpu
    state: mine
    run: 20261126-111350-3fa9c1
    owner: ops@controller
    token: 4
    acquired: "2026-11-26T11:13:50.000000Z"
    renewed: "2026-11-26T11:13:50.000000Z"
    duration_seconds: 900
    expires_in_seconds: 915
    started: 0
nodes:
  description: >-
    The nodes the action was about, by name. V(start) returns those of the fleet that are in maintenance, V(claim) those
    that were claimed, V(status) all.
  returned: when the options were valid
  type: dict
  contains:
    changed:
      description: Whether the node was written (in check mode, would be).
      type: bool
    before:
      description: State before.
      type: str
    state:
      description: State now; V(none) when the node is not in maintenance, V(rolled-back) when moreover its last change
        was taken back.
      type: str
    run:
      description: Run it belongs to.
      type: str
    target:
      description: What is to be achieved.
      type: str
    achieved:
      description: Target that was achieved last.
      type: str
    since:
      description: When it entered the state.
      type: str
    attempt:
      description: Which try of the state this is.
      type: int
    seconds_left:
      description: Time left of O(deadline_seconds); null without one.
      type: int
    boot_id:
      description: Boot id before the reboot.
      type: str
    batch:
      description: Domain that moves together, with O(gang_aware=true).
      type: str
    record:
      description: What O(nodes[].record) had.
      type: dict
    found:
      description: What the node was like when it was claimed, C(unschedulable) and C(allocatable) GPUs.
      type: dict
    allocatable:
      description: GPUs it offers now.
      type: dict
    error:
      description: Why it failed, as C(state) in which it failed, C(reason) (V(failed), or V(interfered) when somebody
        put the node back into service) and C(message).
      type: dict
    rolled_back:
      description: Why its change was taken back; empty when it was not.
      type: str
    ready:
      description: Whether the condition Ready is true.
      type: bool
    unschedulable:
      description: Whether the node is cordoned.
      type: bool
    reason:
      description: Why the action failed on this node; see RV(reason). Only there on failure.
      type: str
    msg:
      description: The failure for people. Only there on failure.
      type: str
orphaned:
  description: Nodes in maintenance by other runs of this pool, sorted. They count as unavailable.
  returned: O(action=start), O(action=status)
  type: list
  elements: str
claimed:
  description: Nodes that were claimed now (in check mode, would be).
  returned: O(action=claim)
  type: list
  elements: str
remaining:
  description: Nodes that have to wait for a slot, in the order in which they will be claimed.
  returned: O(action=claim)
  type: list
  elements: str
batches:
  description: The plan, as things stand. Which nodes would be out of service together, one batch after the other.
  returned: O(action=claim)
  type: list
  elements: list
skipped:
  description: >-
    Nodes that are not claimed, with the reason. It begins with V(target_met), V(in_maintenance), V(failed),
    V(rolled_back), V(orphaned), V(held), V(not_ready) or V(unreadable).
  returned: O(action=claim)
  type: dict
unavailable:
  description: Nodes of the fleet that were out of service before this claim, and why.
  returned: O(action=claim)
  type: dict
  sample: {gpu-7: cordoned, gpu-9: NotReady}
limit:
  description: How many may be out of service.
  returned: O(action=claim)
  type: int
failures:
  description: Nodes of this run that failed or were rolled back.
  returned: O(action=claim)
  type: list
  elements: str
stopped:
  description: Why nothing more is claimed; empty as long as O(max_failures) is not reached.
  returned: O(action=claim)
  type: str
table:
  description: Where every node stands, as lines of a table.
  returned: O(action=start), O(action=status)
  type: list
  elements: str
http:
  description: What was sent to the API server; see RV(onprem.gpu.nodes#module:http).
  returned: when the options were valid
  type: dict
reason:
  description:
    - Why it failed. V(lock_held) (another run or process has the lock, so this one must stop), V(conflict) (a node
      belongs to somebody else or was replaced), V(refused), V(timeout), V(not_found), V(forbidden), V(interrupted) or
      V(api_unavailable).
  returned: on failure
  type: str
  sample: lock_held
msg:
  description: One line for people.
  returned: always
  type: str
  sample: "2 nodes: 2 changed, now cordoned"
"""

import getpass
import json
import platform
import re
import secrets
import signal
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import (
    AUTHENTICATION_OPTIONS,
    ClusterError,
    open_cluster,
)
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_claims import (
    ClaimError,
    Member,
    Plan,
    Rules,
    member_of,
    parse_amount,
)
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_lease import Lock
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_lock import RunLock, Terms
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_report import (
    lock_report,
    node_report,
    plan_report,
    state_text,
    sum_text,
    table,
)
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_run import (
    ASK_SERVER,
    COMPUTE,
    Claims,
    Maintenance,
    Wanted,
)
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_state import (
    RECORD_MAX_BYTES,
    STATES,
    Keys,
    Run,
    standing_of,
    view,
)
from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import (
    Node,
    key_problems,
    node_name_problems,
)
from ansible_collections.onprem.gpu.plugins.module_utils.node_write import (
    Written,
    is_ready,
    read_named,
    read_selected,
    unknown_node,
)

NODE_OPTIONS = {
    "name": {"type": "str", "required": True},
    "target": {"type": "str"},
    "record": {"type": "dict"},
    "boot_id": {"type": "str"},
    "error": {"type": "str"},
}
OPERANDS = (
    "device-plugin",
    "gpu-feature-discovery",
    "dcgm-exporter",
    "dcgm",
    "nvsm",
    "mig-manager",
    "operator-validator",
)
ACTIONS = (
    *("start", "claim", "advance", "renew", "fail", "retry", "roll_back", "restore", "abort", "adopt", "release"),
    "status",
)
OPTIONS = {
    **AUTHENTICATION_OPTIONS,
    "action": {"type": "str", "choices": list(ACTIONS), "required": True},
    "run": {"type": "str"},
    "token": {"type": "int", "no_log": False},
    "pool": {"type": "str", "default": "gpu"},
    "owner": {"type": "str"},
    "lock_namespace": {"type": "str", "default": "kube-system"},
    "lock_duration_seconds": {"type": "int", "default": 900},
    "lock_timeout_seconds": {"type": "int", "default": 0},
    "break_lock": {"type": "bool", "default": False},
    "label_selector": {"type": "str"},
    "names": {"type": "list", "elements": "str"},
    "nodes": {"type": "list", "elements": "dict", "options": NODE_OPTIONS},
    "target": {"type": "str"},
    "max_unavailable": {"type": "str", "default": "1"},
    "max_failures": {"type": "str", "default": "1"},
    "batch_label": {"type": "str"},
    "gang_aware": {"type": "bool", "default": False},
    "allow_not_ready": {"type": "bool", "default": False},
    "force": {"type": "bool", "default": False},
    "operand_labels": {
        "type": "list",
        "elements": "str",
        "default": [f"nvidia.com/gpu.deploy.{name}" for name in OPERANDS],
    },
    "medik8s_namespace": {"type": "str"},
    "to": {"type": "str", "choices": list(STATES[1:])},
    "deadline_seconds": {"type": "int"},
    "timeout_seconds": {"type": "int", "default": 0},
    "recordon": {"type": "bool", "default": False},
    "error": {"type": "str"},
    "abort_to_service": {"type": "bool", "default": False},
    "prefix": {"type": "str", "default": "onprem.gpu"},
    "check_mode_server": {"type": "bool", "default": True},
}
# Options that would be a misunderstanding elsewhere, because leaving them aside does not do what was meant.
ONLY_FOR = {
    "to": ("advance",),
    "deadline_seconds": ("advance",),
    "timeout_seconds": ("advance",),
    "recordon": ("advance",),
    "target": ("claim",),
    "record": ("claim",),
    "boot_id": ("advance",),
    "batch_label": ("claim",),
    "gang_aware": ("claim",),
    "force": ("claim",),
    "allow_not_ready": ("claim",),
    "medik8s_namespace": ("claim",),
    "error": ("fail", "roll_back"),
    "abort_to_service": ("abort",),
    "break_lock": ("start",),
    "lock_timeout_seconds": ("start",),
}
NAMES_NEEDED = ("claim", "advance", "fail", "roll_back", "restore")
SMALLEST = {
    "lock_duration_seconds": 1,
    "lock_timeout_seconds": 0,
    "deadline_seconds": 0,
    "timeout_seconds": 0,
    "token": 0,
}
FORMS = {
    "run": re.compile("[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"),
    "pool": re.compile("[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?"),
    "lock_namespace": re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"),
    "target": re.compile("[ -~]{1,128}"),
}

Params = t.Mapping[str, t.Any]
Outcome = dict[str, t.Any]


def main() -> None:
    module = AnsibleModule(
        argument_spec=OPTIONS,
        supports_check_mode=True,
        required_if=[
            ("action", "start", ("label_selector",)),
            ("action", "claim", ("label_selector",)),
            ("action", "advance", ("to",)),
            *(("action", action, ("run", "token")) for action in ACTIONS if action not in ("start", "status")),
            *(("action", action, ("names", "nodes"), True) for action in NAMES_NEEDED),
        ],
    )
    problems = option_problems(module.params)
    if problems:
        module.fail_json(msg="; ".join(problems), reason="refused", changed=False)
    cluster = open_cluster(module)
    terms = Terms(
        pool=module.params["pool"],
        namespace=module.params["lock_namespace"],
        prefix=module.params["prefix"],
        seconds=module.params["lock_duration_seconds"],
    )
    rehearsal = (ASK_SERVER if module.params["check_mode_server"] else COMPUTE) if module.check_mode else ""
    maintenance = Maintenance(cluster, RunLock(cluster, terms), Keys(module.params["prefix"]), rehearsal)
    outcome: Outcome = {"run": module.params["run"]} if module.params["run"] else {}
    obstacle = None
    try:
        outcome.update(STEPS[module.params["action"]](maintenance, module.params))
    except ClaimError as error:
        obstacle = ClusterError("refused", f"{error}. Nothing was claimed.")
    except ClusterError as error:
        obstacle = error
    report(module, maintenance, outcome, obstacle)


# --- What was asked for ---


def option_problems(params: Params) -> list[str]:
    """Everything that is wrong with the options, before any request."""
    action = params["action"]
    problems = [
        f"{option} is only for the action {' or '.join(actions)}, not for {action}"
        for option, actions in ONLY_FOR.items()
        if params.get(option) and action not in actions
    ]
    problems += [
        f"{option} is {params[option]}; allowed is {least} or more"
        for option, least in SMALLEST.items()
        if params[option] is not None and params[option] < least
    ]
    for option in ("max_unavailable", "max_failures"):
        try:
            parse_amount(params[option], option)
        except ClaimError as error:
            problems.append(str(error))
    if params["label_selector"] is not None and not params["label_selector"].strip():
        problems.append("label_selector is empty, which would mean every node; give a selector")
    if params["gang_aware"] and not params["batch_label"]:
        problems.append("gang_aware needs batch_label, which says which nodes belong together")
    needed = {"claim": "target", "fail": "error", "roll_back": "error"}.get(action)
    problems += unset(params, needed) if needed else []
    for option, form in FORMS.items():
        if params[option] is not None and not form.fullmatch(params[option]):
            problems.append(f"{option} is {params[option]!r}; it must match {form.pattern}")
    problems += key_problems("label", Keys(params["prefix"]).label)
    for key in (*params["operand_labels"], *filter(None, [params["batch_label"]])):
        problems += key_problems("label", key)
    for name in params["names"] or []:
        problems += node_name_problems(name)
    for position, entry in enumerate(params["nodes"] or []):
        problems += [f"nodes[{position}] ({entry['name']}): {problem}" for problem in entry_problems(params, entry)]
    return problems


def entry_problems(params: Params, entry: Params) -> list[str]:
    """What is wrong with one node's own data."""
    problems = node_name_problems(entry["name"])
    if sum(each["name"] == entry["name"] for each in params["nodes"]) > 1:
        problems.append("this node is in the list twice; put all its data into one entry")
    problems += [
        f"{option} is only for the action {' or '.join(actions)}, not for {params['action']}"
        for option, actions in ONLY_FOR.items()
        if entry.get(option) and params["action"] not in actions
    ]
    size = len(json.dumps(entry["record"] or {}).encode())
    if size > RECORD_MAX_BYTES:
        problems.append(f"record takes {size} bytes as JSON; allowed are {RECORD_MAX_BYTES}")
    return problems


def unset(params: Params, option: str) -> list[str]:
    """What is wrong when an option is set neither for all nodes nor for each of them."""
    missing = [name for name in asked(params) or [] if not own_value(params, name, option)]
    return [f"{option} is not set for {', '.join(missing)}"] if missing else []


def asked(params: Params) -> list[str] | None:
    """The names that were given, in their order; None when none were."""
    if params["names"] is None and params["nodes"] is None:
        return None
    return list(dict.fromkeys([*(params["names"] or []), *(entry["name"] for entry in params["nodes"] or [])]))


def own_value(params: Params, name: str, option: str) -> t.Any:
    """An option of one node: its own, or the common one."""
    own = next((entry[option] for entry in params["nodes"] or [] if entry["name"] == name), None)
    return params.get(option) if own is None else own


# --- Steps ---


def start(maintenance: Maintenance, params: Params) -> Outcome:
    now = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    run = params["run"] or f"{now}-{secrets.token_hex(3)}"
    started = maintenance.start(
        run,
        params["owner"] or f"{getpass.getuser()}@{platform.node()}",
        params["label_selector"],
        asked(params) or [],
        break_lock=params["break_lock"],
        wait_seconds=params["lock_timeout_seconds"],
    )
    orphaned = sorted(maintenance.orphans(run, started.nodes))
    concerned = {
        name: node for name, node in started.nodes.items() if standing_of(node, maintenance.keys).in_maintenance
    }
    resumed = started.before is not None and started.before.run == run
    verb = "goes on" if resumed else "begins"
    return {
        "run": run,
        "token": started.lock.transitions,
        "resumed": resumed,
        "taken_from": "" if resumed or started.before is None else started.before.holder,
        "orphaned": orphaned,
        "nodes": {name: shown(maintenance, node) for name, node in sorted(concerned.items())},
        "lock": shown_lock(maintenance, started.lock, run),
        "table": shown_table(maintenance, concerned, orphaned),
        "changed": True,
        "msg": f"Run {run} {verb}. {sum_text(members(maintenance, started.nodes))}, {len(orphaned)} orphaned",
    }


def claim(maintenance: Maintenance, params: Params) -> Outcome:
    wanted = {
        name: Wanted(own_value(params, name, "target"), own_value(params, name, "record") or {})
        for name in asked(params) or []
    }
    rules = Rules(
        max_unavailable=parse_amount(params["max_unavailable"], "max_unavailable"),
        max_failures=parse_amount(params["max_failures"], "max_failures"),
        batch_label=params["batch_label"] or "",
        gang_aware=params["gang_aware"],
        allow_not_ready=params["allow_not_ready"],
        force=params["force"],
    )
    maintenance.claim(
        run_of(params),
        Claims(
            wanted=wanted,
            rules=rules,
            selector=params["label_selector"],
            operand_labels=params["operand_labels"],
            medik8s_namespace=params["medik8s_namespace"] or "",
        ),
    )
    return {}


def advance(maintenance: Maintenance, params: Params) -> Outcome:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    maintenance.advance(
        run_of(params),
        asked(params) or [],
        params["to"],
        boot_ids={entry["name"]: entry["boot_id"] or "" for entry in params["nodes"] or []},
        deadline_seconds=params["deadline_seconds"],
        recordon=params["recordon"],
        wait_seconds=params["timeout_seconds"],
    )
    return {}


def renew(maintenance: Maintenance, params: Params) -> Outcome:
    lock = maintenance.renew(run_of(params))
    return {
        "lock": shown_lock(maintenance, lock, params["run"]),
        "changed": True,
        "msg": f"Run {params['run']} holds the lock for {params['lock_duration_seconds']} s more",
    }


def fail(maintenance: Maintenance, params: Params) -> Outcome:
    maintenance.fail(run_of(params), errors(params))
    return {}


def roll_back(maintenance: Maintenance, params: Params) -> Outcome:
    maintenance.roll_back(run_of(params), errors(params))
    return {}


def errors(params: Params) -> dict[str, str]:
    return {name: own_value(params, name, "error") for name in asked(params) or []}


def retry(maintenance: Maintenance, params: Params) -> Outcome:
    maintenance.retry(run_of(params), asked(params))
    return {}


def restore(maintenance: Maintenance, params: Params) -> Outcome:
    maintenance.restore(run_of(params), asked(params) or [])
    return {}


def abort(maintenance: Maintenance, params: Params) -> Outcome:
    maintenance.abort(run_of(params), asked(params), params["abort_to_service"])
    return {}


def adopt(maintenance: Maintenance, params: Params) -> Outcome:
    maintenance.adopt(run_of(params), asked(params))
    return {}


def release(maintenance: Maintenance, params: Params) -> Outcome:
    held = maintenance.release(run_of(params))
    return {"changed": held, "msg": f"Run {params['run']} {'leaves' if held else 'does not hold'} the lock"}


def status(maintenance: Maintenance, params: Params) -> Outcome:
    lock = maintenance.lock.read()
    names = asked(params)
    if names is None:
        nodes = read_selected(maintenance.cluster, params["label_selector"] or "")
    else:
        nodes = read_named(maintenance.cluster, names)
    if not nodes:
        raise ClusterError("not_found", f"No node of {maintenance.cluster.where} was asked for. Check the selector.")
    for name in set(names or []) - set(nodes):
        maintenance.written[name] = Written(False, None, None, unknown_node(maintenance.cluster, name))
    holder = lock.run if lock and lock.holder else ""
    orphaned = sorted(maintenance.orphans(holder, nodes))
    return {
        "nodes": {name: shown(maintenance, node) for name, node in sorted(nodes.items())},
        "orphaned": orphaned,
        "lock": shown_lock(maintenance, lock, params["run"] or ""),
        "table": shown_table(maintenance, nodes, orphaned),
        "msg": sum_text(members(maintenance, nodes)),
    }


STEPS: dict[str, t.Callable[[Maintenance, Params], Outcome]] = {
    "start": start,
    "claim": claim,
    "advance": advance,
    "renew": renew,
    "fail": fail,
    "retry": retry,
    "roll_back": roll_back,
    "restore": restore,
    "abort": abort,
    "adopt": adopt,
    "release": release,
    "status": status,
}


# --- What is told ---


def run_of(params: Params) -> Run:
    return Run(params["run"], params["token"], params["pool"])


def member(maintenance: Maintenance, node: Node) -> Member:
    return member_of(node, maintenance.keys, is_ready(node))


def members(maintenance: Maintenance, nodes: t.Mapping[str, Node]) -> dict[str, Member]:
    return {name: member(maintenance, node) for name, node in nodes.items()}


def shown(maintenance: Maintenance, node: Node) -> Outcome:
    return node_report(node, member(maintenance, node), maintenance.lock.now())


def shown_lock(maintenance: Maintenance, lock: Lock | None, run: str) -> Outcome:
    return lock_report(lock, maintenance.lock.label, run, maintenance.lock.now())


def shown_table(maintenance: Maintenance, nodes: t.Mapping[str, Node], orphaned: list[str]) -> list[str]:
    return table(members(maintenance, nodes), orphaned, maintenance.lock.now())


def written_node(maintenance: Maintenance, written: Written) -> Outcome:
    node = written.after or written.before
    result: Outcome = {"changed": written.changed, **(shown(maintenance, node) if node else {})}
    if written.before:
        result["before"] = state_text(standing_of(written.before, maintenance.keys))
    if written.error:
        result.update(reason=written.error.reason, msg=str(written.error))
    return result


def report(module: AnsibleModule, maintenance: Maintenance, outcome: Outcome, obstacle: ClusterError | None) -> None:
    """End the module, with success or failure, always with the truth about what was changed."""
    written = dict(sorted(maintenance.written.items()))
    nodes = {name: written_node(maintenance, each) for name, each in written.items()}
    lock_changed = outcome.pop("changed", False) if module.check_mode else maintenance.lock.written
    failed = [each.error for each in written.values() if each.error]
    result: Outcome = {
        "msg": summary(module.params["action"], maintenance, nodes),
        **outcome,
        **(claim_outcome(maintenance.plan, written) if maintenance.plan else {}),
        "nodes": {**outcome.get("nodes", {}), **nodes},
        "changed": lock_changed or any(each.changed for each in written.values()),
        "http": maintenance.cluster.http,
        "diff": [diff(maintenance, name, each) for name, each in written.items() if each.changed],
    }
    errors = [*failed, *([obstacle] if obstacle else [])]
    if errors:
        reason = (obstacle or errors[0]).reason
        told = " ".join(map(str, errors))
        module.fail_json(**{**result, "msg": f"{result['msg']}. {told}" if nodes else told, "reason": reason})
    module.exit_json(**result)


def claim_outcome(plan: Plan, written: t.Mapping[str, Written]) -> Outcome:
    return {"claimed": [name for name in plan.chosen if name in written and written[name].changed], **plan_report(plan)}


def summary(action: str, maintenance: Maintenance, nodes: t.Mapping[str, Outcome]) -> str:
    changed = sum(node["changed"] for node in nodes.values())
    text = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}: {changed} changed"
    failed = sum("reason" in node for node in nodes.values())
    text += f", {failed} failed" if failed else ""
    plan = maintenance.plan
    if action == "claim" and plan:
        text = f"{changed} claimed, {len(plan.remaining)} waiting, {len(plan.skipped)} skipped"
        text += f"; {len(plan.unavailable)} were unavailable, allowed are {plan.limit}"
        text += f". Stopped: {plan.stopped}" if plan.stopped else ""
    return text


def diff(maintenance: Maintenance, name: str, written: Written) -> Outcome:
    before, after = (view(node, maintenance.keys) if node else {} for node in (written.before, written.after))
    return {"before_header": name, "after_header": name, "before": before, "after": after}


if __name__ == "__main__":
    main()
