# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: tenancy_removal_findings
  short_description: What stands against the removal of teams
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - A team whose state is absent loses its namespace and all that is in it. That must not happen to a namespace that
      is not the team's, nor to pods and volumes that nobody has given up.
  positional: namespaces, held, confirmed
  options:
    _input:
      description: The teams, as in the variable C(gpu_teams) of the role P(onprem.gpu.gpu_tenancy#role).
      type: list
      elements: dict
      required: true
    namespaces:
      description: The Namespace objects there are.
      type: list
      elements: dict
      required: true
    held:
      description: Pods that have not ended, and volume claims.
      type: list
      elements: dict
      required: true
    confirmed:
      description: Names of the teams whose pods and data may be lost.
      type: list
      elements: str
      required: true
"""

EXAMPLES = r"""
- name: Refuse to remove a team that still works
  ansible.builtin.assert:
    that: refused | length == 0
    fail_msg: "{{ refused | join(' ') }}"
  vars:
    refused: "{{ gpu_teams | onprem.gpu.tenancy_removal_findings(namespaces.resources, pods.resources, []) }}"
"""

RETURN = r"""
  _value:
    description: One sentence per team that cannot be removed; empty when nothing stands against it.
    type: list
    elements: str
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.findings import sentence
from ansible_collections.onprem.gpu.plugins.module_utils.tenancy import removal_problems


def tenancy_removal_findings(
    teams: list[dict[str, t.Any]],
    namespaces: list[dict[str, t.Any]],
    held: list[dict[str, t.Any]],
    confirmed: list[str],
) -> list[str]:
    return [sentence(found) for found in removal_problems(teams, namespaces, held, confirmed)]


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"tenancy_removal_findings": tenancy_removal_findings}
