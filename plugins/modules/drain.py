#!/usr/bin/python
# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: drain
short_description: Drain many Kubernetes nodes in one call and say what became of every pod
version_added: 0.2.0
description:
  - Cordons nodes, evicts their pods and waits until they are gone. A node counts as drained when a fresh list shows
    that nothing is left that should go, so pods that arrived in the meantime are noticed and evicted as well.
  - Which pods go and which stay follows C(kubectl drain --ignore-daemonsets). Every pod of the nodes is in the result
    with its verdict and all reasons, the skipped ones too.
  - What must not be evicted is found before anything is evicted, on all nodes, and reported together. That includes
    pods whose PodDisruptionBudget can never be met as things stand.
  - Evictions run side by side and respect PodDisruptionBudgets. A pod that its budget holds back does not hold up the
    others, and is asked for again when the budget recovers. Each request carries the pod's uid, so a new pod of
    the same name is never hit by a request that was meant for the old one.
  - Nodes are never uncordoned; M(onprem.gpu.nodes) does that.
  - When the time is over and pods are left the module fails and names each of them with what holds it.
  - While it waits it shows how many pods are left, provided that it runs on the controller.
author:
  - Contributors to the onprem.gpu collection (@onprem-gpu)
extends_documentation_fragment:
  - onprem.gpu.cluster
attributes:
  check_mode:
    support: full
    description: Predicts without writing; see O(check_mode_server). Of the pods of one budget only as many are
      predicted to go at once as the budget allows.
  diff_mode:
    support: full
    description: One entry for each node that changes, with its cordon and the pods that should go.
  idempotent:
    support: full
    description: A drained node is only read.
options:
  nodes:
    description:
      - Nodes to drain. A name without a node is an error before anything is written.
    type: list
    elements: str
  label_selector:
    description:
      - Drain the nodes this label selector matches. An empty selector is refused.
    type: str
  cordon:
    description:
      - Whether the nodes are cordoned before pods are evicted. All nodes are cordoned before the first eviction, so
        that no pod moves from one of them to another.
      - With V(false) the scheduler may put new pods on the nodes at once, which is right only where few pods are
        evicted by name.
    type: bool
    default: true
  cordon_on_refusal:
    description:
      - Whether the nodes are cordoned even when pods are found that must not be evicted. With V(false) nothing at all
        is written then.
    type: bool
    default: true
  gpu_only:
    description:
      - Evict only pods that hold GPUs, which is enough for a driver reload without a reboot.
      - That is a pod with an C(nvidia.com/gpu*) or C(nvidia.com/mig-*) resource in any of its containers, with a
        resource claim that an NVIDIA driver serves, or with an C(nvidia) runtime class or C(NVIDIA_VISIBLE_DEVICES).
      - The API server does not know privileged pods that open device files by themselves. Look on the host as well.
    type: bool
    default: false
  pods:
    description:
      - Evict only these pods, each as C(namespace/name). Other pods are reported as V(skip:not-asked). A pod in the
        list that is not on the nodes is gone already, and no error.
    type: list
    elements: str
  pod_selector:
    description:
      - Evict only pods this label selector matches. Takes C(key=value), C(key!=value), C(key in (a, b\)),
        C(key notin (a, b\)), C(key) and C(!key), separated by commas.
    type: str
  force:
    description:
      - Evict pods without a controller as well, which nobody makes again.
    type: bool
    default: false
  delete_emptydir_data:
    description:
      - Evict pods with C(emptyDir) volumes as well, whose data is lost. Shared memory of training pods is often such a
        volume.
    type: bool
    default: false
  keep_finished:
    description:
      - Leave pods that have succeeded or failed on the node, with their logs.
    type: bool
    default: false
  disable_eviction:
    description:
      - Delete pods instead of evicting them, which bypasses PodDisruptionBudgets. A warning names each budget that is
        bypassed.
    type: bool
    default: false
  grace_period_seconds:
    description:
      - Seconds each pod is given to stop, in place of its own grace period. Longer ones are possible too.
      - With V(0) the API server forgets a pod at once while its processes may still hold a GPU. Never use it before a
        driver is unloaded.
    type: int
  timeout_seconds:
    description:
      - Seconds from the first eviction until the drain fails.
    type: int
    default: 1800
  skip_wait_for_delete_seconds:
    description:
      - Do not wait for a pod whose grace period ended more than this many seconds ago. It is named in a warning. V(0)
        waits for every pod.
    type: int
    default: 0
  wait_rules:
    description:
      - Pods to wait for before anything is evicted, such as training jobs. The first rule that speaks of a pod counts;
        a pod that none speaks of is evicted. Pending pods count as running.
      - Where a pod will be evicted after the wait, O(force) and O(delete_emptydir_data) are asked for before the wait.
    type: list
    elements: dict
    default: []
    suboptions:
      policy:
        description:
          - V(wait) waits until the pod is finished or O(wait_timeout_seconds) are over, then evicts it.
          - V(wait_forever) waits until it is finished.
          - V(never) waits like V(wait), and fails when the time is over, with nothing evicted.
          - V(evict) does not wait; for exceptions before a more general rule.
        type: str
        choices: [evict, wait, wait_forever, never]
        required: true
      namespaces:
        description: Namespaces the rule speaks of, as globs.
        type: list
        elements: str
        default: ['*']
      pod_selector:
        description: Label selector of the pods the rule speaks of, in the form of O(pod_selector). Default is all.
        type: str
  wait_timeout_seconds:
    description:
      - Seconds to wait for pods that O(wait_rules) speaks of. Counts from the start of this call.
    type: int
    default: 3600
  evict_concurrency:
    description:
      - How many evictions are requested at the same time, over all nodes.
    type: int
    default: 8
  max_rounds:
    description:
      - How often the pods of one owner are evicted from a node when they come back to it. Then the owner is reported
        and the drain fails.
    type: int
    default: 5
  check_mode_server:
    description:
      - Whether check mode sends each eviction and the cordon as a dry run, so that admission, budgets and the user's
        rights are tested too. V(false) predicts from what was read alone.
    type: bool
    default: true
  _progress_file:
    description: File of the controller's half of the module, which shows its lines while the drain runs. Not for
      playbooks.
    type: path
