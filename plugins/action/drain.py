# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shows how far onprem.gpu.drain is while it runs; documentation in plugins/modules.

A module cannot print, so it writes lines to a file of this half. That works where the module runs on the controller,
which is where it belongs; elsewhere the drain is silent.
"""

from __future__ import annotations

import tempfile
import threading
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

LOOK_EVERY_SECONDS = 0.5


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        if self._connection.transport != "local" or self._task.async_val:
            return {**result, **self._drain({}, task_vars)}
        with tempfile.NamedTemporaryFile("r", prefix="onprem-gpu-drain-") as lines:
            over = threading.Event()
            teller = threading.Thread(target=_tell, args=(lines, over))
            teller.start()
            try:
                return {**result, **self._drain({"_progress_file": lines.name}, task_vars)}
            finally:
                over.set()
                teller.join()

    def _drain(self, more: dict[str, t.Any], task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
        answer: dict[str, t.Any] = self._execute_module(
            module_name="onprem.gpu.drain",
            module_args={**self._task.args, **more},
            task_vars=task_vars,
            wrap_async=self._task.async_val,
        )
        return answer


def _tell(lines: t.TextIO, over: threading.Event) -> None:
    unfinished = ""
    while True:
        last = over.wait(LOOK_EVERY_SECONDS)
        *complete, unfinished = (unfinished + lines.read()).split("\n")
        for line in complete:
            Display().display(line)
        if last:
            return
