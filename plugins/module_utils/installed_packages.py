# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What dpkg and rpm say is installed, at which version, and what is held at it.

Pure: the text of `dpkg-query`, `rpm` and of dnf's versionlock list in, plain values out.
"""

from __future__ import annotations

import fnmatch
import re
import typing as t

DPKG_QUERY = (
    "dpkg-query",
    "-W",
    "-f",
    r"${Package}\t${Architecture}\t${Version}\t${db:Status-Want}\t${db:Status-Eflag}\t${db:Status-Status}\n",
)
RPM_FORMAT = r"%{NAME}\t%{ARCH}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\n"
VERSIONLOCK_LIST = "/etc/dnf/plugins/versionlock.list"

# deb-version(7) and the policy's package states: files and maintainer scripts may be half done in all of these.
UNFINISHED_STATES = ("unpacked", "half-configured", "half-installed", "triggers-awaited", "triggers-pending")
# Of these, half-installed is the only one without the package's files.
INSTALLED_STATES = ("installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending")

LOCK_VERSION = re.compile(r"(\d+:)?[^-]+-[^-]+")


class Package(t.NamedTuple):
    """One package the package manager knows. `version` is complete: epoch, upstream part and revision."""

    name: str
    architecture: str
    version: str
    installed: bool
    unfinished: str  # dpkg's state when it is one of UNFINISHED_STATES (or "reinstreq"), else ""
    held: bool  # dpkg's selection "hold"; rpm knows none, see locked_versions()


def parse_dpkg_query(text: str) -> list[Package]:
    """Every package of `DPKG_QUERY`'s output; removed ones whose configuration is left count as not installed."""
    return [_dpkg_package(line.split("\t")) for line in text.splitlines() if line.count("\t") == 5]


def _dpkg_package(fields: list[str]) -> Package:
    name, architecture, version, want, error_flag, state = fields
    unfinished = state if state in UNFINISHED_STATES else ("reinstreq" if error_flag == "reinstreq" else "")
    return Package(name, architecture, version, state in INSTALLED_STATES, unfinished, want == "hold")


def parse_rpm_query(text: str) -> list[Package]:
    """Every installed package of an rpm query in RPM_FORMAT; "package x is not installed" is left out."""
    rows = [line.split("\t") for line in text.splitlines() if line.count("\t") == 2]
    return [Package(name, architecture, version, True, "", False) for name, architecture, version in rows]


def version_matches(wanted: str | None, present: str) -> bool:
    """Whether a package version is the wanted one.

    `wanted` is the complete version or leaves out the epoch, the revision (Debian) or release (rpm), or both:
    "580.95.05", "580.95.05-1.el9" and "3:580.95.05" all match "3:580.95.05-1.el9". None matches every version.
    """
    return wanted is None or _without_zero_epoch(wanted) in _ways_to_write(_without_zero_epoch(present))


def upstream_version(version: str) -> str:
    """The version without epoch and revision: "3:580.95.05-1.el9" gives "580.95.05"."""
    return _without_revision(_without_epoch(version))


def _ways_to_write(version: str) -> set[str]:
    return {version, _without_epoch(version), _without_revision(version), upstream_version(version)}


def _without_zero_epoch(version: str) -> str:
    return version[2:] if version.startswith("0:") else version


def _without_epoch(version: str) -> str:
    return version.split(":", 1)[-1]


def _without_revision(version: str) -> str:
    return version.rsplit("-", 1)[0]


def parse_versionlock_list(text: str) -> list[str]:
    """The patterns of dnf's versionlock.list; comments and exclusions ("!name...") are left out."""
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("!")]


def locked_versions(name: str, installed: t.Sequence[Package], patterns: t.Sequence[str]) -> list[str]:
    """The versions at which dnf's versionlock keeps a package, [] when it does not.

    A pattern counts when it names a version of this package or, as a glob, covers one that is installed.
    """
    versions = [_locked_version(name, installed, pattern) for pattern in patterns]
    return [version for version in dict.fromkeys(versions) if version]


def _locked_version(name: str, installed: t.Sequence[Package], pattern: str) -> str | None:
    if pattern.startswith(name + "-"):
        stated = _without_architecture(pattern[len(name) + 1 :])
        if LOCK_VERSION.fullmatch(stated) and not re.search(r"[*?\[]", stated):
            return stated
    covered = [package.version for package in installed if _covers(pattern, package)]
    return covered[0] if covered else None


def _without_architecture(version: str) -> str:
    return re.sub(r"\.(\*|noarch|x86_64|aarch64|ppc64le|s390x|i686)$", "", version)


def _covers(pattern: str, package: Package) -> bool:
    return any(fnmatch.fnmatchcase(spec, pattern) for spec in package_specs(package))


def package_specs(package: Package) -> list[str]:
    """Every way in which dnf and rpm let an installed package be named: name, with version, with architecture."""
    without_epoch = _without_epoch(package.version)
    epoch = package.version.split(":", 1)[0] if ":" in package.version else "0"
    versions = (_without_revision(without_epoch), without_epoch, f"{epoch}:{without_epoch}")
    names = [package.name, *(f"{package.name}-{version}" for version in versions)]
    return [spec for name in names for spec in (name, f"{name}.{package.architecture}")]
