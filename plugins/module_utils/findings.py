# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a role asks for that a host cannot have.

A finding is a plain dict, so that it travels through Ansible unchanged:

    {
        "check": "driver_branch_supports_gpus",   # which rule, stable, snake_case
        "severity": "error",                       # "error" stops the host, "warning" only tells
        "value": "595",                            # what was asked for
        "message": "one sentence for people, naming the value and the host's fact it collides with",
        "allowed": "what would be accepted",
        "variable": "gpu_driver_branch",           # where to set it
    }

Used by driver_plan.py and kubelet_plan.py; gpu_preflight shows findings before anything on a host is changed.
"""

from __future__ import annotations

import typing as t

Finding = dict[str, str]


def finding(check: str, value: t.Any, message: str, allowed: str, variable: str, *, severity: str = "error") -> Finding:
    return {
        "check": check,
        "severity": severity,
        "value": str(value),
        "message": message,
        "allowed": allowed,
        "variable": variable,
    }


def sentence(found: Finding) -> str:
    """One line that says what is wrong, what is allowed and where to set it."""
    return f"{found['message']} Allowed: {found['allowed']}. Set it with {found['variable']}."


class PlanError(ValueError):
    """A wish that cannot be planned for a host; `findings` says each reason."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(" ".join(sentence(found) for found in findings))
        self.findings = findings


def errors(findings: t.Iterable[Finding]) -> list[Finding]:
    """Only the findings that stop a host."""
    return [found for found in findings if found["severity"] == "error"]
