#!/usr/bin/python
# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: report_findings
short_description: Show what stands against a host, and fail the host if an error is among it
version_added: 0.1.0
description:
  - Prints findings as a short table, the worst first. Each line names host, what is wrong, what is allowed, and where
    to set it, with the file and line that set it now.
  - Fails the host when one of the findings has the severity V(error), after all of them were printed.
  - Runs on the controller and opens no connection.
author:
  - Contributors to the onprem.gpu collection (@onprem)
options:
  findings:
    description:
      - Findings as P(onprem.gpu.host_findings#filter), P(onprem.gpu.driver_findings#filter) and
        P(onprem.gpu.kubelet_findings#filter) give them.
    type: list
    elements: dict
    required: true
  severity:
    description:
      - Another severity for a check, by its name, as in the example.
      - The severities are V(error), V(warning) and V(info).
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Nothing is ever changed.
  diff_mode:
    support: none
    description: Nothing is ever changed.
notes:
  - The file and line come from ansible-core 2.19 or newer.
seealso:
  - module: onprem.gpu.check_variables
"""

EXAMPLES = r"""
- name: Refuse what cannot work
  onprem.gpu.report_findings:
    findings: "{{ gpu_survey_host | onprem.gpu.driver_findings(gpu_driver_wishes) }}"
    severity:
      driver_branch_end_of_life: warning
"""

RETURN = r"""
msg:
  description: The table, one line per finding.
  returned: always
  type: str
  sample: "error    driver_branch_supports_gpus  gpu-a: Driver branch 595 does not support V100 (Volta). Allowed: 580."
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "findings": {"type": "list", "elements": "dict", "required": True},
            "severity": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    module.fail_json(msg="onprem.gpu.report_findings works on the controller through its action plugin only.")


if __name__ == "__main__":
    main()
