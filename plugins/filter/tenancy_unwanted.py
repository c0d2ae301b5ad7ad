# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: tenancy_unwanted
  short_description: Objects that teams would have with other settings
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Names what earlier settings of a team may have left behind. Each team has objects of fixed names, so the answer
      needs no cluster. Teams whose state is absent are left out.
    - Names the PriorityClasses whose state is absent, too.
  positional: wanted, priority_classes
  options:
    _input:
      description: The teams, as in the variable C(gpu_teams) of the role P(onprem.gpu.gpu_tenancy#role).
      type: list
      elements: dict
      required: true
    wanted:
      description: What P(onprem.gpu.tenancy_objects#filter) made of the same teams.
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
- name: Remove what the teams no longer need
  onprem.gpu.cluster_objects:
    objects: "{{ gpu_teams | onprem.gpu.tenancy_unwanted(gpu_teams | onprem.gpu.tenancy_objects) }}"
    state: absent
"""

RETURN = r"""
  _value:
    description: Definitions with nothing but C(apiVersion), C(kind), name and namespace.
    type: list
    elements: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.tenancy import unwanted


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"tenancy_unwanted": unwanted}
