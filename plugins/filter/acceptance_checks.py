# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: acceptance_checks
  short_description: Checks by which a node is accepted
  version_added: 0.2.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Judges the driver and the GPUs of a host, its node, and the pods that tried its GPUs, by what is wanted of them.
    - What nobody can judge, because something before it failed or because no device was free, is said to be so.
  positional: wishes, node, smoke, logs
  options:
    _input:
      description: What M(onprem.gpu.gpu_info) registered for the host.
      type: dict
      required: true
    wishes:
      description:
        - What is wanted. C(node), C(gpus) (0 means at least one), C(driver_version), C(fabric_manager), C(mig_layout),
          C(mig_differences), C(expected) (counts by resource), C(runtime_handler) and C(smoke_not_run). The role
          P(onprem.gpu.gpu_acceptance#role) has them.
      type: dict
      required: true
    node:
      description: The host's entry of RV(onprem.gpu.nodes_info#module:nodes), V(null) when there is none.
      type: dict
      required: true
    smoke:
      description: Reports of its pods, see P(onprem.gpu.smoke_reports#filter).
      type: list
      elements: dict
      default: []
    logs:
      description: What the pods said, by their names.
      type: dict
      default: {}
"""

EXAMPLES = r"""
- name: Name the checks that failed
  ansible.builtin.debug:
    msg: "{{ gpu_survey_host | onprem.gpu.acceptance_checks(wishes, node) | selectattr('passed', 'eq', false) }}"
"""

RETURN = r"""
  _value:
    description:
      - One dict per check with check, passed, want, have and message. C(passed) is V(null) where nobody could judge.
    type: list
    elements: dict
    sample:
      - check: driver_version
        passed: false
        want: 580.173.02
        have: 580.159.03
        message: "driver 580.159.03 is loaded, wanted 580.173.02: drain the node and run onprem.gpu.prepare"
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.acceptance import checks


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"acceptance_checks": checks}
