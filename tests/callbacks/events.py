# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happened in a playbook run, one JSON object a line, for tests/observe.py to read.

Each line has event (play, task, result, item), seconds since the start, and for results: host, role, task, status (ok,
changed, failed, ignored, unreachable, skipped), item (the loop's label), the module's arguments and the result itself.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: events
type: aggregate
short_description: Writes the events of a run as JSON lines
description:
  - For the project's own tests.
options:
  path:
    description: The file to write.
    type: path
    required: true
    env:
      - name: EVENTS_PATH
author: Contributors to the onprem.gpu collection
"""

import json
import time
import typing as t

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "events"
    CALLBACK_NEEDS_ENABLED = True

    def set_options(self, *args: t.Any, **kwargs: t.Any) -> None:
        super().set_options(*args, **kwargs)
        self._started = time.monotonic()
        self._file = open(self.get_option("path"), "w", encoding="utf-8", buffering=1)  # noqa: SIM115 - open for the run

    def v2_playbook_on_play_start(self, play: t.Any) -> None:
        self._write("play", name=play.get_name())

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        self._write("task", **named(task))

    def v2_playbook_on_handler_task_start(self, task: t.Any) -> None:
        self._write("task", **named(task))

    def v2_runner_on_ok(self, result: t.Any) -> None:
        self._write_result("result", result, "changed" if result.result.get("changed") else "ok")

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        self._write_result("result", result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        self._write_result("result", result, "unreachable")

    def v2_runner_on_skipped(self, result: t.Any) -> None:
        self._write_result("result", result, "skipped")

    def v2_runner_item_on_ok(self, result: t.Any) -> None:
        self._write_result("item", result, "changed" if result.result.get("changed") else "ok")

    def v2_runner_item_on_failed(self, result: t.Any) -> None:
        self._write_result("item", result, "failed")

    def v2_runner_item_on_skipped(self, result: t.Any) -> None:
        self._write_result("item", result, "skipped")

    def _write_result(self, event: str, result: t.Any, status: str) -> None:
        content = dict(result.result)
        arguments = content.pop("invocation", {}).get("module_args")
        if content.get("_ansible_no_log"):
            content = {"changed": content.get("changed", False), "msg": "hidden by no_log"}
            arguments = None
        label = content.get("_ansible_item_label", content.get("item"))
        where = {"host": result.host.get_name(), **named(result.task)}
        self._write(event, **where, status=status, item=label, arguments=arguments, result=content)

    def _write(self, event: str, **content: t.Any) -> None:
        line = {"event": event, "seconds": round(time.monotonic() - self._started, 3), **content}
        self._file.write(json.dumps(line, default=str) + "\n")


def named(task: t.Any) -> dict[str, t.Any]:
    role = getattr(task, "_role", None)
    return {"role": role.get_name() if role else None, "task": task.get_name().split(" : ")[-1], "action": task.action}
