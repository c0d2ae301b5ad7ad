#!/usr/bin/python
# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: repository_info
short_description: Ask package repositories who signed them and what they offer
version_added: 0.1.0
description:
  - Fetches the signed index of each repository from this host, verifies it with the key that is wanted for it, and
    looks up which versions of the wanted packages it offers. So a wrong key, an unreachable repository or a version
    that is not there is known before anything on the host is changed.
  - Needs nothing but Python 3.9 and what the package manager itself needs. Proxies and passwords are those of the
    package manager (apt's configuration through its C(apt-helper); C(proxy) and C(sslverify) of C(/etc/dnf/dnf.conf)).
  - Changes nothing; the keys go into a temporary folder.
author:
  - Contributors to the onprem.gpu collection (@onprem)
options:
  format:
    description:
      - V(apt) for repositories with C(InRelease), or C(Release) and C(Release.gpg).
      - V(yum) for repositories with C(repodata/repomd.xml) and C(repodata/repomd.xml.asc).
    type: str
    choices: [apt, yum]
    required: true
  repositories:
    description: The repositories to ask.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: A name to find the answer by.
        type: str
        required: true
      url:
        description: Where the repository lies, as in the package manager's configuration.
        type: str
        required: true
      suites:
        description:
          - For V(apt), the suite, as in the package manager's configuration. One that ends with a slash is the folder
            of a flat repository.
        type: str
        default: /
      components:
        description: For V(apt) and a suite without a slash, the components, separated by blanks.
        type: str
        default: main
      key:
        description: The public key that must have signed it, ASCII-armoured.
        type: str
        required: true
  packages:
    description: Names of the packages whose offered versions are wanted. Without one, no package list is fetched.
    type: list
    elements: str
    default: []
  timeout_seconds:
    description: How long to wait for each answer.
    type: int
    default: 20
attributes:
  check_mode:
    support: full
    description: Nothing is ever changed.
  diff_mode:
    support: none
    description: Nothing is ever changed.
  platform:
    platforms: posix
    support: full
    description: Debian, Ubuntu, RHEL and their relatives.
seealso:
  - module: onprem.gpu.check_variables
  - module: onprem.gpu.survey
"""

EXAMPLES = r"""
- name: Ask the driver repository
  onprem.gpu.repository_info:
    format: apt
    repositories:
      - name: cuda
        url: https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/
        key: "{{ lookup('ansible.builtin.file', 'keys/cuda.asc') }}"
    packages: [nvidia-open]
  register: gpu_driver_repositories_found
"""

RETURN = r"""
repositories:
  description: One answer per repository, in the order asked.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The name that was given.
      type: str
    url:
      description: The address that was given.
      type: str
    reachable:
      description: Whether the signed index could be fetched.
      type: bool
    signed_by:
      description: Fingerprint of the key that signed the index; empty when it is not signed by the wanted key.
      type: str
    error:
      description: What is wrong, naming file and reason; empty when all is well.
      type: str
    offered:
      description: The versions of each wanted package that this repository has.
      type: dict
  sample:
    - name: cuda
      url: https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/
      reachable: true
      signed_by: EB693B3035CD5710E231E123A4B469963BF863CC
      error: ""
      offered:
        nvidia-open: ["580.159.03-1", "580.173.02-1"]
"""

import gzip
import hashlib
import lzma
import platform
import shutil
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.onprem.gpu.plugins.module_utils import openpgp, repository_index
from ansible_collections.onprem.gpu.plugins.module_utils.repository_access import (
    FetchError,
    RepositoryAccess,
    SignatureError,
)

DEB_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class WrongIndex(Exception):
    """The repository's files do not fit together; the message says how."""


def answer_about(access: RepositoryAccess, package_format: str, repository: dict, packages: list) -> dict:
    """Return one element of RV(repositories)."""
    answer: dict[str, t.Any] = {key: repository[key] for key in ("name", "url")}
    answer.update(reachable=False, signed_by="", error="", offered=None)
    ask = ask_apt if package_format == "apt" else ask_yum
    try:
        ask(access, repository, packages, answer)
    except FetchError as error:
        answer["error"] = f"cannot fetch {error}"
    except (openpgp.OpenPgpError, SignatureError) as error:
        answer["error"] = f"{repository['url']} is not signed by the wanted key: {error}"
    except (WrongIndex, OSError, ValueError, lzma.LZMAError, EOFError) as error:
        answer["error"] = f"{repository['url']} has a damaged index: {error}"
    return answer


def ask_apt(access: RepositoryAccess, repository: dict, packages: list, answer: dict) -> None:
    suite, folders = repository_index.apt_folders(
        repository["suites"], repository["components"], DEB_ARCHITECTURES.get(platform.machine(), platform.machine())
    )
    url = "/".join(part for part in (repository["url"].rstrip("/"), suite) if part)
    keyring = openpgp.keyring(repository["key"])
    release, signature = fetch_release(access, url)
    answer["reachable"] = True
    content, answer["signed_by"] = access.verify(keyring, release, signature)
    listed = [repository_index.apt_package_list(text_of(content), folder) for folder in folders]
    if packages and all(readable(one) for one in listed):
        text = "\n".join(fetch_package_list(access, url, one) for one in listed if one)
        answer["offered"] = repository_index.apt_versions(text, packages)


def ask_yum(access: RepositoryAccess, repository: dict, packages: list, answer: dict) -> None:
    url = repository["url"].rstrip("/")
    keyring = openpgp.keyring(repository["key"])
    repomd = access.fetch(url + "/repodata/repomd.xml")
    answer["reachable"] = True
    signature = access.fetch(url + "/repodata/repomd.xml.asc")
    content, answer["signed_by"] = access.verify(keyring, repomd, signature)
    listed = repository_index.yum_package_list(text_of(content))
    if packages and listed and readable(listed):
        answer["offered"] = repository_index.yum_versions(fetch_package_list(access, url, listed), packages)


def fetch_release(access: RepositoryAccess, url: str) -> tuple[str, str | None]:
    """Return (file, detached signature or None): the clear-signed one where the repository has it and gpgv reads it."""
    if shutil.which("gpgv"):
        try:
            return access.fetch(url + "/InRelease"), None
        except FetchError as error:
            if not error.absent:
                raise
    return access.fetch(url + "/Release"), access.fetch(url + "/Release.gpg")


def readable(listed: repository_index.PackageList | None) -> bool:
    """True when Python 3.9 can unpack the list; Zstandard needs 3.14."""
    return listed is not None and not listed.path.endswith((".zst", ".bz2"))


def fetch_package_list(access: RepositoryAccess, url: str, listed: repository_index.PackageList) -> str:
    """Return the text of the package list, which must be the one that the signed index names."""
    with open(access.fetch(f"{url}/{listed.path}"), "rb") as copy:
        packed = copy.read()
    if hashlib.sha256(packed).hexdigest() != listed.sha256:
        raise WrongIndex(f"{listed.path} is not the file that the signed index names")
    return unpacked(listed.path, packed).decode("utf-8")


def unpacked(path: str, packed: bytes) -> bytes:
    if path.endswith(".gz"):
        return gzip.decompress(packed)
    if path.endswith(".xz"):
        return lzma.decompress(packed)
    return packed


def text_of(path: str) -> str:
    with open(path, encoding="utf-8") as content:
        return content.read()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "format": {"type": "str", "choices": ["apt", "yum"], "required": True},
            "repositories": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "url": {"type": "str", "required": True},
                    "suites": {"type": "str", "default": "/"},
                    "components": {"type": "str", "default": "main"},
                    "key": {"type": "str", "required": True, "no_log": False},
                },
            },
            "packages": {"type": "list", "elements": "str", "default": []},
            "timeout_seconds": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C.UTF-8"}
    answers = []
    for repository in module.params["repositories"]:
        with tempfile.TemporaryDirectory(dir=module.tmpdir) as folder:
            access = RepositoryAccess(
                module.run_command, module.params["format"], folder, module.params["timeout_seconds"]
            )
            answers.append(answer_about(access, module.params["format"], repository, module.params["packages"]))
    module.exit_json(changed=False, repositories=answers)


if __name__ == "__main__":
    main()
