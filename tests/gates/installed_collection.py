# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the collection, install it from the tarball into an empty place, and use it from there as a user would.

Proves build_ignore, the dependencies and every import that only works because the checkout is around.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from collection_copy import WORKSHOP, committable_files, copy_of
from runner import ROOT, VENV_BIN

COLLECTIONS = ROOT / ".build" / "collections" / "ansible_collections"
PLACE = ROOT / ".build" / "installed"
EMPTY_CONFIG = PLACE / "ansible.cfg"


def main() -> None:
    copy = copy_of(committable_files(), "packaging")
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    EMPTY_CONFIG.touch()
    link_dependencies()
    ansible("ansible-galaxy", "collection", "build", "--force", "--output-path", PLACE, folder=copy)
    tarball = next(PLACE.glob("onprem-gpu-*.tar.gz"))
    check_contents(tarball)
    ansible("ansible-galaxy", "collection", "install", "--offline", tarball, "-p", PLACE)
    check_documentation()
    check_playbooks()


def link_dependencies() -> None:
    """Only what galaxy.yml names may be there, so that a missing dependency shows."""
    for namespace in COLLECTIONS.iterdir():
        if namespace.name != "onprem":
            (PLACE / "ansible_collections").mkdir(parents=True, exist_ok=True)
            (PLACE / "ansible_collections" / namespace.name).symlink_to(namespace)


def check_contents(tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        names = archive.getnames()
    strangers = [name for name in names if any(name == ours or name.startswith(f"{ours}/") for ours in WORKSHOP)]
    if strangers:
        sys.exit(f"the tarball carries files of the workshop; add them to build_ignore in galaxy.yml: {strangers[:10]}")
    print(f"{tarball.name}: {len(names)} files, {tarball.stat().st_size // 1024} KiB")


def check_documentation() -> None:
    for kind in ("module", "filter", "role"):
        listed = json.loads(ansible("ansible-doc", "--type", kind, "--list", "--json", "onprem.gpu"))
        names = sorted(name for name in listed if name.startswith("onprem.gpu."))
        if not names:
            sys.exit(f"the installed collection has no {kind} that ansible-doc finds")
        ansible("ansible-doc", "--type", kind, *names)
        print(f"{kind}: {', '.join(names)}")


def check_playbooks() -> None:
    inventory = PLACE / "ansible_collections" / "onprem" / "gpu" / "inventories" / "example"
    for playbook in sorted((ROOT / "playbooks").glob("*.yml")):
        ansible("ansible-playbook", "--syntax-check", "-i", inventory, f"onprem.gpu.{playbook.stem}")
        print(f"playbook: onprem.gpu.{playbook.stem}")


def ansible(program: str, *words: str | Path, folder: Path = PLACE) -> str:
    """Standard output of an Ansible program that sees only the installed collection and no configuration of ours."""
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(PLACE), "ANSIBLE_CONFIG": str(EMPTY_CONFIG)}
    environment.pop("PYTHONPATH", None)
    command = [str(VENV_BIN / program), *map(str, words)]
    print("$", *command, flush=True)
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\n{program} ended with exit code {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
