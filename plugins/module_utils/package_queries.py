# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks a host's package manager what is installed, with one program for all questions."""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.host import Host, HostError, command_failure
from ansible_collections.onprem.gpu.plugins.module_utils.installed_packages import (
    DPKG_QUERY,
    RPM_FORMAT,
    VERSIONLOCK_LIST,
    Package,
    parse_dpkg_query,
    parse_rpm_query,
    parse_versionlock_list,
)

TIMEOUT_SECONDS = 60.0


def all_packages(host: Host, family: str | None) -> list[Package]:
    """Every package dpkg (family debian) or rpm (redhat) knows; raises HostError when it does not answer."""
    if family == "debian":
        return parse_dpkg_query(_answer(host, DPKG_QUERY))
    if family == "redhat":
        return parse_rpm_query(_answer(host, ("rpm", "-qa", "--qf", RPM_FORMAT)))
    return []


def rpm_packages(host: Host, names: t.Sequence[str]) -> list[Package]:
    """The named packages that are installed, looked up by index: many times cheaper than all of them."""
    # rpm's exit status counts the names that are not installed, which is an answer and not a failure.
    return parse_rpm_query(_answer(host, ("rpm", "-q", "--qf", RPM_FORMAT, *names), misses=len(names)))


def versionlock_patterns(host: Host) -> list[str]:
    """The patterns of dnf's versionlock plugin."""
    return parse_versionlock_list(host.read_text(VERSIONLOCK_LIST) or "")


def _answer(host: Host, argv: t.Sequence[str], misses: int = 0) -> str:
    result = host.run(argv, TIMEOUT_SECONDS)
    if result is None:
        raise HostError(f"{argv[0]} is not installed, so the installed packages are unknown")
    if result.rc is None or result.rc > misses or result.stderr.startswith("error:"):
        raise HostError(f"{argv[0]} does not say what is installed: {command_failure(result)}")
    return result.stdout
