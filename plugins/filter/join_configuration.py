# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: join_configuration
  short_description: The JoinConfiguration with which kubeadm joins a host
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Builds C(kubeadm.k8s.io/v1beta4). The result holds the bootstrap token.
  positional: access
  options:
    _input:
      description: The variables of the role P(onprem.gpu.gpu_node#role) without their prefix. The role has them as
        C(gpu_node_wishes).
      type: dict
      required: true
    access:
      description: What M(onprem.gpu.bootstrap_token) returned.
      type: dict
      required: true
    cri_socket:
      description: Socket of the container runtime.
      type: str
      required: true
    api_endpoint:
      description: Address and port of the API server; empty means the one in O(access).
      type: str
      default: ""
    ignore_preflight_errors:
      description: Checks of kubeadm that only warn.
      type: list
      elements: str
      default: []
"""

EXAMPLES = r"""
- name: Write the configuration
  ansible.builtin.copy:
    content: "{{ gpu_node_wishes | onprem.gpu.join_configuration(access, cri_socket=gpu_node_cri_socket) | to_nice_yaml
    }}"
    dest: /run/join.yaml
    mode: "0600"
  no_log: true
"""

RETURN = r"""
  _value:
    description: The document.
    type: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.join_plan import join_configuration


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"join_configuration": join_configuration}
