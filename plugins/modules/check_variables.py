#!/usr/bin/python
# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: check_variables
short_description: Check every variable of this collection before a host is touched
version_added: 0.1.0
description:
  - Compares all variables of the current host that belong to this collection with the argument specs of all its roles.
  - Finds unknown names with a suggestion, wrong types, values outside the choices, unknown or missing keys in lists and
    mappings, and templates without a value. Reports everything at once; each finding names host, variable, value, what
    is allowed and the file and line where it was set.
  - Runs on the controller and opens no connection. It takes no options, it reads the variables themselves.
  - Fails the host when it finds an error. A name that only looks like one of this collection's is a warning.
author:
  - Contributors to the onprem.gpu collection (@onprem)
attributes:
  check_mode:
    support: full
    description: Nothing is ever changed.
  diff_mode:
    support: none
    description: Nothing is ever changed.
notes:
  - The file and line come from ansible-core 2.19 or newer.
  - Values made from the facts of M(onprem.gpu.gpu_info) are not known yet and are left to the role that uses them.
seealso:
  - module: onprem.gpu.gpu_info
  - module: onprem.gpu.survey
"""

EXAMPLES = r"""
- name: Check the variables of every GPU host
  onprem.gpu.check_variables:
"""

RETURN = r"""
msg:
  description: One line per error, naming host, variable, value, what is allowed and where it was set.
  returned: always
  type: str
  sample: >-
    gpu-a: gpu_kubelet_cpu_manager_policy is 'Static', which is not a choice, did you mean 'static'?
    Allowed: none, static. Set in inventories/prod/group_vars/gpu_nodes.yml:12.
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    module.fail_json(msg="onprem.gpu.check_variables works on the controller through its action plugin only.")


if __name__ == "__main__":
    main()
