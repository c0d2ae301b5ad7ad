# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: mig_tool_files
  short_description: Files that put the program gpu-mig on a host
  version_added: 0.2.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Makes the files of C(gpu-mig), which brings the GPUs of a host back to their MIG layout when it boots.
    - They are the files of this collection that it needs, the controller's nvidia-ml-py, the program, and its service.
    - The host needs Python 3.9 and nothing else. The program does not look at what is installed for that Python.
  options:
    _input:
      description: Path of the host's Python, 3.9 or later.
      type: str
      required: true
"""

EXAMPLES = r"""
- name: List what gpu-mig consists of
  ansible.builtin.debug:
    msg: "{{ '/usr/bin/python3' | onprem.gpu.mig_tool_files | map(attribute='path') }}"
"""

RETURN = r"""
  _value:
    description:
      - Files as items of the state document. The program (V(/usr/local/sbin/gpu-mig)) has C(content), all others have
        C(src) and C(sha256).
      - It is an error when the controller has no nvidia-ml-py.
    type: list
    elements: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.plugin_utils.mig_tool_files import mig_tool_files


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"mig_tool_files": mig_tool_files}
