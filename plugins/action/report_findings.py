# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""onprem.gpu.report_findings runs on the controller and opens no connection; documentation in plugins/modules."""

from __future__ import annotations

import re
import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.onprem.gpu.plugins.module_utils.findings import errors
from ansible_collections.onprem.gpu.plugins.module_utils.preflight_report import SEVERITIES, located, table
from ansible_collections.onprem.gpu.plugins.plugin_utils import origin


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _validated, options = self.validate_argument_spec(
            argument_spec={
                "findings": {"type": "list", "elements": "dict", "required": True},
                "severity": {"type": "dict", "default": {}},
            }
        )
        wrong = {check: value for check, value in options["severity"].items() if value not in SEVERITIES}
        if wrong:
            return {"failed": True, "msg": f"severity {wrong} is not known. Allowed: {', '.join(SEVERITIES)}."}
        host = task_vars["inventory_hostname"]
        found = [
            located(item, host, place_of(item["variable"], task_vars), options["severity"])
            for item in options["findings"]
        ]
        return {
            "changed": False,
            "failed": bool(errors(found)),
            "msg": "\n".join(table(found)) or "Nothing stands against this host.",
            "_ansible_verbose_always": bool(found),  # a warning nobody sees is none
        }


def place_of(variable: str, task_vars: t.Mapping[str, t.Any]) -> str:
    """Return file:line of the variable that a finding names; it may be followed by a path inside it, or be prose."""
    name = re.split(r"[\[.\s,]", variable, maxsplit=1)[0]
    return origin.place(*next(((key, value) for key, value in task_vars.items() if key == name), ("", None)))
