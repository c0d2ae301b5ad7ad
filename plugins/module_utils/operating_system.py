# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operating systems the roles know, from what gpu_info read in os-release."""

from __future__ import annotations

import typing as t

EL_IDS = ("rhel", "rocky", "almalinux", "centos", "ol")


def operating_system(host: t.Mapping[str, t.Any]) -> tuple[str, str]:
    """Return (ubuntu | debian | el | the id itself, release as NVIDIA names it: "24.04", "12", "9")."""
    identity, release = host["os"]["id"], str(host["os"]["version_id"])
    if identity in EL_IDS:
        return "el", release.split(".", maxsplit=1)[0]
    return identity, release


def package_format(host: t.Mapping[str, t.Any]) -> str:
    """Return apt or yum, in the words of onprem.gpu.repository_info."""
    return "yum" if host["os"]["family"] == "redhat" else "apt"
