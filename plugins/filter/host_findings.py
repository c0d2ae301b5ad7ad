# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: host_findings
  short_description: What a host lacks to become a GPU node, besides driver and kubelet settings
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Looks at GPUs, container runtime, the versions of kubelet, containerd and API server, cgroup version, swap, Secure
      Boot with modules that DKMS builds, and nouveau.
  positional: wishes
  options:
    _input:
      description: What M(onprem.gpu.gpu_info) registered for the host.
      type: dict
      required: true
    wishes:
      description:
        - C(kubelet_version), C(runtime_packages) (as C(gpu_toolkit_runtime_packages)), C(driver_packages) (names) and
          C(api_server_version), empty when it is not known.
      type: dict
      required: true
"""

EXAMPLES = r"""
- name: Refuse what cannot work
  onprem.gpu.report_findings:
    findings: "{{ gpu_survey_host | onprem.gpu.host_findings(wishes) }}"
  vars:
    wishes:
      kubelet_version: 1.37.1
      api_server_version: v1.37.1
      runtime_packages: []
      driver_packages: [nvidia-kernel-open-dkms]
"""

RETURN = r"""
  _value:
    description: One dict per finding, with C(check), C(severity), C(value), C(message), C(allowed) and C(variable).
    type: list
    elements: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.compat import refusals


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"host_findings": refusals}
