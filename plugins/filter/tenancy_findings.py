# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: tenancy_findings
  short_description: What is wrong with teams as they are written
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Checks names, quotas, subjects, networks and priorities of all teams. Needs no cluster.
  positional: priority_classes
  options:
    _input:
      description: The teams, as in the variable C(gpu_teams) of the role P(onprem.gpu.gpu_tenancy#role).
      type: list
      elements: dict
      required: true
    priority_classes:
      description: PriorityClasses, as in C(gpu_tenancy_priority_classes).
      type: list
      elements: dict
      default: []
"""

EXAMPLES = r"""
- name: Refuse teams that cannot be what is written
  onprem.gpu.report_findings:
    findings: "{{ gpu_teams | onprem.gpu.tenancy_findings(gpu_tenancy_priority_classes) }}"
"""

RETURN = r"""
  _value:
    description: One dict per finding with check, severity, value, message, allowed and variable; none when all is well.
    type: list
    elements: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.tenancy_problems import problems


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"tenancy_findings": problems}
