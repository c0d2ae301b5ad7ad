# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: kubelet_plan
  short_description: The kubelet's resource managers on one host
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Makes a complete KubeletConfiguration for C(--config-dir) from the measured topology of a host and from what is
      wished for. Reserved CPUs are whole cores spread over the NUMA nodes; reserved memory adds up to what the memory
      manager demands.
    - Fails with every reason when the wishes cannot be met; P(onprem.gpu.kubelet_findings#filter) returns them instead.
  positional: wishes
  options:
    _input:
      description: What M(onprem.gpu.gpu_info) registered for the host.
      type: dict
      required: true
    wishes:
      description:
        - The variables of the role P(onprem.gpu.gpu_kubelet#role) without their prefix.
          The role has them as C(gpu_kubelet_wishes).
      type: dict
      required: true
"""

EXAMPLES = r"""
- name: Say which CPUs are kept for the system
  ansible.builtin.debug:
    msg: "{{ (gpu_survey_host | onprem.gpu.kubelet_plan(gpu_kubelet_wishes)).reserved_cpus }}"
"""

RETURN = r"""
  _value:
    description: The plan.
    type: dict
    contains:
      configuration:
        description: The KubeletConfiguration as data.
        type: dict
      reserved_cpus:
        description: The reserved CPUs as a CPU list, such as V(0-1,64-65).
        type: str
      checkpoints:
        description: State files of the kubelet that must agree, as items of the state document.
        type: list
        elements: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.gpu.plugins.module_utils.findings import PlanError
from ansible_collections.onprem.gpu.plugins.module_utils.kubelet_plan import plan


def kubelet_plan(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    try:
        return plan(host, wishes)
    except PlanError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"kubelet_plan": kubelet_plan}
