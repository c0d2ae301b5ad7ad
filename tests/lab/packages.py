# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed package repositories with the vendors' package names and versions.

``build(cache, binaries)`` returns the folder to serve over HTTP; it rebuilds only what its inputs changed.

"""

from __future__ import annotations

from pathlib import Path


def build(cache: Path, binaries: Path) -> Path:
    """Return the root of the repositories: cuda/, extras/, toolkit/, kubernetes/, runtime/, keys/."""
    raise NotImplementedError
