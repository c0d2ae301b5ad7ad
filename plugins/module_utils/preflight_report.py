# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Findings for people: which host, what is wrong, what is allowed, where to set it.

Pure. A located finding is a finding (see findings.py) with two more keys: `host` and `where` (file:line, or "").
"""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.findings import Finding

SEVERITIES = ("error", "warning", "info")
LONGEST_SHOWN_VALUE = 60  # characters; a key or a file would fill the screen


def located(
    found: Finding, host: str, where: str = "", severity_of_check: t.Mapping[str, str] | None = None
) -> Finding:
    """Return a finding that knows its host and place; severity_of_check is what the user set per check."""
    severity = (severity_of_check or {}).get(found["check"], found["severity"])
    return dict(found, host=host, where=where, severity=severity)


def warnings(found: t.Iterable[Finding]) -> list[Finding]:
    return [item for item in found if item["severity"] == "warning"]


def shown(value: t.Any) -> str:
    """Return a value as one short line for a message."""
    if isinstance(value, bool):
        return str(value).lower()
    text = " ".join(str(value).split())
    if len(text) > LONGEST_SHOWN_VALUE:
        text = text[: LONGEST_SHOWN_VALUE - 4] + " ..."
    return f"'{text}'" if isinstance(value, str) else text


def line(found: Finding) -> str:
    """Return a located finding as one line."""
    text = f"{found['host']}: {found['message']}"
    text += "" if text.endswith((".", "?")) else "."
    if found["allowed"]:
        text += f" Allowed: {found['allowed']}."
    if found["variable"] and found["variable"] not in found["message"]:
        return f"{text} Set it with {found['variable']}{found['where'] and ' in ' + found['where']}."
    return f"{text} Set in {found['where']}." if found["where"] else text


def table(found: t.Iterable[Finding]) -> list[str]:
    """Return located findings as the lines of a table, the worst first."""
    ordered = sorted(found, key=lambda item: (SEVERITIES.index(item["severity"]), item["check"], item["message"]))
    width = max((len(item["check"]) for item in ordered), default=0)
    return [f"{item['severity']:<7}  {item['check']:<{width}}  {line(item)}" for item in ordered]
