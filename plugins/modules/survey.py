#!/usr/bin/python
# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: survey
short_description: Tell what differs between a host and its state documents
version_added: 0.1.0
description:
  - Takes everything that is wanted of a host as data and answers in one round trip what is not so, item by item, and
    what making it so would disrupt.
  - It never changes anything. The tasks that write a host loop over the same documents and run only where the survey
    found a difference.
  - It judges as the builtin modules do that write the documents (M(ansible.builtin.copy), M(ansible.builtin.file),
    M(ansible.builtin.apt), M(ansible.builtin.dnf), M(ansible.builtin.dpkg_selections),
    M(ansible.builtin.systemd_service)), so that no difference means that none of them would change anything.
  - Differences that others will cause are told as well. When a file is going to be written, so is the restart of each
    service that lists it in C(restarts_on), and the rebuild of the initramfs.
options:
  documents:
    description:
      - State documents by name. Each is a dictionary with any of the sections below; a section that is missing or
        V(null) wants nothing.
      - Every document is checked before the host is looked at. An unknown key, a wrong value or an item named twice
        in one section is an error that names its place and what is allowed.
      - Every item takes C(disrupts), what making a difference good disrupts. It is one of V(none) (the default),
        V(gpu), V(kubelet), V(runtime) and V(reboot).
      - C(packages) is a list of packages in the order in which they are installed. C(name) is required. C(version) is
        the complete version, or leaves out the epoch, the revision (Debian) or release (rpm), or both; V(null) takes
        any. C(hold) is V(true) for a hold (C(apt-mark hold), C(dnf versionlock)) at that version, V(false) for none,
        V(null) to leave it alone. C(state) is V(present) (the default) or V(absent). A transaction of dpkg or rpm
        that was interrupted is a difference of each document that has packages.
      - C(files) is a list of text files. C(path) is required. C(content), C(mode) (default V("0644")), C(owner) and
        C(group) (default V(root)) are compared exactly. C(state) is V(present) (the default) or V(absent). C(first)
        marks files that are written before packages. Instead of C(content), C(sha256) compares the digest only, and
        C(src) names the controller's file that the tasks copy.
      - C(generated) is a list of files whose right content only the host can say. C(path) and C(argv) are required.
        C(argv) is run once; it must print the content and change nothing. C(mode), C(owner) and C(group) are as for
        C(files). A program that is not installed yet, or fails, is a difference.
      - C(modules) is a list of kernel modules. C(name) is required. C(version) is that of the loaded module, V(null)
        takes any. C(state) is V(loaded) (the default) or V(absent).
      - C(services) is a list of systemd units. C(name) is required. C(enabled), C(masked) and C(state) (V(started) or
        V(stopped)) may each be V(null) (the default) to leave it alone, but a unit that is wanted enabled or started
        must not be masked either. C(restarts_on) lists files; a running unit
        that was started before one of them was last modified differs. As for M(ansible.builtin.systemd_service), a
        unit that is static or generated counts as enabled, and one that is only starting as started. A unit that is
        not installed is neither.
      - C(initramfs) is a dictionary whose C(newer_than) lists files; the initramfs of the running kernel must be
        newer than each.
      - C(checkpoints) is a list of JSON files of a daemon that must agree with its configuration, or not be there.
        C(path), C(key), C(value) and C(service) are required. A file that has another C(value) under C(key) differs;
        it is removed while C(service) is stopped. Dots in C(key) lead into nested objects.
      - C(mig) is a dictionary with the MIG layout of the host's GPUs. C(selected) is required; C(config) and C(reset)
        may be missing. They are those of M(onprem.gpu.mig), whose planner tells what differs.
    type: dict
    required: true
  _nvidia_ml_py:
    description: The controller's nvidia-ml-py, which the controller's half of the module sends. Not for playbooks.
    type: str
attributes:
  check_mode:
    support: full
    description: Does the same in check mode, since it only reads.
  diff_mode:
    support: full
    description: Shows every difference, files with their text; keep secrets out of documents or use C(no_log).
  idempotent:
    support: full
    description: The task itself never reports a change.
  platform:
    support: full
    platforms: linux
    description: Needs systemd for services, and dpkg (Debian family) or rpm (Red Hat family) for packages.
notes:
  - Run it as root. It fails when something a document mentions cannot be read, since it must not take it for right.
  - A generated file is held against what its program prints now. Where packages differ as well, the program may print
    something else once they are right; then a difference of such a file may turn out to be none.
  - Starts at most one package query, two calls of C(systemctl), and the programs of C(generated).
  - When a service was started is compared with when files were modified. A file that was written while the clock was
    wrong, or in a guest that was paused afterwards, may compare wrongly; removed files leave no time behind.
seealso:
  - module: onprem.gpu.gpu_info
author:
  - Contributors to the onprem.gpu collection (@onprem)
"""

EXAMPLES = r"""
- name: Survey the host
  onprem.gpu.survey:
    documents:
      gpu_driver: "{{ gpu_driver_state }}"
      gpu_toolkit: "{{ gpu_toolkit_state }}"
  register: gpu_survey_result

