# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: disk_findings
  short_description: Which paths of a host have too little free space
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Compares the free space that M(onprem.gpu.gpu_info) measured with what is wanted. A path it did not measure is
      not judged.
  positional: min_free
  options:
    _input:
      description: What M(onprem.gpu.gpu_info) registered for the host.
      type: dict
      required: true
    min_free:
      description: Sizes by path, in units of 1000 (V(500M)) or 1024 (V(5GiB), V(5Gi)).
      type: dict
      required: true
"""

EXAMPLES = r"""
- name: Stop before the disk is full
  onprem.gpu.report_findings:
    findings: "{{ gpu_survey_host | onprem.gpu.disk_findings({'/usr': '3GiB', '/var': '5GiB'}) }}"
"""

RETURN = r"""
  _value:
    description: One dict per path, with C(check), C(severity), C(value), C(message), C(allowed) and C(variable).
    type: list
    elements: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.gpu.plugins.module_utils.compat import disk_refusals
from ansible_collections.onprem.gpu.plugins.module_utils.findings import Finding


def disk_findings(host: t.Mapping[str, t.Any], min_free: t.Mapping[str, str]) -> list[Finding]:
    try:
        return disk_refusals(host, min_free)
    except ValueError as error:
        raise AnsibleFilterError(f"gpu_preflight_min_free: {error}") from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"disk_findings": disk_findings}
