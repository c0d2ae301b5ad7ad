#!/usr/bin/python
# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nodes
short_description: Set labels, taints, annotations and cordon of many Kubernetes nodes in one call
version_added: 0.1.0
description:
  - Reads all nodes it is asked about in one list (pages of 500) and sends one patch for each node that differs. When
    nothing differs nothing is sent.
  - Each patch carries the version of the node it was computed from. When somebody else wrote the node in between, it is
    read and computed again, so taints, labels and annotations of others are never lost.
  - Only what is named is touched. Labels, annotations and taints that are not mentioned stay as they are, in their
    order.
  - Nodes are never created. A name without a node is an error of that name; the other nodes are written all the same.
author:
  - Contributors to the onprem.gpu collection (@onprem-gpu)
extends_documentation_fragment:
  - onprem.gpu.cluster
attributes:
  check_mode:
    support: full
    description: Predicts without writing; see O(check_mode_server).
  diff_mode:
    support: full
    description: One entry for each node that changes, limited to what was asked about.
  idempotent:
    support: full
    description: A second run sends no patch and reports no change.
options:
  names:
    description:
      - Nodes to which O(labels), O(annotations), O(taints) and O(unschedulable) apply.
    type: list
    elements: str
  label_selector:
    description:
      - Nodes to which O(labels), O(annotations), O(taints) and O(unschedulable) apply, as a label selector such as
        V(nvidia.com/gpu.present=true). An empty selector is refused.
    type: str
  nodes:
    description:
      - Nodes with wishes of their own. The options outside apply to them too; where both name the same key, the entry's
        counts.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the node.
        type: str
        required: true
      labels:
        description: As O(labels), for this node.
        type: dict
      annotations:
        description: As O(annotations), for this node.
        type: dict
      taints:
        description: As O(taints), for this node.
        type: list
        elements: dict
        suboptions:
          key:
            description: Key of the taint.
            type: str
            required: true
          value:
            description: Value of the taint. Default is none.
            type: raw
          effect:
            description: Effect of the taint. Needed unless O(nodes[].taints[].state=absent), where none means all
              effects of the key.
            type: str
            choices: [NoSchedule, PreferNoSchedule, NoExecute]
          state:
            description: Whether the taint should be there.
            type: str
            choices: [present, absent]
            default: present
      unschedulable:
        description: As O(unschedulable), for this node.
        type: bool
  labels:
    description:
      - Labels the nodes should have. A value of V(null) removes the label.
      - Values are text; write V('true') in quotes. Whole numbers are taken as text.
    type: dict
  annotations:
    description:
      - Annotations the nodes should have. A value of V(null) removes the annotation.
    type: dict
  taints:
    description:
      - Taints the nodes should have, or should not have. A taint is known by its key and effect together.
    type: list
    elements: dict
    suboptions:
      key:
        description: Key of the taint.
        type: str
        required: true
      value:
        description: Value of the taint. Default is none.
        type: raw
      effect:
        description: Effect of the taint. Needed unless O(taints[].state=absent), where none means all effects of the
          key.
        type: str
        choices: [NoSchedule, PreferNoSchedule, NoExecute]
      state:
        description: Whether the taint should be there.
        type: str
        choices: [present, absent]
        default: present
  unschedulable:
    description:
      - Whether the nodes are cordoned (V(true)) or open to new pods (V(false)). Not set, it stays as it is.
    type: bool
  overwrite:
    description:
      - Whether a label, annotation or taint that has another value is given the wanted one. With V(false) such a node
        is left as it is and reported as refused.
    type: bool
    default: true
  check_mode_server:
    description:
      - Whether check mode sends each patch as a dry run, so that admission and the user's rights are tested too.
        V(false) predicts from the list alone.
    type: bool
    default: true
  joining:
    description:
      - Nodes that do not exist yet and that an earlier step of the same play would have joined. In check mode they are
        treated as nodes with these labels and taints instead of as unknown names. Outside of check mode this is not
        used.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name the node will have.
        type: str
        required: true
      labels:
        description: Labels it will register with.
        type: dict
        default: {}
      taints:
        description: Taints it will register with, each with key, effect and perhaps value.
        type: list
        elements: dict
        default: []
  ready_timeout_seconds:
    description:
      - After writing, wait this long for all nodes to be Ready. V(0) does not wait. Check mode does not wait.
    type: int
    default: 0
