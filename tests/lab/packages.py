# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed package repositories with the vendors' package names and versions.

``build(cache, binaries)`` returns the folder to serve over HTTP; it builds again only what its inputs changed. One
signing key per vendor is made once and kept in the cache, its public half is served in keys/.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import packages_driver
import packages_host
from package_building import Keyring, Package, build_deb, build_rpm, sign_apt, sign_yum

VENDORS = ("cuda", "extras", "toolkit", "kubernetes", "runtime")
_SOURCES = sorted([*Path(__file__).parent.glob("package*.py"), *Path(__file__).parent.glob("silicon*.py")])
_SILICON = Path(__file__).parent / "silicon"


def build(cache: Path, binaries: Path, say: Callable[[str], None] = print) -> Path:
    """Return the root of the repositories: cuda/, extras/, toolkit/, kubernetes/, runtime/ and keys/.

    Raises OSError with the words of the tool that failed.
    """
    folder = cache / "packages"
    root = folder / _key(binaries)
    if root.is_dir():
        return root
    keys = Keyring(cache / "signing-keys")
    unfinished = folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    for path, (vendor, kind, packages) in _repositories(cache, binaries).items():
        say(f"repository {path}: {len(packages)} packages")
        _write_repository(unfinished / path, packages, kind, folder / "work")
        (sign_apt if kind == "deb" else sign_yum)(unfinished / path, vendor, keys)
    _export_keys(unfinished / "keys", keys)
    shutil.rmtree(folder / "work", ignore_errors=True)
    for outdated in folder.iterdir():
        if outdated != unfinished:
            shutil.rmtree(outdated)
    unfinished.rename(root)
    return root


def _repositories(cache: Path, binaries: Path) -> dict[str, tuple[str, str, list[Package]]]:
    """Return path -> (vendor, deb or rpm, packages)."""
    driver = packages_driver.packages
    return {
        "cuda/debian12": ("cuda", "deb", driver(cache, "debian12")),
        "cuda/ubuntu2404": ("cuda", "deb", driver(cache, "ubuntu2404")),
        "cuda/rhel9": ("cuda", "rpm", driver(cache, "rhel9")),
        "extras/debian12": ("extras", "deb", packages_host.dkms("deb")),
        "extras/rhel9": ("extras", "rpm", packages_host.dkms("rpm")),
        **{
            f"{vendor}/{kind}": (vendor, kind, packages(binaries, kind))
            for vendor, packages in (
                ("toolkit", packages_host.toolkit),
                ("kubernetes", packages_host.kubernetes),
                ("runtime", packages_host.runtime),
            )
            for kind in ("deb", "rpm")
        },
    }


def _write_repository(folder: Path, packages: list[Package], kind: str, work: Path) -> None:
    folder.mkdir(parents=True)
    for package in packages:
        (build_deb if kind == "deb" else build_rpm)(package, folder, work)


def _export_keys(folder: Path, keys: Keyring) -> None:
    folder.mkdir(parents=True)
    for vendor in VENDORS:
        (folder / f"{vendor}.asc").write_text(keys.public_key(vendor), encoding="utf-8")
    fingerprints = {vendor: keys.fingerprint(vendor) for vendor in VENDORS}
    (folder / "fingerprints.json").write_text(json.dumps(fingerprints, indent=1) + "\n", encoding="utf-8")


def _key(binaries: Path) -> str:
    """Return a name for what the repositories are made of: these sources and the programs' folder, itself named so."""
    digest = hashlib.sha256(binaries.name.encode())
    for source in [*_SOURCES, *sorted(path for path in _SILICON.rglob("*") if path.is_file())]:
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:12]
