# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: disruption_findings
  short_description: Whether a change would meet pods with GPUs on a node
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - A pod counts when it is not finished and asks for an NVIDIA resource, a resource claim, an nvidia runtime class or
      C(NVIDIA_VISIBLE_DEVICES). Pods of a DaemonSet do not count.
  positional: node, disrupts
  options:
    _input:
      description: Pods as the API server has them, of any node.
      type: list
      elements: dict
      required: true
    node:
      description: Name of the node.
      type: str
      required: true
    disrupts:
      description: What the change disrupts, RV(onprem.gpu.survey#module:disrupts).
      type: list
      elements: str
      required: true
"""

EXAMPLES = r"""
- name: Leave nodes alone that run pods with GPUs
  onprem.gpu.report_findings:
    findings: "{{ pods.resources | onprem.gpu.disruption_findings(gpu_node_name, gpu_survey_result.disrupts) }}"
"""

RETURN = r"""
  _value:
    description: One finding that names the pods, or none.
    type: list
    elements: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.gpu_pods import disruption_refusals


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"disruption_findings": disruption_refusals}
