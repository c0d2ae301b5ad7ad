#!/usr/bin/python
# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nodes_info
short_description: Report what Kubernetes nodes there are and what they carry
version_added: 0.1.0
description:
  - Reads nodes in one list (pages of 500) and reports labels, taints, annotations, readiness, allocatable resources and
    which machine each one is. A name without a node is reported in RV(missing), not an error.
author:
  - Contributors to the onprem.gpu collection (@onprem-gpu)
extends_documentation_fragment:
  - onprem.gpu.cluster
attributes:
  check_mode:
    support: full
    description: Reads only.
  diff_mode:
    support: none
    description: Reads only.
  idempotent:
    support: full
    description: Reads only.
options:
  names:
    description:
      - Nodes to report.
    type: list
    elements: str
  label_selector:
    description:
      - Report the nodes this label selector matches. Without it and without O(names) all nodes are reported.
    type: str
seealso:
  - module: onprem.gpu.nodes
"""

EXAMPLES = r"""
- name: Read all GPU nodes
  onprem.gpu.nodes_info:
    names: "{{ groups['gpu_nodes'] }}"
  delegate_to: localhost
  run_once: true
  register: gpu_fleet

- name: Name the hosts that are not in the cluster yet
  ansible.builtin.debug:
    var: gpu_fleet.missing
"""

RETURN = r"""
nodes:
  description: The nodes, by name.
  returned: success
  type: dict
  contains:
    uid:
      description: Identity of the Node object.
      type: str
    machine_id:
      description: C(/etc/machine-id) of the machine whose kubelet registered the node; empty when none has.
      type: str
    boot_id:
      description: Boot id the kubelet reported last.
      type: str
    kubelet_version:
      description: Version of the kubelet.
      type: str
    addresses:
      description: Addresses and host names, in the order of the Node object.
      type: list
      elements: str
    ready:
      description: Whether the condition Ready is true.
      type: bool
    ready_message:
      description: What the kubelet or the control plane says about it.
      type: str
    unschedulable:
      description: Whether the node is cordoned.
      type: bool
    labels:
      description: All labels.
      type: dict
    annotations:
      description: All annotations.
      type: dict
    taints:
      description: All taints, as the API server has them.
      type: list
      elements: dict
    allocatable:
      description: What pods can be given, as the API server has it.
      type: dict
    runtime_handlers:
      description: Handlers that RuntimeClasses can ask its container runtime for; empty where that does not tell.
      type: list
      elements: str
missing:
  description: Names asked for that are no node, sorted.
  returned: success
  type: list
  elements: str
http:
  description: What was sent to the API server; see RV(onprem.gpu.nodes#module:http).
  returned: always
  type: dict
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import (
    AUTHENTICATION_OPTIONS,
    ClusterError,
    open_cluster,
)
from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import Node, node_name_problems
from ansible_collections.onprem.gpu.plugins.module_utils.node_write import (
    is_ready,
    read_named,
    read_selected,
    ready_condition,
)

OPTIONS = {
    **AUTHENTICATION_OPTIONS,
    "names": {"type": "list", "elements": "str"},
    "label_selector": {"type": "str"},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=OPTIONS, supports_check_mode=True, mutually_exclusive=[("names", "label_selector")]
    )
    names = module.params["names"]
    problems = [problem for name in names or [] for problem in node_name_problems(name)]
    if problems:
        module.fail_json(msg="; ".join(problems), reason="refused")
    cluster = open_cluster(module)
    try:
        if names is None:
            nodes = read_selected(cluster, module.params["label_selector"] or "")
        else:
            nodes = read_named(cluster, names)
    except ClusterError as error:
        module.fail_json(msg=str(error), reason=error.reason, http=cluster.http)
    module.exit_json(
        changed=False,
        nodes={name: described(node) for name, node in sorted(nodes.items())},
        missing=sorted(set(names or []) - set(nodes)),
        http=cluster.http,
    )


def described(node: Node) -> dict[str, t.Any]:
    metadata, spec, status = node["metadata"], node["spec"], node["status"]
    system = status.get("nodeInfo") or {}
    return {
        "uid": metadata["uid"],
        "machine_id": system.get("machineID", ""),
        "boot_id": system.get("bootID", ""),
        "kubelet_version": system.get("kubeletVersion", ""),
        "addresses": [address["address"] for address in status.get("addresses") or []],
        "ready": is_ready(node),
        "ready_message": ready_condition(node).get("message", ""),
        "unschedulable": bool(spec.get("unschedulable")),
        "labels": metadata.get("labels") or {},
        "annotations": metadata.get("annotations") or {},
        "taints": spec.get("taints") or [],
        "allocatable": status.get("allocatable") or {},
        "runtime_handlers": [handler["name"] for handler in status.get("runtimeHandlers") or [] if handler.get("name")],
    }


if __name__ == "__main__":
    main()