seealso:
  - module: onprem.gpu.nodes_info
"""

EXAMPLES = r"""
- name: Label and taint the GPU nodes
  onprem.gpu.nodes:
    names: "{{ groups['gpu_nodes'] }}"
    labels:
      node-role.kubernetes.io/gpu: ""
    taints:
      - key: nvidia.com/gpu
        value: present
        effect: NoSchedule
  delegate_to: localhost
  run_once: true

- name: Give each node its rack, cordon one of them
  onprem.gpu.nodes:
    nodes:
      - name: gpu-1
        labels: {topology.example.com/rack: r1}
      - name: gpu-2
        labels: {topology.example.com/rack: r2}
        unschedulable: true

- name: Take a label and a taint away from all nodes with GPUs
  onprem.gpu.nodes:
    label_selector: nvidia.com/gpu.present=true
    labels:
      example.com/burn-in: null
    taints:
      - key: example.com/burn-in
        state: absent
"""

RETURN = r"""
nodes:
  description: What became of each node, by name.
  returned: when the API server answered
  type: dict
  contains:
    changed:
      description: Whether the node was written (in check mode, would be).
      type: bool
    before:
      description: What the node carried of the things asked about. Not there for unknown nodes.
      type: dict
    after:
      description: What it carries now (in check mode, would). Not there when the write failed.
      type: dict
    ready:
      description: Whether the node's condition Ready is true.
      type: bool
    reason:
      description: Why the node failed; V(not_found), V(forbidden), V(conflict), V(timeout), V(refused) or
        V(api_unavailable). Only there on failure.
      type: str
    msg:
      description: The failure for people. Only there on failure.
      type: str
  sample:
    gpu-1:
      changed: true
      before: {labels: {}, taints: []}
      after: {labels: {node-role.kubernetes.io/gpu: ""}, taints: ["nvidia.com/gpu=present:NoSchedule"]}
      ready: true
missing:
  description: Names asked for that are no node, sorted.
  returned: when the API server answered
  type: list
  elements: str
http:
  description: What was sent to the API server.
  returned: when the options were valid
  type: dict
  contains:
    requests:
      description: Requests, repeated ones included.
      type: int
    retries:
      description: How many of them were repetitions.
      type: int
    throttled_seconds:
      description: Seconds spent waiting because of the rate limit or because the server asked for it.
      type: float
conflicts:
  description:
    - How many patches met a write of somebody else and were computed anew. Each cost two requests more. Many of them
      tell of something that keeps writing nodes.
  returned: when the API server answered
  type: int
  sample: 0
reason:
  description: Reason of the first failed node in the order of names, or of the failure that stopped everything.
  returned: on failure
  type: str
  sample: not_found
msg:
  description: One line for people.
  returned: always
  type: str
  sample: "3 nodes: 1 changed"
