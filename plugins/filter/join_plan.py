# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: join_plan
  short_description: What to do with a host that is not, or not fully, a node
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Tells hosts that can join from those an earlier join left half-way, those of another cluster and those whose name
      another machine has.
  positional: name, node, cluster
  options:
    _input:
      description: What was found on the host - machine_id, kubelet_conf (the parsed file, or none) and leftovers
        (whether files of an unfinished join are there).
      type: dict
      required: true
    name:
      description: Name the node should have.
      type: str
      required: true
    node:
      description: The Node of that name as M(onprem.gpu.nodes_info) reports it, or none.
      type: dict
    cluster:
      description: What M(onprem.gpu.bootstrap_token) returned.
      type: dict
      required: true
"""

EXAMPLES = r"""
- name: Refuse to take another machine's name
  ansible.builtin.assert:
    that: (traces | onprem.gpu.join_plan("gpu-1", known.nodes["gpu-1"] | default(none), access)).action != "refuse"
"""

RETURN = r"""
  _value:
    description: The action (V(join), V(rejoin), V(revive), V(finish) or V(refuse)) and why.
    type: dict
    sample: {action: join, why: it is not in the cluster}
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.join_plan import join_plan


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"join_plan": join_plan}
