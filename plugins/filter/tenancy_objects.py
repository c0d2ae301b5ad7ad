# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: tenancy_objects
  short_description: Teams as Kubernetes objects
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Makes of each team a namespace with Pod Security labels, quotas, limits, roles and network policies, and checks
      what is written on the way. Fails with everything that is wrong, each with its place and what is allowed.
    - Needs no cluster, so it also shows what a change to the teams would mean.
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
    offered:
      description: Resource names that the nodes offer. Those of NVIDIA that a team has no quota for become 0.
      type: list
      elements: str
      default: []
    dns_namespace:
      description: Namespace whose pods answer DNS.
      type: str
      default: kube-system
    dns_cidrs:
      description: Networks outside the pods where DNS is answered.
      type: list
      elements: str
      default: []
    monitoring_namespaces:
      description: Namespaces that may reach the pods of every team.
      type: list
      elements: str
      default: []
"""

EXAMPLES = r"""
- name: Show what the teams become
  ansible.builtin.debug:
    msg: "{{ gpu_teams | onprem.gpu.tenancy_objects(offered=['nvidia.com/gpu']) }}"
"""

RETURN = r"""
  _value:
    description: Definitions in the order in which they can be applied.
    type: list
    elements: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.gpu.plugins.module_utils import tenancy
from ansible_collections.onprem.gpu.plugins.module_utils.findings import PlanError


def tenancy_objects(teams: list[dict[str, t.Any]], **settings: t.Any) -> list[dict[str, t.Any]]:
    try:
        return tenancy.objects(teams, **settings)
    except PlanError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"tenancy_objects": tenancy_objects}
