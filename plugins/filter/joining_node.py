# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: joining_node
  short_description: What a host registers with when it joins a cluster
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - All taints, and the labels a kubelet may put on its own node. The others are set through the API after the join.
  options:
    _input:
      description: The variables of the role P(onprem.gpu.gpu_node#role) without their prefix. The role has them as
        C(gpu_node_wishes).
      type: dict
      required: true
"""

EXAMPLES = r"""
- name: Predict the labels of a host that is not a node yet
  onprem.gpu.nodes:
    nodes: ["{{ gpu_node_wishes }}"]
    joining: ["{{ gpu_node_wishes | onprem.gpu.joining_node }}"]
  check_mode: true
  delegate_to: localhost
"""

RETURN = r"""
  _value:
    description: A dict with name, labels and taints, an element for the option O(onprem.gpu.nodes#module:joining).
    type: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.join_plan import joining_node


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"joining_node": joining_node}
