# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of this checkout where ansible-test and other publishing tools accept them.

ansible-test wants a git repository at .../ansible_collections/onprem/gpu and resolves links, so the link in
.build/collections will not do. A copy holds what git tracks or would track: what a commit of the working tree would
publish.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from runner import ROOT

# Folders and files that serve the work on the collection and are no part of what users install.
WORKSHOP = (".ci", ".config", "Makefile", "inventories/lab", "molecule", "tests")
SANITY_SETTINGS = ("tests/config.yml", "tests/sanity")
GET_PIP = Path.home() / ".ansible" / "test" / "cache" / "get_pip_24_2.py"

# ansible-test downloads get-pip from a continuous integration site to fill the environments it makes. Python brings pip
# itself, so this stand-in serves, also where that site is out of reach.
GET_PIP_STAND_IN = """\
import subprocess
import sys

packages = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
subprocess.check_call([sys.executable, "-m", "ensurepip"])
subprocess.check_call([sys.executable, "-m", "pip", *(["install", *packages] if packages else ["--version"])])
"""


def copy_for_ansible_test() -> Path:
    """What users get, without the workshop: that has ruff, mypy and its own tests."""
    if not GET_PIP.exists():
        GET_PIP.parent.mkdir(parents=True, exist_ok=True)
        GET_PIP.write_text(GET_PIP_STAND_IN)
    published = {path for path in committable_files() if not is_below(path, WORKSHOP)}
    settings = {path for path in committable_files() if is_below(path, SANITY_SETTINGS)}
    return copy_of(published | settings, "sanity")


def copy_for_documentation() -> Path:
    return copy_of(committable_files(), "documentation")


def copy_of(wanted: set[Path], place: str) -> Path:
    """Bring the copy in .build/PLACE up to date. Unchanged files keep their times, so that tools' caches stay good."""
    copy = ROOT / ".build" / place / "ansible_collections" / "onprem" / "gpu"
    copy.mkdir(parents=True, exist_ok=True)
    if not (copy / ".git").exists():
        subprocess.run(["git", "init", "--quiet", str(copy)], check=True)
    for path in sorted(copy.rglob("*"), reverse=True):
        remove_stranger(path, path.relative_to(copy), wanted)
    for relative in wanted:
        copy_file(ROOT / relative, copy / relative)
    return copy


def committable_files() -> set[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = {Path(name) for name in listing.stdout.split("\0") if name}
    return {path for path in files if (ROOT / path).exists() or (ROOT / path).is_symlink()}


def is_below(path: Path, folders: tuple[str, ...]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def remove_stranger(path: Path, relative: Path, wanted: set[Path]) -> None:
    if relative.parts[0] == ".git":
        return
    if path.is_dir() and not path.is_symlink():
        if not any(path.iterdir()):
            path.rmdir()
    elif relative not in wanted:
        path.unlink()


def copy_file(source: Path, target: Path) -> None:
    if target.exists() and not source.is_symlink():
        old, new = target.stat(), source.stat()
        if (old.st_mtime_ns, old.st_size, old.st_mode) == (new.st_mtime_ns, new.st_size, new.st_mode):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)
