# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: quota_findings
  short_description: Quotas that limit GPUs nobody offers, and GPUs that a quota leaves without a limit
  version_added: 0.2.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - A quota counts every resource name for itself. Partitioning GPUs changes the names, so a quota on
      C(nvidia.com/gpu) may limit nothing any more.
    - Only namespaces whose quotas name a resource of C(nvidia.com/) are judged.
  positional: nodes
  options:
    _input:
      description: ResourceQuota objects of the API.
      type: list
      elements: dict
      required: true
    nodes:
      description: RV(onprem.gpu.nodes_info#module:nodes), of all nodes of the cluster.
      type: dict
      required: true
"""

EXAMPLES = r"""
- name: Tell which quotas no longer match
  onprem.gpu.report_findings:
    findings: "{{ quotas.resources | onprem.gpu.quota_findings(fleet.nodes) }}"
"""

RETURN = r"""
  _value:
    description: One dict per finding with check, severity, value, message, allowed and variable; none when all is well.
    type: list
    elements: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.mig_offer import quota_findings


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"quota_findings": quota_findings}
