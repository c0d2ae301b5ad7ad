# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of gpu-mig: whatever its engine imports is among them, and they are what a state document takes."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.gpu.plugins.filter.mig_tool_files import FilterModule
from ansible_collections.onprem.gpu.plugins.module_utils.state_document import checked_documents
from ansible_collections.onprem.gpu.plugins.plugin_utils.with_nvml import MISSING

files = FilterModule().filters()["mig_tool_files"]
PACKAGE = "ansible_collections.onprem.gpu.plugins.module_utils"
IMPORTED = f"""
import sys
import {PACKAGE}.mig_tool
print(*(module.__file__ for name, module in sys.modules.items() if name.startswith("{PACKAGE}.")), sep="\\n")
"""


def test_they_are_what_python_really_imports() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    imported = {str(Path(line).resolve()) for line in done.stdout.split()}
    *copied, library, _program, _unit = files("/usr/bin/python3")
    assert {item["src"] for item in copied} == imported
    assert len(imported) > 5
    assert library["path"] == "/usr/local/lib/onprem-gpu/pynvml.py"


def test_they_are_items_of_a_state_document_whose_content_is_known() -> None:
    items = files("/usr/bin/python3")
    [document] = checked_documents({"mig": {"files": items}}).values()
    assert [item["path"] for item in document["files"]] == [item["path"] for item in items]
    for item in document["files"]:
        assert item["disrupts"] == "none"
        if item["src"]:
            assert item["mode"] == "0644"
            assert item["sha256"] == hashlib.sha256(Path(item["src"]).read_bytes()).hexdigest()


def test_program_and_unit_come_last_and_run_with_the_host_s_python() -> None:
    program, unit = files("/opt/python3.12/bin/python3")[-2:]
    assert (program["path"], program["mode"]) == ("/usr/local/sbin/gpu-mig", "0755")
    assert program["content"].startswith("#!/opt/python3.12/bin/python3 -BIS\n")
    assert unit["path"] == "/etc/systemd/system/gpu-mig.service"
    assert f"ExecStart={program['path']} apply" in Path(unit["src"]).read_text()


@pytest.mark.parametrize("interpreter", ["python3", "", "/usr/bin/env python3", "/" + 120 * "x", None])
def test_what_cannot_stand_behind_a_shebang_is_refused(interpreter: str | None) -> None:
    with pytest.raises(AnsibleFilterError, match="absolute path without white space, such as /usr/bin/python3"):
        files(interpreter)


def test_without_nvidia_ml_py_on_the_controller_there_is_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AnsibleFilterError, match=re.escape(MISSING)):
        files("/usr/bin/python3")
