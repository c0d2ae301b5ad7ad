# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one module of the collection as Ansible would, in a process of its own, and get its result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t

import observe

PROGRAM = """
import importlib, json, sys
from ansible.module_utils.testing import patch_module_args
name, arguments = json.load(sys.stdin)
with patch_module_args(arguments):
    importlib.import_module(f"ansible_collections.onprem.gpu.plugins.modules.{name}").main()
"""


def run_module(
    name: str, options: dict[str, t.Any], check_mode: bool = False, environment: dict[str, str] | None = None
) -> dict[str, t.Any]:
    """The module's result without its invocation; `failed` is always there. Options that are None are left out."""
    given = {key: value for key, value in options.items() if value is not None}
    arguments = {**given, "_ansible_check_mode": check_mode, "_ansible_diff": True}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([name, arguments]),
        env={**os.environ, "PYTHONPATH": str(observe.ROOT / ".build" / "collections"), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout.startswith("\n{"):
        raise AssertionError(f"{name} did not answer as a module does: {done.stdout[-2000:]} {done.stderr[-4000:]}")
    result = json.loads(done.stdout)
    return {"failed": done.returncode != 0, **{key: value for key, value in result.items() if key != "invocation"}}