notes:
  - 'Needs these rights: nodes C(get), C(list), C(patch); pods C(get), C(list), C(watch); pods/eviction C(create), or
    pods C(delete) with O(disable_eviction=true); poddisruptionbudgets.policy C(list), C(watch); daemonsets.apps C(get),
    C(list); resourceclaims.resource.k8s.io C(list) with O(gpu_only=true) where pods have claims.'
  - Pods of DaemonSets and static pods stay, GPUs or not. With O(gpu_only=true) their reasons say V(holds-gpu).
seealso:
  - module: onprem.gpu.nodes
  - module: kubernetes.core.k8s_drain
"""

EXAMPLES = r"""
- name: Drain the nodes of one rack, training pods with shared memory included
  onprem.gpu.drain:
    label_selector: topology.example.com/rack=r1
    delete_emptydir_data: true
  delegate_to: localhost
  run_once: true

- name: Free the GPUs of a node for a driver reload, after jobs had an hour to finish
  onprem.gpu.drain:
    nodes: [gpu-1]
    gpu_only: true
    delete_emptydir_data: true
    wait_rules:
      - policy: wait
        namespaces: ["team-*"]
        pod_selector: batch.kubernetes.io/job-name
    wait_timeout_seconds: 3600

- name: Evict one pod by name
  onprem.gpu.drain:
    nodes: [gpu-1]
    pods: [vision/notebook-0]
    cordon: false
"""

RETURN = r"""
nodes:
  description: What became of each node, by name.
  returned: when the nodes and their pods could be read
  type: dict
  contains:
    changed:
      description: Whether the node was cordoned or one of its pods evicted (in check mode, would be).
      type: bool
    state:
      description:
        - V(drained), nothing is left that should go.
        - V(waiting), only in check mode, nothing stands against it, but not all pods can go at once.
        - V(refused), pods must not be evicted as asked.
        - V(remaining), pods are left.
      type: str
    unschedulable:
      description: Whether the node is cordoned (in check mode, would be).
      type: bool
    pods:
      description:
        - All pods of the node, by namespace and name. C(verdict) is one of V(evict), V(evict:finished), V(wait:job),
          V(wait:terminating), V(stuck:terminating), V(skip:mirror), V(skip:daemonset), V(skip:finished),
          V(skip:no-gpu), V(skip:selector), V(skip:not-asked) and V(refused).
        - C(reasons) are those of the verdict, such as V(unmanaged), V(emptydir), V(orphan), V(hidden-gpu) and
          V(holds-gpu).
        - C(outcome) is what became of it. V(evicted) is gone by our eviction, V(gone) is gone by itself or by others;
          V(terminating), V(blocked), V(failed) and V(left) are still there, with a C(message) that says why.
        - C(prediction), in check mode, is V(now), V(later) or V(never).
      type: list
      elements: dict
  sample:
    gpu-1:
      changed: true
      state: drained
      unschedulable: true
      pods:
        - namespace: vision
          name: train-0
          uid: 8c1f0d6e-6c7b-4d0e-9d5b-0a2f0f6f1f11
          verdict: evict
          reasons: [emptydir]
          outcome: evicted
