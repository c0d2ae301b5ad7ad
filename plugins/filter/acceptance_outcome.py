# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: acceptance_outcome
  short_description: What follows from the checks of a node
  version_added: 0.2.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Whether the node is accepted, what to show, and what the node is to carry. An outcome that an earlier acceptance
      has written already keeps its time, so that nothing is written again.
  positional: severity, name, node, now
  options:
    _input:
      description: Checks as P(onprem.gpu.acceptance_checks#filter) gives them.
      type: list
      elements: dict
      required: true
    severity:
      description: Another severity than V(error) by the name of a check. Only errors keep a node from being accepted.
      type: dict
      required: true
    name:
      description: Name of the node.
      type: str
      required: true
    node:
      description: The node as RV(onprem.gpu.nodes_info#module:nodes) has it, V(null) when there is none.
      type: dict
      required: true
    now:
      description: The time, such as V(2026-11-26T11:20:00Z).
      type: str
      required: true
"""

EXAMPLES = r"""
- name: Mark the node
  onprem.gpu.nodes:
    nodes: ["{{ (checks | onprem.gpu.acceptance_outcome({}, 'gpu-a', node, '2026-11-26T11:20:00Z')).node }}"]
"""

RETURN = r"""
  _value:
    description: A dict.
    type: dict
    contains:
      passed:
        description: Whether the node is accepted.
        type: bool
      findings:
        description: For M(onprem.gpu.report_findings).
        type: list
        elements: dict
      node:
        description: An entry for O(onprem.gpu.nodes#module:nodes) with annotation and taint, V(null) without a node.
        type: dict
      event:
        description: An Event to write, V(null) when the node is accepted.
        type: dict
      past_event:
        description: The Event of an earlier acceptance to remove, V(null) when there is none.
        type: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.acceptance_outcome import outcome


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"acceptance_outcome": outcome}
