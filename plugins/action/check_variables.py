# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""onprem.gpu.check_variables runs on the controller and opens no connection; documentation in plugins/modules."""

from __future__ import annotations

import pathlib
import typing as t

import yaml
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.onprem.gpu.plugins.module_utils import variables
from ansible_collections.onprem.gpu.plugins.module_utils.findings import errors
from ansible_collections.onprem.gpu.plugins.module_utils.preflight_report import line, warnings
from ansible_collections.onprem.gpu.plugins.plugin_utils import origin

ROLES = origin.COLLECTION / "roles"
EVERY_PREFIX = "gpu_"  # names without a role's prefix are only compared for slips of the pen
SHARED_PREFIXES = ("gpu_cluster_", "gpu_teams")
FACTS_PREFIX = "gpu_survey_"
FastLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS: frozenset[str] = frozenset()

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        specs, internal = read_roles(ROLES)
        prefixes = [f"{path.name}_" for path in ROLES.iterdir()] + list(SHARED_PREFIXES)
        own = self._own_variables(task_vars, specs)
        found = variables.check(task_vars["inventory_hostname"], own, specs, prefixes, internal)
        failures = [line(item) for item in errors(found)]
        return {
            "changed": False,
            "failed": bool(failures),
            "msg": "\n".join(failures) or "All variables are known and valid.",
            "warnings": [line(item) for item in warnings(found)],
        }

    def _own_variables(self, task_vars: dict[str, t.Any], specs: t.Container[str]) -> dict[str, variables.Variable]:
        """Return what a user set; the collection's own defaults and registered results are left out."""
        own = {}
        for name, raw in task_vars.items():
            if not name.startswith(EVERY_PREFIX) or is_ours(name, raw, documented=name in specs):
                continue
            variable = self._templated(name, raw) if name in specs else variables.Variable(raw, origin.place(name, raw))
            if variable:
                own[str(name)] = variable
        return own

    def _templated(self, name: str, raw: t.Any) -> variables.Variable | None:
        """Return the variable with its template resolved; None when it needs facts that are not there yet."""
        place = origin.place(name, raw)
        try:
            return variables.Variable(self._templar.template(raw), place)
        except AnsibleError as error:
            if FACTS_PREFIX in str(error):
                return None  # made from gpu_info's facts: the role that uses it validates it
            return variables.Variable(None, place, error=str(error))


def read_roles(roles: pathlib.Path) -> tuple[dict[str, dict[str, t.Any]], set[str]]:
    """Return the merged argument specs of all roles, and the names of their internal variables."""
    specs = [read_yaml(path) for path in sorted(roles.glob("*/meta/argument_specs.yml"))]
    internal = {name for path in roles.glob("*/vars/*.yml") for name in read_yaml(path)}
    return variables.merged_specs(specs), internal


def read_yaml(path: pathlib.Path) -> dict[str, t.Any]:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=FastLoader) or {}


def is_ours(name: str, value: t.Any, documented: bool) -> bool:
    """True for a role's own default and for a result that our tasks registered.

    A documented variable whose value does not know where it comes from is looked at: its name may have got its origin
    from the role's default, and its value from a later file.
    """
    return origin.is_ours(value) or (not documented and origin.is_ours(name))
