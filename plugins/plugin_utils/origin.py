# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a variable was set: file and line, as ansible-core 2.19 and newer remember it.

Text, numbers and containers know their own origin. true, false and null cannot; then the name answers, which keeps the
origin of the first file that set it. So an answer that comes from the name alone may be an earlier place.
"""

from __future__ import annotations

import os
import pathlib
import typing as t

try:
    from ansible._internal._datatag._tags import Origin
except ImportError:  # before ansible-core 2.19
    Origin = None  # type: ignore[assignment, misc]

COLLECTION = pathlib.Path(__file__).resolve().parents[2]
OWN_CODE = (COLLECTION / "roles", COLLECTION / "playbooks")


def is_ours(value: t.Any) -> bool:
    """True for what a role or playbook of this collection set; False when nobody knows."""
    tag = _origin(value)
    return bool(tag and tag.path and any(pathlib.Path(tag.path).resolve().is_relative_to(code) for code in OWN_CODE))


def place(name: str, value: t.Any) -> str:
    """Return "file:line" of a variable that a user set, "" when it is ours or nobody knows."""
    tag = _origin(value)
    if not tag and not is_ours(name):
        tag = _origin(name)
    if not tag or is_ours(value):
        return ""
    return _readable(tag)


def _origin(value: t.Any) -> t.Any:
    return Origin.get_tag(value) if Origin is not None else None


def _readable(tag: t.Any) -> str:
    if not tag.path:
        return str(tag.description)
    path = os.path.relpath(tag.path)
    path = tag.path if path.startswith("..") else path
    return f"{path}:{tag.line_num}" if tag.line_num else path