blocked:
  description: Pods that a PodDisruptionBudget holds back (in check mode, would hold back at first), and the budget.
  returned: when the nodes and their pods could be read
  type: list
  elements: dict
  sample:
    - namespace: vision
      name: db-0
      reason: "blocked by budget vision/db (needs 2 healthy pods of 3, has 2)"
      pdb: vision/db
gangs:
  description:
    - Jobs and gangs of which several pods are to go, by the labels of Kueue, JobSet, LeaderWorkerSet, Volcano and
      batch/v1. Evicting one pod usually stops them all, so nodes they share belong in one call.
  returned: when the nodes and their pods could be read
  type: list
  elements: dict
  sample:
    - namespace: team-a
      gang: jobset.sigs.k8s.io/jobset-name=llm
      nodes: [gpu-1, gpu-2]
      pods: [llm-workers-0-0, llm-workers-0-1]
http:
  description: What was sent to the API server; see RV(onprem.gpu.nodes#module:http).
  returned: when the options were valid
  type: dict
reason:
  description:
    - Why it failed. V(refused), V(pdb_blocked), V(timeout), V(conflict) (pods come back again and again, or somebody
      else writes the node), V(not_found), V(forbidden), V(api_unavailable) or V(interrupted).
  returned: on failure
  type: str
  sample: pdb_blocked
msg:
  description: One line for people.
  returned: always
  type: str
  sample: "2 nodes drained: 14 pods evicted"
"""

import contextlib
import functools
import os
import re
import signal
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import (
    AUTHENTICATION_OPTIONS,
    Cluster,
    ClusterError,
    open_cluster,
)
from ansible_collections.onprem.gpu.plugins.module_utils.drain_plan import (
    WAIT_POLICIES,
    Manner,
    Policy,
    WaitRule,
    gangs,
)
from ansible_collections.onprem.gpu.plugins.module_utils.drain_read import read_situation
from ansible_collections.onprem.gpu.plugins.module_utils.drain_report import (
    Account,
    blocked,
    diff_of,
    failure_reason,
    left_text,
    pods_of,
    refusals,
    state_of,
    summary,
    warnings,
)
from ansible_collections.onprem.gpu.plugins.module_utils.drain_run import Drain, Limits, rehearse
from ansible_collections.onprem.gpu.plugins.module_utils.followed_pods import foretell
from ansible_collections.onprem.gpu.plugins.module_utils.label_selectors import Selector, SelectorError, parse_selector
from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import (
    Node,
    Wish,
    WishError,
    compute,
    node_name_problems,
)
from ansible_collections.onprem.gpu.plugins.module_utils.node_write import (
    Written,
    predicted,
    read_named,
    read_selected,
    unknown_node,
    write_all,
)

WAIT_RULE_OPTIONS = {
    "policy": {"type": "str", "choices": list(WAIT_POLICIES), "required": True},
    "namespaces": {"type": "list", "elements": "str", "default": ["*"]},
    "pod_selector": {"type": "str"},
}
OPTIONS = {
    **AUTHENTICATION_OPTIONS,
    "nodes": {"type": "list", "elements": "str"},
    "label_selector": {"type": "str"},
    "cordon": {"type": "bool", "default": True},
    "cordon_on_refusal": {"type": "bool", "default": True},
    "gpu_only": {"type": "bool", "default": False},
    "pods": {"type": "list", "elements": "str"},
    "pod_selector": {"type": "str"},
    "force": {"type": "bool", "default": False},
    "delete_emptydir_data": {"type": "bool", "default": False},
    "keep_finished": {"type": "bool", "default": False},
    "disable_eviction": {"type": "bool", "default": False},
    "grace_period_seconds": {"type": "int"},
    "timeout_seconds": {"type": "int", "default": 1800},
    "skip_wait_for_delete_seconds": {"type": "int", "default": 0},
    "wait_rules": {"type": "list", "elements": "dict", "default": [], "options": WAIT_RULE_OPTIONS},
    "wait_timeout_seconds": {"type": "int", "default": 3600},
    "evict_concurrency": {"type": "int", "default": 8},
    "max_rounds": {"type": "int", "default": 5},
    "check_mode_server": {"type": "bool", "default": True},
    "_progress_file": {"type": "path"},
}
# Smallest and largest value of each number; None = no limit.
RANGES: dict[str, tuple[int, int | None]] = {
    "grace_period_seconds": (0, None),
    "timeout_seconds": (1, None),
    "skip_wait_for_delete_seconds": (0, None),
    "wait_timeout_seconds": (0, None),
    "evict_concurrency": (1, 64),
    "max_rounds": (1, None),
}
POD_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
CORDONED = Wish(unschedulable=True)


def main() -> None:
    module = AnsibleModule(
        argument_spec=OPTIONS,
        supports_check_mode=True,
        required_one_of=[("nodes", "label_selector")],
        mutually_exclusive=[("nodes", "label_selector")],
    )
    try:
        policy = read_policy(module.params)
    except WishError as error:
        module.fail_json(msg=str(error), reason="refused", changed=False)
    cluster = open_cluster(module)
    try:
        nodes = read_nodes(cluster, module)
        drain = plan(cluster, module, nodes, policy)
    except ClusterError as error:
        module.fail_json(msg=str(error), reason=error.reason, changed=False, http=cluster.http)
    objections = refusals(drain.pods.values())
    cordoned = cordon(cluster, module, nodes, objections)
    obstacle = what_forbids(drain, objections, cordoned) or carry_out(module, drain, cordoned)
    report(module, nodes, drain, cordoned, obstacle)


def read_policy(params: t.Mapping[str, t.Any]) -> Policy:
    """Which pods are meant and what was agreed to. Raises WishError with everything that is wrong in the options."""
    problems = [problem for name in params["nodes"] or [] for problem in node_name_problems(name)]
    if params["label_selector"] is not None and not params["label_selector"].strip():
        problems.append("label_selector is empty, which would mean every node; give a selector, or list the nodes")
    for name, (least, most) in RANGES.items():
        value = params[name]
        if value is not None and (value < least or (most is not None and value > most)):
            allowed = f"{least} to {most}" if most is not None else f"{least} or more"
            problems.append(f"{name} is {value}; allowed is {allowed}")
    for position, name in enumerate(params["pods"] or []):
        if not POD_NAME.fullmatch(name):
            problems.append(f"pods[{position}] is {name!r}; write namespace/name")
    selector = read_selector(params["pod_selector"], "pod_selector", problems)
    rules = tuple(
        WaitRule(
            rule["policy"],
            tuple(rule["namespaces"]),
            read_selector(rule["pod_selector"], f"wait_rules[{position}].pod_selector", problems),
        )
        for position, rule in enumerate(params["wait_rules"])
    )
    if problems:
        raise WishError(problems)
    return Policy(
        force=params["force"],
        delete_emptydir_data=params["delete_emptydir_data"],
        gpu_only=params["gpu_only"],
        keep_finished=params["keep_finished"],
        asked=None if params["pods"] is None else frozenset(params["pods"]),
        selector=selector,
        wait_rules=rules,
        skip_wait_for_delete_seconds=params["skip_wait_for_delete_seconds"],
    )


def read_selector(text: str | None, where: str, problems: list[str]) -> Selector:
    if text is None:
        return ()
    try:
        return parse_selector(text)
    except SelectorError as error:
        problems.append(f"{where}: {error}")
        return ()


def read_nodes(cluster: Cluster, module: AnsibleModule) -> dict[str, Node]:
    """The nodes to drain. Raises ClusterError for a name that is none: the list is wrong, and draining does harm."""
    if module.params["label_selector"]:
        return read_selected(cluster, module.params["label_selector"])
    names = module.params["nodes"]
    nodes = read_named(cluster, names)
    unknown = sorted(set(names) - set(nodes))
    if unknown:
        texts = " ".join(str(unknown_node(cluster, name)) for name in unknown)
        raise ClusterError("not_found", f"{texts} Nothing was changed on any node.")
    return nodes


def plan(cluster: Cluster, module: AnsibleModule, nodes: t.Mapping[str, Node], policy: Policy) -> Drain:
    """Verdict and prediction for every pod of the nodes."""
    params = module.params
    manner = Manner(params["grace_period_seconds"], params["disable_eviction"])
    limits = Limits(
        timeout_seconds=params["timeout_seconds"],
        wait_seconds=params["wait_timeout_seconds"],
        concurrency=params["evict_concurrency"],
        max_rounds=params["max_rounds"],
    )
    situation = read_situation(cluster, nodes, policy, time.time())
    drain = Drain(cluster, situation, policy, manner, limits)
    foretell(drain.pods.values(), [] if manner.disable_eviction else list((situation.budgets or {}).values()))
    return drain


def cordon(
    cluster: Cluster, module: AnsibleModule, nodes: t.Mapping[str, Node], objections: list[str]
) -> dict[str, Written]:
    """Cordon all nodes before the first eviction; in check mode let the server judge it, or only predict."""
    if not module.params["cordon"] or (objections and not module.params["cordon_on_refusal"]):
        return {}
    goal = functools.partial(compute, wish=CORDONED)
    foretold = {name: predicted(node, goal) for name, node in nodes.items()}
    if module.check_mode and not module.params["check_mode_server"]:
        return foretold
    to_send = {name: nodes[name] for name, each in foretold.items() if each.changed}
    return {**foretold, **write_all(cluster, to_send, lambda name: goal, dry_run=module.check_mode)}


def what_forbids(drain: Drain, objections: list[str], cordoned: t.Mapping[str, Written]) -> ClusterError | None:
    """Why no pod may be evicted at all, or None."""
    if objections:
        stays = " The nodes stay cordoned." if cordoned else ""
        reason = failure_reason([each for each in drain.pods.values() if each.remains])
        return ClusterError(reason, f"Nothing was evicted. {' '.join(objections)}{stays}")
    failed = [written.error for written in cordoned.values() if written.error]
    return ClusterError(failed[0].reason, " ".join(map(str, failed)) + " Nothing was evicted.") if failed else None


def carry_out(module: AnsibleModule, drain: Drain, cordoned: t.Mapping[str, Written]) -> ClusterError | None:
    """Evict and wait, or in check mode ask the server what it would do. Returns what ended it before its time."""
    if not module.check_mode:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with progress_lines(module.params["_progress_file"]) as tell:
            drain.run([name for name, written in cordoned.items() if written.changed], tell)
        return drain.error
    if module.params["check_mode_server"]:
        try:
            rehearse(drain.cluster, drain.pods.values(), drain.manner, drain.limits.concurrency)
        except ClusterError as error:
            return error
    return None


@contextlib.contextmanager
def progress_lines(path: str | None) -> t.Iterator[t.Callable[[str], None]]:
    """A function that shows one line, where somebody reads them."""
    with contextlib.ExitStack() as stack:
        try:
            lines = stack.enter_context(open(path or os.devnull, "a", buffering=1, encoding="utf-8"))
        except OSError:  # another user's file: the drain matters more
            lines = stack.enter_context(open(os.devnull, "a", encoding="utf-8"))
        yield lambda line: lines.writelines([line, "\n"])


def report(
    module: AnsibleModule,
    nodes: t.Mapping[str, Node],
    drain: Drain,
    cordoned: t.Mapping[str, Written],
    obstacle: ClusterError | None,
) -> None:
    """End the module, with success or failure, always with the truth about what was changed."""
    followed, budgets = list(drain.pods.values()), list((drain.budgets or {}).values())
    account = Account(followed, budgets, module.check_mode, stopped=obstacle is not None, now=time.time())
    for warning in warnings(account, drain.manner):
        module.warn(warning)
    described, diff = node_results(account, nodes, cordoned)
    outcome: dict[str, t.Any] = {
        "changed": any(each["changed"] for each in described.values()),
        "nodes": described,
        "blocked": blocked(account),
        "gangs": gangs([each.pod for each in followed if each.planned.goes or each.planned.awaited]),
        "http": drain.cluster.http,
        "diff": diff,
    }
    if obstacle is None and account.remaining and not module.check_mode:
        obstacle = ClusterError(failure_reason(account.remaining), left_text(account, drain.limits.timeout_seconds))
    if obstacle:
        module.fail_json(msg=f"{summary(account, nodes)}. {obstacle}", reason=obstacle.reason, **outcome)
    module.exit_json(msg=summary(account, nodes), **outcome)


def node_results(
    account: Account, nodes: t.Mapping[str, Node], cordoned: t.Mapping[str, Written]
) -> tuple[dict[str, t.Any], list[dict[str, t.Any]]]:
    """What became of each node, and the diffs of those that changed."""
    described, diffs = {}, []
    for name, node in sorted(nodes.items()):
        own, written = account.of(name), cordoned.get(name)
        before = bool(node["spec"].get("unschedulable"))
        after = before or (written is not None and written.error is None)
        changed = own.changed or (written is not None and written.changed)
        described[name] = {"changed": changed, "state": state_of(own), "unschedulable": after, "pods": pods_of(own)}
        if changed:
            old, new = diff_of(own, (before, after))
            diffs.append({"before_header": name, "after_header": name, "before": old, "after": new})
    return described, diffs


if __name__ == "__main__":
    main()
