# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of the program gpu-mig on a node: its engine out of this collection, nvidia-ml-py, itself, and its unit.

Which files of module_utils these are is read from their import statements, so that none can be forgotten.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import pathlib
import re
import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.gpu.plugins.plugin_utils.with_nvml import MISSING, nvidia_ml_py_file

MODULE_UTILS = pathlib.Path(__file__).resolve().parent.parent / "module_utils"
PACKAGE = "ansible_collections.onprem.gpu.plugins.module_utils"
FRONT_END = "mig_tool"
FOLDER = "/usr/local/lib/onprem-gpu"
PROGRAM = "/usr/local/sbin/gpu-mig"
UNIT = "/etc/systemd/system/gpu-mig.service"
UNIT_FILE = MODULE_UTILS.parents[1] / "roles/gpu_mig/files/gpu-mig.service"

# -I and -S: neither the environment nor what is installed on the node can take the place of these files.
# -B: no compiled files beside them, which nobody would look after; that costs a run a fifth of a second.
SCRIPT = f"""\
#!{{interpreter}} -BIS
# Of the Ansible collection onprem.gpu, whose role gpu_mig writes this file.
import sys

sys.path.insert(0, "{FOLDER}")

from {PACKAGE}.{FRONT_END} import main

sys.exit(main(sys.argv[1:]))
"""
# Old kernels read no more than 127 characters of the first line of a script, and at most one option.
INTERPRETER = re.compile(r"/\S{1,110}")

Item = dict[str, t.Any]


def mig_tool_files(interpreter: str) -> list[Item]:
    """Return items of a state document; program and unit come last, so that they find what they need."""
    if not isinstance(interpreter, str) or not INTERPRETER.fullmatch(interpreter):
        raise AnsibleFilterError(
            f"mig_tool_files: {interpreter!r} is not the path of a Python interpreter on the host. Allowed: an "
            "absolute path without white space, such as /usr/bin/python3."
        )
    library = nvidia_ml_py_file()
    if library is None:
        raise AnsibleFilterError(MISSING)
    package = PACKAGE.replace(".", "/")
    return [
        *(_copied(f"{FOLDER}/{package}/{file.name}", file) for file in _files_behind(FRONT_END)),
        _copied(f"{FOLDER}/pynvml.py", library),
        {"path": PROGRAM, "content": SCRIPT.format(interpreter=interpreter), "mode": "0755", "disrupts": "none"},
        _copied(UNIT, UNIT_FILE),
    ]


def _copied(path: str, source: pathlib.Path) -> Item:
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return {"path": path, "src": str(source), "sha256": digest, "mode": "0644", "disrupts": "none"}


@functools.lru_cache(maxsize=1)
def _files_behind(front_end: str) -> tuple[pathlib.Path, ...]:
    """The file of this name and all files of module_utils that it imports, directly or through others."""
    found: set[str] = set()
    waiting = [front_end]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imported(_file(name))
    return tuple(_file(name) for name in sorted(found))


def _file(name: str) -> pathlib.Path:
    return MODULE_UTILS / f"{name}.py"


def _imported(file: pathlib.Path) -> list[str]:
    """Names of the files of module_utils that a file imports, anywhere in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            names += [f"{PACKAGE}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return [name[len(PACKAGE) + 1 :] for name in names if name.startswith(f"{PACKAGE}.")]
