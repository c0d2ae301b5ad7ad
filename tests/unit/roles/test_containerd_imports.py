# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The import of drop-ins that gpu_toolkit adds to a configuration of containerd which somebody else owns."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

VARIABLES = Path(__file__).resolve().parents[3] / "roles/gpu_toolkit/vars/main.yml"
DROP_INS = "/etc/containerd/conf.d/*.toml"


def run_script(config: Path) -> subprocess.CompletedProcess[str]:
    *shell, script = yaml.safe_load(VARIABLES.read_text())["gpu_toolkit_imports_file"]["argv"]
    script = script.replace("{{ gpu_toolkit_runtimes.containerd.config }}", str(config))
    return subprocess.run([*shell, script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("text", "imports"),
    [
        pytest.param(None, [DROP_INS], id="no file"),
        pytest.param("", [DROP_INS], id="empty file"),
        pytest.param('version = 2\n[plugins."x"]\n  a = 1\n', [DROP_INS], id="no imports"),
        pytest.param("version = 3\nimports = []\n", [DROP_INS], id="empty imports"),
        pytest.param('version = 3\nimports = ["/a.toml"]\n', [DROP_INS, "/a.toml"], id="other imports"),
        pytest.param('version = 3\nimports = [\n  "/a.toml",\n]\n', [DROP_INS, "/a.toml"], id="imports in lines"),
        pytest.param(f'# imports = ["{DROP_INS}"]\nversion = 2\n', [DROP_INS], id="only a comment"),
    ],
)
def test_the_import_is_added_and_everything_else_kept(tmp_path: Path, text: str | None, imports: list[str]) -> None:
    config = tmp_path / "config.toml"
    if text is not None:
        config.write_text(text)
    result = run_script(config)
    assert result.returncode == 0, result.stderr
    kept = tomllib.loads(text or "version = 2\n")
    assert tomllib.loads(result.stdout) == {**kept, "imports": imports}
    config.write_text(result.stdout)
    assert run_script(config).stdout == result.stdout, "a second run changes it again"


@pytest.mark.parametrize("quote", ['"', "'"])
def test_a_configuration_with_the_import_stays_as_it_is(tmp_path: Path, quote: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"# mine\nversion = 3\nimports = [{quote}{DROP_INS}{quote}]\n")
    assert run_script(config).stdout == config.read_text()


def test_a_configuration_too_old_for_imports_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[plugins.cri]\n")
    result = run_script(config)
    assert result.returncode == 1
    assert "has no version = 2 or newer" in result.stderr
