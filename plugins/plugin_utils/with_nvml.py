# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of modules that use NVML: sends its nvidia-ml-py along, so that hosts need none."""

from __future__ import annotations

import importlib.util
import pathlib
import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.onprem.gpu.plugins.module_utils.nvml import packed_source

MISSING = (
    "The Python library nvidia-ml-py (module pynvml) is not installed for the Python that runs Ansible here on the "
    "controller. Install it with: python3 -m pip install -r requirements.txt (of this collection). Hosts need nothing."
)


class WithNvml(ActionBase):
    """Runs the module named `module` with one private option more."""

    _requires_connection = True
    _supports_check_mode = True
    _supports_async = True
    module: str

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if self.needs_nvml(arguments):
            source = nvidia_ml_py()
            if source is None:
                return {**result, "failed": True, "msg": MISSING}
            arguments["_nvidia_ml_py"] = packed_source(source)
        result.update(
            self._execute_module(
                module_name=self.module,
                module_args=arguments,
                task_vars=task_vars,
                wrap_async=self._task.async_val,
            )
        )
        return result

    def needs_nvml(self, arguments: dict[str, t.Any]) -> bool:
        """Whether the module, called with these arguments, asks NVML."""
        return True


def nvidia_ml_py() -> bytes | None:
    """The source of the controller's nvidia-ml-py, or None when it is not installed."""
    file = nvidia_ml_py_file()
    return file.read_bytes() if file else None


def nvidia_ml_py_file() -> pathlib.Path | None:
    """The one file that the controller's nvidia-ml-py is, or None when it is not installed."""
    found = importlib.util.find_spec("pynvml")
    if found is None or not found.origin or not found.origin.endswith(".py"):
        return None
    return pathlib.Path(found.origin)
