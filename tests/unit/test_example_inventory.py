# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example inventory is one that works: it parses, and check_variables has nothing to say about it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "inventories" / "example"
CHECK = "- hosts: gpu_nodes\n  gather_facts: false\n  tasks:\n    - onprem.gpu.check_variables:\n"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """A copy of the example with a file for every key it names; what is in them is not looked at here."""
    copy = tmp_path / "example"
    shutil.copytree(EXAMPLE, copy)
    for variables in copy.glob("*_vars/*.yml"):
        for name in re.findall(r"/keys/([\w.-]+)'", variables.read_text()):
            (copy / "keys" / name).write_text("key\n")
    return copy


def check_variables(inventory: Path) -> subprocess.CompletedProcess[str]:
    playbook = inventory / "check.yml.txt"
    playbook.write_text(CHECK)
    program = Path(sys.executable).with_name("ansible-playbook")
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"}
    return subprocess.run(
        [str(program), "-i", str(inventory / "hosts.yml"), str(playbook)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )


def test_the_example_has_only_known_variables_with_valid_values(inventory: Path) -> None:
    done = check_variables(inventory)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("failed=0") == 12, "every host of every group was checked"


def test_a_slip_in_it_is_found_with_file_line_and_suggestion(inventory: Path) -> None:
    variables = inventory / "group_vars" / "gpu_h100.yml"
    variables.write_text(variables.read_text() + "gpu_kubelet_cpu_manger_policy: static\n")
    line = len(variables.read_text().splitlines())
    done = check_variables(inventory)
    assert done.returncode != 0
    assert f"group_vars/gpu_h100.yml:{line}" in done.stdout
    assert "did you mean gpu_kubelet_cpu_manager_policy?" in done.stdout
    assert "gpu-l40s-1.dc1.example.com: variable" not in done.stdout


def test_every_key_file_it_names_is_explained() -> None:
    readme = (EXAMPLE / "keys" / "README.md").read_text()
    named = {
        name for path in EXAMPLE.glob("*_vars/*.yml") for name in re.findall(r"/keys/([\w.-]+)'", path.read_text())
    }
    assert named
    assert {name for name in named if f"`{name}`" not in readme} == set()