- name: Show what check mode would change
  onprem.gpu.survey:
    documents:
      blacklist:
        files:
          - path: /etc/modprobe.d/blacklist-nouveau.conf
            content: |
              blacklist nouveau
              options nouveau modeset=0
            mode: "0644"
        initramfs:
          newer_than: [/etc/modprobe.d/blacklist-nouveau.conf]
          disrupts: reboot
        modules:
          - name: nouveau
            state: absent
            disrupts: reboot
  register: blacklist
  changed_when: ansible_check_mode and not blacklist.converged

- name: Stop when the change needs the node drained
  ansible.builtin.assert:
    that: blacklist.disrupts | difference(['none']) | length == 0
    fail_msg: "{{ blacklist.differences | map(attribute='summary') | join('; ') }}"
"""

RETURN = r"""
converged:
  description: Whether nothing differs.
  returned: success
  type: bool
  sample: false
differences:
  description: Everything that differs, document by document, in the order in which a document is written.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Document, kind and name, joined by slashes. Unique, and the same in every run.
      type: str
      sample: gpu_driver/package/nvidia-open
    document:
      description: Name of the document.
      type: str
      sample: gpu_driver
    kind:
      description:
        - V(unfinished) (an interrupted package transaction), V(file), V(package), V(hold), V(generated), V(initramfs),
          V(module), V(checkpoint), V(mig) or V(service).
      type: str
      sample: package
    name:
      description:
        - Name or path of the item. V(dpkg) or V(rpm) for V(unfinished), V(initramfs) for V(initramfs), a GPU such as
          V(GPU 0) for V(mig), and V(layout) where the layout cannot be compared or reached now.
      type: str
      sample: nvidia-open
    want:
      description: What is wanted, for people. The content of a file is named by its digest.
      type: str
      sample: 580.159.03
    have:
      description: What is there, in the same words.
      type: str
      sample: absent
    disrupts:
      description: What making it good disrupts, as the document says.
      type: str
      sample: gpu
    summary:
      description: The difference in one line.
      type: str
      sample: install nvidia-open 580.159.03
documents:
  description: The same differences by name of document, an empty list for one that has none.
  returned: success
  type: dict
  sample: {gpu_driver: [], gpu_toolkit: []}
disrupts:
  description: What the differences disrupt, each once, from harmless to hardest, V(none) included.
  returned: success
  type: list
  elements: str
  sample: [none, gpu]
diff:
  description: One entry for each difference, for C(--diff).
  returned: success
  type: list
  elements: dict
  sample:
    - before_header: gpu_driver/package/nvidia-open (now)
      after_header: gpu_driver/package/nvidia-open (wanted)
      before: "absent\n"
      after: "580.159.03\n"
errors:
  description: What could not be read and made no item uncertain.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The file or program.
      type: str
      sample: /proc/modules
    reason:
      description: What the system said.
      type: str
      sample: Input/output error
problems:
  description: Every mistake in O(documents), each with its place and what is allowed.
  returned: when the documents have mistakes
  type: list
  elements: str
  sample: ['documents.gpu_driver.packages[0].hold is "yes"; it must be true, false, or null to leave it alone.']
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.onprem.gpu.plugins.module_utils.drift import Difference, differences, disruptions
from ansible_collections.onprem.gpu.plugins.module_utils.host import Host, HostError
from ansible_collections.onprem.gpu.plugins.module_utils.mig_survey import layouts
from ansible_collections.onprem.gpu.plugins.module_utils.present_state import read_present
from ansible_collections.onprem.gpu.plugins.module_utils.state_document import DocumentError, checked_documents

ARGUMENTS: dict[str, t.Any] = {
    "documents": {"type": "dict", "required": True},
    # nvidia-ml-py's source, from the action plugin; no_log keeps it out of logs and results.
    "_nvidia_ml_py": {"type": "str", "no_log": True},
}


def report(names: t.Iterable[str], found: t.Sequence[Difference]) -> dict[str, t.Any]:
    """The module's result for the documents of these names."""
    shown = [difference.as_result() for difference in found]
    return {
        "converged": not found,
        "differences": shown,
        "documents": {name: [one for one in shown if one["document"] == name] for name in names},
        "disrupts": disruptions(found),
        "diff": [difference.as_diff() for difference in found],
    }


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    host = Host()
    try:
        documents = checked_documents(module.params["documents"])
        present = read_present(host, documents)._replace(mig=layouts(host, module.params["_nvidia_ml_py"], documents))
        found = differences(documents, present)
    except DocumentError as error:
        module.fail_json(msg=f"The state documents have mistakes: {' '.join(error.problems)}", problems=error.problems)
    except HostError as error:
        module.fail_json(msg=f"The host cannot be surveyed: {error}")
    module.exit_json(changed=False, errors=host.errors, **report(documents, found))


if __name__ == "__main__":
    main()
