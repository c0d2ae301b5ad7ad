# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: operator_values
  short_description: Values of the GPU operator's chart for hosts that own driver and toolkit
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Turns driver and toolkit containers off, and lets every pod of the operator tolerate the taints of all hosts.
    - Fails when a host's C(gpu_node_taints) has a taint that Kubernetes does not know.
  options:
    _input:
      description: Variables of the hosts, such as C(groups.gpu_nodes | map('extract', hostvars)).
      type: list
      elements: dict
      required: true
    mig_strategy:
      description: How MIG devices are offered.
      type: str
      choices: [none, single, mixed]
      default: single
    cdi:
      description: Whether containers get their GPUs by CDI.
      type: bool
      default: true
    overrides:
      description: Values that win over all others. Mappings are merged, lists replaced.
      type: dict
      default: {}
"""

EXAMPLES = r"""
- name: Show the values
  ansible.builtin.debug:
    msg: "{{ groups.gpu_nodes | map('extract', hostvars) | onprem.gpu.operator_values(mig_strategy='mixed') }}"
"""

RETURN = r"""
  _value:
    description: Values for helm.
    type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.gpu.plugins.module_utils.operator_plan import TaintError, values


def operator_values(hosts: t.Iterable[t.Mapping[str, t.Any]], **settings: t.Any) -> dict[str, t.Any]:
    try:
        return values(hosts, **settings)
    except TaintError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"operator_values": operator_values}
