# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a package repository's signed index says: which file lists the packages, and which versions it offers.

Pure; Python 3.9. apt: Release and Packages (Debian wiki, DebianRepository/Format), of flat repositories and of others.
yum: repomd.xml and primary.xml as createrepo_c writes them.
"""

from __future__ import annotations

import re
import typing as t
from xml.etree import ElementTree

PACKAGE_LISTS = ("Packages.xz", "Packages.gz", "Packages")  # the cheapest first
REPO = "{http://linux.duke.edu/metadata/repo}"
COMMON = "{http://linux.duke.edu/metadata/common}"


class PackageList(t.NamedTuple):
    """The file that lists a repository's packages: path below the repository's URL, SHA-256, size in octets."""

    path: str
    sha256: str
    size: int


def apt_folders(suites: str, components: str, architecture: str) -> tuple[str, list[str]]:
    """Return (folder of Release below the repository's URL, folders of the package lists below that one).

    A suite that ends with a slash is a folder of a flat repository, which has a single package list next to Release.
    """
    if suites.endswith("/"):
        return suites.strip("/"), [""]
    return f"dists/{suites}", [f"{component}/binary-{architecture}/" for component in components.split()]


def apt_package_list(release: str, folder: str = "") -> PackageList | None:
    """Return the smallest package list of a folder that Release names, None when it names none."""
    listed = {}
    section = release.partition("\nSHA256:")[2]
    for line in section.splitlines()[1:]:
        if not line.startswith(" "):
            break
        digest, size, path = line.split()
        path = re.sub(r"^\./", "", path)
        listed[path] = PackageList(path, digest, int(size))
    return next((listed[folder + name] for name in PACKAGE_LISTS if folder + name in listed), None)


def yum_package_list(repomd: str) -> PackageList | None:
    """Return the package list (primary) that repomd.xml names, None when it names none with a SHA-256."""
    for data in ElementTree.fromstring(repomd).iter(f"{REPO}data"):
        location = data.find(f"{REPO}location")
        checksum = data.find(f"{REPO}checksum")
        if data.get("type") != "primary" or location is None or checksum is None or checksum.get("type") != "sha256":
            continue
        size = data.findtext(f"{REPO}size") or "0"
        return PackageList(location.get("href", ""), checksum.text or "", int(size))
    return None


def apt_versions(packages: str, names: t.Collection[str]) -> dict[str, list[str]]:
    """Return {name: [version]} of the wanted names in a Packages file, in the file's order."""
    offered: dict[str, list[str]] = {}
    name = ""
    for line in packages.splitlines():
        if line.startswith("Package: "):
            name = line[len("Package: ") :]
        elif line.startswith("Version: ") and name in names:
            offered.setdefault(name, []).append(line[len("Version: ") :])
    return offered


def yum_versions(primary: str, names: t.Collection[str]) -> dict[str, list[str]]:
    """Return {name: ["epoch:version-release"]} of the wanted names in primary.xml; epoch 0 is left out."""
    offered: dict[str, list[str]] = {}
    for package in ElementTree.fromstring(primary).iter(f"{COMMON}package"):
        name = package.findtext(f"{COMMON}name") or ""
        version = package.find(f"{COMMON}version")
        if name not in names or version is None:
            continue
        epoch = version.get("epoch", "0")
        text = f"{version.get('ver')}-{version.get('rel')}"
        offered.setdefault(name, []).append(text if epoch == "0" else f"{epoch}:{text}")
    return offered
