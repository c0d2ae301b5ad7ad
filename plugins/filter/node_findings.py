# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: node_findings
  short_description: What no API server would take of a node's name, labels, annotations and taints
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Checks spelling and length by the rules of Kubernetes, without asking a server.
  options:
    _input:
      description: The variables of the role P(onprem.gpu.gpu_node#role) without their prefix. The role has them as
        C(gpu_node_wishes).
      type: dict
      required: true
"""

EXAMPLES = r"""
- name: Refuse what Kubernetes would refuse
  ansible.builtin.assert:
    that: gpu_node_wishes | onprem.gpu.node_findings | length == 0
"""

RETURN = r"""
  _value:
    description: One dict per finding with check, severity, value, message, allowed and variable; none when all is well.
    type: list
    elements: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.join_plan import node_findings


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"node_findings": node_findings}
