# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layers of docs/architecture.md: only edges talk to the world, and what runs on hosts needs nothing but Python."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
OURS = "ansible_collections.onprem.gpu.plugins."
EDGES = {"cluster", "host", "mig_nvml", "nvml", "repository_access"}
WORLD = {"ansible", "ctypes", "http", "kubernetes", "pynvml", "requests", "socket", "ssl", "subprocess"}
ON_HOSTS = ("modules/gpu_info", "modules/mig", "modules/survey", "module_utils/mig_tool")


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module.startswith(OURS[:-1])}
    return names


def module_utils_behind(path: Path) -> set[Path]:
    """All files of module_utils that a file needs, directly or through others."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        for name in imported(waiting.pop()):
            needed = PLUGINS.joinpath(*name.removeprefix(OURS).split(".")).with_suffix(".py")
            if name.startswith(OURS) and needed.is_file() and needed not in found:
                found.add(needed)
                waiting.append(needed)
    return found


@pytest.mark.parametrize("path", sorted((PLUGINS / "module_utils").glob("*.py")), ids=lambda path: path.stem)
def test_only_edges_talk_to_the_world(path: Path) -> None:
    if path.stem not in EDGES:
        assert {name for name in imported(path) if name.split(".")[0] in WORLD} == set()


@pytest.mark.parametrize("front_end", ON_HOSTS)
def test_what_runs_on_hosts_needs_nothing_installed(front_end: str) -> None:
    path = PLUGINS / f"{front_end}.py"
    for file in [path, *module_utils_behind(path)]:
        foreign = {
            name
            for name in imported(file)
            if not name.startswith(("ansible.module_utils", OURS[:-1]))
            and name.split(".")[0] not in sys.stdlib_module_names
        }
        # the controller's nvidia-ml-py travels with the call
        assert foreign - {"pynvml"} == set(), file.name


@pytest.mark.parametrize("front_end", ON_HOSTS)
def test_what_runs_on_hosts_is_python_39(front_end: str) -> None:
    path = PLUGINS / f"{front_end}.py"
    for file in [path, *module_utils_behind(path)]:
        text = file.read_text()
        ast.parse(text, feature_version=(3, 9))
        assert "from __future__ import annotations" in text, file.name
