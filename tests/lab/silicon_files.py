# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that hosts look at while they are written: always the same inode, never half a tree."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path


def write_in_place(path: Path, content: str | bytes) -> None:
    """Write a file without replacing it, so that bind mounts of it show the new content."""
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and path.read_bytes() == data:
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.pwrite(handle, data, 0)
        os.ftruncate(handle, len(data))
    finally:
        os.close(handle)


def link(path: Path, target: str) -> None:
    """Make a symbolic link, replacing one that points elsewhere."""
    if path.is_symlink() and os.readlink(path) == target:
        return
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def remove_others(folder: Path, keep: Collection[str]) -> None:
    """Remove every entry of a folder that is not named in ``keep``."""
    for entry in folder.iterdir():
        if entry.name in keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
