# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prepare this checkout for work: `make setup`.

Makes .venv with the pinned Python packages and .build/collections with the pinned collections plus a link to this
checkout as onprem.gpu. Runs on the system's Python with nothing installed, and costs well under a second when all is
in place.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
PIP = (VENV_PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check")
COLLECTIONS = ROOT / ".build" / "collections" / "ansible_collections"

# The community package carries released collections on PyPI, so set-up works where Ansible Galaxy is out of reach.
# This is the newest one made for the ansible-core of requirements.txt.
COLLECTIONS_WHEEL = "ansible==12.3.0"


class SetupError(Exception):
    """Set-up cannot go on; the message says why and what to do."""


def main() -> int:
    started = time.monotonic()
    try:
        require_python()
        if VENV_PYTHON.exists() and recorded(VENV / ".requirements") == python_fingerprint():
            say(".venv is complete")
        else:
            make_virtual_environment()
        wanted = wanted_collections()
        if installed_collections(wanted) == wanted:
            say(f"collections are complete: {listing(wanted)}")
        else:
            install_collections(wanted)
        link_checkout()
    except (SetupError, subprocess.CalledProcessError, OSError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    say(f"ready after {time.monotonic() - started:.1f} s")
    return 0


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def require_python() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - people start this with whatever python3 they have
        raise SetupError(
            f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; try: make PYTHON=python3.12"
        )


def python_fingerprint() -> str:
    """What .venv was made from: the requirement files and the interpreter."""
    digest = hashlib.sha256(sys.version.encode())
    for name in ("requirements.txt", "requirements-dev.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def recorded(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def make_virtual_environment() -> None:
    say("making .venv from requirements.txt and requirements-dev.txt (about half a minute)")
    if not (VENV / "bin" / "pip").exists():
        create_empty_environment()
    run(
        [
            VENV_PYTHON,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
            ROOT / "requirements-dev.txt",
        ]
    )
    (VENV / ".requirements").write_text(python_fingerprint())


def create_empty_environment() -> None:
    """Debian's Python comes without ensurepip until python3-venv is installed; root gets it installed here."""
    create = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    if subprocess.run(create, capture_output=True, check=False).returncode == 0:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SetupError(f"'{' '.join(create)}' failed; install your distribution's python3-venv package and run again")
    say("installing python3-venv, which this system's Python lacks")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], environment)
    run(["apt-get", "install", "-y", "-qq", "python3-venv"], environment)
    run(create)


def wanted_collections() -> dict[str, str]:
    """Names and versions from requirements.yml, read without a YAML parser because none is installed yet."""
    text = (ROOT / "requirements.yml").read_text()
    return dict(re.findall(r"^\s*- name: (\S+)\n\s+version: (\S+)$", text, re.MULTILINE))


def installed_collections(wanted: dict[str, str]) -> dict[str, str]:
    found = {}
    for name in wanted:
        manifest = COLLECTIONS.joinpath(*name.split("."), "MANIFEST.json")
        version = re.search(r'"version": "([^"]+)"', recorded(manifest))
        if version:
            found[name] = version.group(1)
    return found


def listing(collections: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(collections.items()))


def install_collections(wanted: dict[str, str]) -> None:
    say(f"installing {listing(wanted)} from the PyPI package {COLLECTIONS_WHEEL} (54 MB, about half a minute)")
    downloads = ROOT / ".build" / "downloads"
    try:
        run([*PIP, "download", "--no-deps", "--only-binary", ":all:", "--dest", downloads, COLLECTIONS_WHEEL])
        unpack_collections(next(downloads.glob("ansible-*.whl")), wanted)
    except (subprocess.CalledProcessError, StopIteration):
        say("PyPI did not give the package; trying Ansible Galaxy")
        galaxy = VENV / "bin" / "ansible-galaxy"
        run([galaxy, "collection", "install", "--force", "-r", ROOT / "requirements.yml", "-p", COLLECTIONS.parent])
    found = installed_collections(wanted)
    if found != wanted:
        raise SetupError(
            f"requirements.yml wants {listing(wanted)}, but the source has {listing(found) or 'none of them'}"
        )
    shutil.rmtree(downloads, ignore_errors=True)


def unpack_collections(wheel: Path, wanted: dict[str, str]) -> None:
    folders = {f"ansible_collections/{name.replace('.', '/')}/" for name in wanted}
    for name in wanted:
        shutil.rmtree(COLLECTIONS.joinpath(*name.split(".")), ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.namelist() if any(member.startswith(folder) for folder in folders)]
        archive.extractall(COLLECTIONS.parent, members)


def link_checkout() -> None:
    """Ansible finds collections by folder, so this checkout appears there as onprem.gpu."""
    link = COLLECTIONS / "onprem" / "gpu"
    target = os.path.relpath(ROOT, link.parent)
    if link.is_symlink() and os.readlink(link) == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def run(command: list[str | Path], environment: dict[str, str] | None = None) -> None:
    subprocess.run([str(part) for part in command], check=True, env=environment)


if __name__ == "__main__":
    sys.exit(main())
