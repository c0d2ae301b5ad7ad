# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Defaults, argument specifications and READMEs of the roles say the same, and the project's README knows all parts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
# Variables with one meaning in several roles, so they carry none of their names.
SHARED_PREFIXES = ("gpu_cluster_", "gpu_teams")


def load(role: str, path: str) -> dict:
    file = ROOT / "roles" / role / path
    assert file.exists(), f"roles/{role}/{path} is missing"
    return yaml.safe_load(file.read_text()) or {}


def documented_options(role: str) -> dict:
    return load(role, "meta/argument_specs.yml")["argument_specs"]["main"].get("options", {})


@pytest.mark.parametrize("role", ROLES)
def test_every_default_is_documented_with_the_same_value(role: str) -> None:
    defaults = load(role, "defaults/main.yml")
    documented = {name: option["default"] for name, option in documented_options(role).items() if "default" in option}
    assert documented == defaults


@pytest.mark.parametrize("role", ROLES)
def test_every_option_has_a_default_or_says_why_not(role: str) -> None:
    """An option without a default is required, or its description says what undefined means."""
    silent = [
        name
        for name, option in documented_options(role).items()
        if "default" not in option
        and not option.get("required")
        and not re.search(r"undefined|not set|unset|empty|default", str(option["description"]), re.IGNORECASE)
    ]
    assert silent == []


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_carries_the_role_name(role: str) -> None:
    strangers = [name for name in documented_options(role) if not name.startswith((f"{role}_", *SHARED_PREFIXES))]
    assert strangers == []


@pytest.mark.parametrize("role", ROLES)
def test_readme_lists_every_variable(role: str) -> None:
    readme = ROOT / "roles" / role / "README.md"
    assert readme.exists(), f"roles/{role}/README.md is missing"
    text = readme.read_text()
    assert [name for name in documented_options(role) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_a_role_reads_is_documented_or_its_own(role: str) -> None:
    """A public-looking name in tasks that is neither documented, nor registered, nor in vars/ is a hidden knob."""
    folder = ROOT / "roles" / role
    text = "\n".join(path.read_text() for path in sorted((folder / "tasks").glob("*.yml")))
    used = set(re.findall(rf"\b{role}_\w+\b", text))
    entry_points = load(role, "meta/argument_specs.yml")["argument_specs"].values()
    own = {name for entry_point in entry_points for name in entry_point.get("options") or {}}
    own |= {name for path in (folder / "vars").glob("*.yml") for name in yaml.safe_load(path.read_text()) or {}}
    own |= {name for pair in re.findall(rf"register: ({role}_\w+)|loop_var: ({role}_\w+)", text) for name in pair}
    own |= set(re.findall(rf"^\s+({role}_\w+):", text, re.MULTILINE))
    assert sorted(used - own) == []


def names_in(folder: str, pattern: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / folder).glob(pattern) if not path.stem.startswith("_"))


@pytest.mark.parametrize(
    "name",
    [
        *(f"`onprem.gpu.{name}`" for name in names_in("plugins/modules", "*.py")),
        *(f"`onprem.gpu.{name}`" for name in names_in("playbooks", "*.yml")),
        *(f"`{name}`" for name in ROLES),
    ],
)
def test_readme_has_a_line_for_every_part(name: str) -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"| {name} |" in readme


@pytest.mark.parametrize("folder", ["plugins", "roles", "playbooks"])
def test_the_product_does_not_know_the_lab(folder: str) -> None:
    """A user with a real cluster runs the very same tasks; nothing may look for the lab or its addresses."""
    traces = re.compile(r"\blab\b|\.lab/|10\.8[89]\.|/var/lib/silicon|\bkwok\b", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and path.suffix in (".py", ".yml", ".md", ".j2")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if traces.search(line)
    ]
    assert found == []
