# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy of this checkout where ansible-test and other publishing tools accept it.

ansible-test wants a git repository at .../ansible_collections/onprem/gpu and resolves links, so the link in
.build/collections will not do. The copy holds what git tracks or would track: what a commit of the working tree would
publish.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from runner import ROOT

COPY = ROOT / ".build" / "copy" / "ansible_collections" / "onprem" / "gpu"
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


def fresh_copy() -> Path:
    """Bring the copy up to date and return its folder. Unchanged files keep their times, so tools' caches stay good."""
    COPY.mkdir(parents=True, exist_ok=True)
    if not (COPY / ".git").exists():
        subprocess.run(["git", "init", "--quiet", str(COPY)], check=True)
    wanted = published_files()
    for path in sorted(COPY.rglob("*"), reverse=True):
        relative = path.relative_to(COPY)
        if relative.parts[0] == ".git":
            continue
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif relative not in wanted:
            path.unlink()
    for relative in wanted:
        copy_file(ROOT / relative, COPY / relative)
    return COPY


def published_files() -> set[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = {Path(name) for name in listing.stdout.split("\0") if name}
    return {path for path in files if (ROOT / path).exists() or (ROOT / path).is_symlink()}


def copy_file(source: Path, target: Path) -> None:
    if target.exists() and not source.is_symlink():
        old, new = target.stat(), source.stat()
        if (old.st_mtime_ns, old.st_size, old.st_mode) == (new.st_mtime_ns, new.st_size, new.st_mode):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)


def copy_for_ansible_test() -> Path:
    if not GET_PIP.exists():
        GET_PIP.parent.mkdir(parents=True, exist_ok=True)
        GET_PIP.write_text(GET_PIP_STAND_IN)
    return fresh_copy()