"""

import functools
import typing as t
from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import (
    AUTHENTICATION_OPTIONS,
    Cluster,
    ClusterError,
    open_cluster,
)
from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import (
    EFFECTS,
    Node,
    Wish,
    WishError,
    compute,
    node_name_problems,
    parse_wish,
    touched,
)
from ansible_collections.onprem.gpu.plugins.module_utils.node_write import (
    Written,
    is_ready,
    predicted,
    read_named,
    read_selected,
    ready_condition,
    unknown_node,
    wait_until_ready,
    write_all,
)

TAINT_OPTIONS = {
    "key": {"type": "str", "required": True, "no_log": False},
    "value": {"type": "raw"},
    "effect": {"type": "str", "choices": list(EFFECTS)},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}
WISH_OPTIONS = {
    "labels": {"type": "dict"},
    "annotations": {"type": "dict"},
    "taints": {"type": "list", "elements": "dict", "options": TAINT_OPTIONS},
    "unschedulable": {"type": "bool"},
}
JOINING_OPTIONS = {
    "name": {"type": "str", "required": True},
    "labels": {"type": "dict", "default": {}},
    "taints": {"type": "list", "elements": "dict", "default": []},
}
OPTIONS = {
    **AUTHENTICATION_OPTIONS,
    **WISH_OPTIONS,
    "names": {"type": "list", "elements": "str"},
    "label_selector": {"type": "str"},
    "nodes": {
        "type": "list",
        "elements": "dict",
        "options": {"name": {"type": "str", "required": True}, **WISH_OPTIONS},
    },
    "overwrite": {"type": "bool", "default": True},
    "check_mode_server": {"type": "bool", "default": True},
    "joining": {"type": "list", "elements": "dict", "default": [], "options": JOINING_OPTIONS},
    "ready_timeout_seconds": {"type": "int", "default": 0},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=OPTIONS,
        supports_check_mode=True,
        required_one_of=[("names", "label_selector", "nodes")],
        mutually_exclusive=[("names", "label_selector"), ("nodes", "label_selector")],
    )
    try:
        common, own = wishes(module.params)
    except WishError as error:
        module.fail_json(msg=str(error), reason="refused", changed=False)
    cluster = open_cluster(module)
    try:
        nodes, unknown = read(cluster, module)
        wish_of = {name: own.get(name, common) for name in nodes}
        written = bring_about(cluster, module, nodes, wish_of)
        written = with_readiness(cluster, module, written)
    except ClusterError as error:
        module.fail_json(msg=str(error), reason=error.reason, changed=False, http=cluster.http)
    for name in unknown:
        written[name] = Written(False, None, None, unknown_node(cluster, name))
        wish_of[name] = common
    report(module, cluster, dict(sorted(written.items())), wish_of, unknown)


def wishes(params: t.Mapping[str, t.Any]) -> tuple[Wish, dict[str, Wish]]:
    """The wish for every node and, by name, those of the nodes that have their own.

    Raises WishError with all problems.
    """
    problems: list[str] = []
    own: dict[str, Wish] = {}
    common = Wish()
    if params["label_selector"] is not None and not params["label_selector"].strip():
        problems.append(
            "label_selector is empty, which would mean every node; give a selector, or list the nodes in names"
        )
    for name in params["names"] or []:
        problems += node_name_problems(name)
    try:
        common = parse_wish(params)
    except WishError as error:
        problems += error.problems
    for position, entry in enumerate(params["nodes"] or []):
        where = f"nodes[{position}] ({entry['name']})"
        problems += [f"{where}: {problem}" for problem in node_name_problems(entry["name"])]
        if entry["name"] in own:
            problems.append(f"{where}: this node is in the list twice; put all its wishes into one entry")
        try:
            own[entry["name"]] = parse_wish(entry, where).over(common)
        except WishError as error:
            problems += error.problems
    if problems:
        raise WishError(problems)
    return common, own


def read(cluster: Cluster, module: AnsibleModule) -> tuple[dict[str, Node], list[str]]:
    """The nodes to look at, and the names that are no node."""
    if module.params["label_selector"]:
        return read_selected(cluster, module.params["label_selector"]), []
    names = [*(module.params["names"] or []), *(entry["name"] for entry in module.params["nodes"] or [])]
    nodes = read_named(cluster, names)
    if module.check_mode:
        joining = {entry["name"]: registering(entry) for entry in module.params["joining"] if entry["name"] in names}
        nodes = {**joining, **nodes}
    return nodes, sorted(set(names) - set(nodes))


def registering(entry: t.Mapping[str, t.Any]) -> Node:
    """A node as it will be right after registration. It has no uid: there is nothing to send a dry run for."""
    return {
        "metadata": {"name": entry["name"], "labels": entry["labels"]},
        "spec": {"taints": entry["taints"]},
    }


def bring_about(
    cluster: Cluster, module: AnsibleModule, nodes: t.Mapping[str, Node], wish_of: t.Mapping[str, Wish]
) -> dict[str, Written]:
    """Write what differs; in check mode let the server judge it, or only predict."""

    def compute_for(name: str) -> t.Callable[[Node], t.Any]:
        return functools.partial(compute, wish=wish_of[name], overwrite=module.params["overwrite"])

    foretold = {name: predicted(node, compute_for(name)) for name, node in nodes.items()}
    if module.check_mode and not module.params["check_mode_server"]:
        return foretold
    to_send = {
        name: nodes[name] for name, plan in foretold.items() if plan.changed and "uid" in nodes[name]["metadata"]
    }
    return {**foretold, **write_all(cluster, to_send, compute_for, dry_run=module.check_mode)}


def with_readiness(cluster: Cluster, module: AnsibleModule, written: dict[str, Written]) -> dict[str, Written]:
    """The same results with the nodes as they are after waiting for Ready; those that are not become failures."""
    seconds = module.params["ready_timeout_seconds"]
    waiting = {name: result.after for name, result in written.items() if result.error is None and result.after}
    if not seconds or module.check_mode or not waiting:
        return written
    results = dict(written)
    for name, node in wait_until_ready(cluster, waiting, seconds).items():
        error = None if is_ready(node) else not_ready(name, node, seconds)
        results[name] = replace(written[name], after=node, error=error)
    return results


def not_ready(name: str, node: Node, seconds: int) -> ClusterError:
    condition = ready_condition(node)
    why = condition.get("message") or "its kubelet has not reported a condition yet"
    return ClusterError(
        "timeout",
        f"Node {name} is not Ready after {seconds} s (ready_timeout_seconds): {why}. Look at 'kubectl describe node "
        f"{name}' and at the kubelet's log on the host.",
    )


def report(
    module: AnsibleModule,
    cluster: Cluster,
    written: t.Mapping[str, Written],
    wish_of: t.Mapping[str, Wish],
    unknown: list[str],
) -> None:
    """End the module, with success or failure, always with the truth about what was changed."""
    nodes = {name: described(result, wish_of[name]) for name, result in written.items()}
    failed = {name: result.error for name, result in written.items() if result.error}
    changed = [name for name, result in written.items() if result.changed]
    diff = [
        {"before_header": name, "after_header": name, "before": nodes[name]["before"], "after": nodes[name]["after"]}
        for name in changed
        if "after" in nodes[name]
    ]
    outcome: dict[str, t.Any] = {
        "changed": bool(changed),
        "nodes": nodes,
        "missing": unknown,
        "http": cluster.http,
        "conflicts": sum(result.conflicts for result in written.values()),
        "diff": diff,
    }
    summary = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}: {len(changed)} changed"
    if failed:
        first = next(iter(failed.values()))
        messages = " ".join(map(str, failed.values()))
        module.fail_json(msg=f"{summary}, {len(failed)} failed. {messages}", reason=first.reason, **outcome)
    module.exit_json(msg=summary, **outcome)


def described(result: Written, wish: Wish) -> dict[str, t.Any]:
    description: dict[str, t.Any] = {"changed": result.changed}
    if result.before is not None:
        description["before"] = touched(result.before, wish)
        description["ready"] = is_ready(result.after or result.before)
    if result.after is not None:
        description["after"] = touched(result.after, wish)
    if result.error is not None:
        description.update(reason=result.error.reason, msg=str(result.error))
    return description


if __name__ == "__main__":
    main()
