# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: driver_plan
  short_description: The driver of one host, as packages, kernel modules and services
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Decides from the hardware and the operating system of a host, and from what is wished for, which driver packages
      at which version, which kernel modules (open or proprietary) and which services the host gets.
    - Fails with every reason when the wishes cannot be met; P(onprem.gpu.driver_findings#filter) returns them instead.
  positional: wishes
  options:
    _input:
      description: What M(onprem.gpu.gpu_info) registered for the host.
      type: dict
      required: true
    wishes:
      description:
        - The variables of the role P(onprem.gpu.gpu_driver#role) without their prefix, and C(as_of), today as
          C(YYYY-MM-DD). The role has them as C(gpu_driver_wishes).
      type: dict
      required: true
"""

EXAMPLES = r"""
- name: Say what the host will get
  ansible.builtin.debug:
    msg: "{{ (gpu_survey_host | onprem.gpu.driver_plan(gpu_driver_wishes)).packages }}"
"""

RETURN = r"""
  _value:
    description: The plan; empty lists for a host without a GPU.
    type: dict
    contains:
      version:
        description: The exact driver version.
        type: str
      kernel_modules:
        description: V(open) or V(proprietary).
        type: str
      packages:
        description: Packages as items of the state document, in install order.
        type: list
        elements: dict
      services:
        description: Units that belong to the driver on this host.
        type: list
        elements: str
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.gpu.plugins.module_utils.driver_plan import plan
from ansible_collections.onprem.gpu.plugins.module_utils.findings import PlanError


def driver_plan(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    try:
        return plan(host, wishes)
    except PlanError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"driver_plan": driver_plan}
