# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: tenancy_removal
  short_description: Namespaces of teams that shall go
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Returns the namespaces that belong to teams whose state is absent, and that exist.
  positional: namespaces
  options:
    _input:
      description: The teams, as in the variable C(gpu_teams) of the role P(onprem.gpu.gpu_tenancy#role).
      type: list
      elements: dict
      required: true
    namespaces:
      description: Names of the namespaces there are.
      type: list
      elements: str
      required: true
"""

EXAMPLES = r"""
- name: Say what would be removed
  ansible.builtin.debug:
    msg: "{{ gpu_teams | onprem.gpu.tenancy_removal(['team-vision', 'default']) }}"
"""

RETURN = r"""
  _value:
    description: Definitions of the namespaces, with nothing but their names.
    type: list
    elements: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.tenancy import removable
from ansible_collections.onprem.gpu.plugins.module_utils.tenancy_problems import namespace_of


def tenancy_removal(teams: list[dict[str, t.Any]], namespaces: list[str]) -> list[dict[str, t.Any]]:
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace_of(team)}}
        for team in removable(teams, namespaces)
    ]


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"tenancy_removal": tenancy_removal}
