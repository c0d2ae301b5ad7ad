# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""onprem.gpu.cluster_objects hands everything to kubernetes.core.k8s; documentation in plugins/modules."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.onprem.gpu.plugins.module_utils.applied_objects import outcomes
from ansible_collections.onprem.gpu.plugins.module_utils.cluster import AUTHENTICATION_OPTIONS

K8S = "kubernetes.core.k8s"
FIELD_MANAGER = "onprem.gpu"

OPTIONS = {
    "objects": {"type": "list", "elements": "dict", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "wait": {"type": "bool", "default": False},
    "wait_timeout": {"type": "int", "default": 120},
}


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        options = self.validate_argument_spec(argument_spec={**AUTHENTICATION_OPTIONS, **OPTIONS})[1]
        objects = options["objects"]
        if not objects:
            return {"changed": False, "objects": []}
        written = self._kubernetes(options, task_vars)
        # One object is answered flat, several as a list; a failure before the first object has no result at all.
        results = (written.get("result") or {}).get("results") if len(objects) > 1 else [written]
        if written.get("failed") or results is None:
            return written
        return report(outcomes(objects, results, check_mode=self._task.check_mode), written)

    def _kubernetes(self, options: dict[str, t.Any], task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
        task = self._task.copy()
        task.action = K8S  # it runs the module of the task's name
        task.args = {name: options[name] for name in AUTHENTICATION_OPTIONS if options.get(name) is not None}
        task.args.update(
            resource_definition=options["objects"],
            state=options["state"],
            continue_on_error=True,
            wait=options["wait"],
            wait_timeout=options["wait_timeout"],
        )
        if options["state"] == "present":
            task.args.update(apply=True, server_side_apply={"field_manager": FIELD_MANAGER, "force_conflicts": True})
        action = self._shared_loader_obj.action_loader.get(
            K8S,
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        return action.run(task_vars=task_vars)


def report(found: list[dict[str, t.Any]], written: dict[str, t.Any]) -> dict[str, t.Any]:
    failed = [one for one in found if one["error"]]
    result: dict[str, t.Any] = {
        "changed": any(one["changed"] for one in found),
        "objects": [{key: one[key] for key in ("object", "changed", "error")} for one in failed or found],
        "diff": [one["diff"] for one in found if one["diff"]],
        "warnings": written.get("warnings") or [],
    }
    if failed:
        result.update(failed=True, msg="\n".join(f"{one['object']}: {one['error']}" for one in failed))
    return result
