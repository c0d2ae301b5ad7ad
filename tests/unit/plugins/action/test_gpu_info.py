# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import importlib.util
import sys
import types

import pytest
from ansible.plugins.action import ActionBase

from ansible_collections.onprem.gpu.plugins.action import gpu_info
from ansible_collections.onprem.gpu.plugins.module_utils.nvml import load


@pytest.fixture
def action(monkeypatch):
    """The plugin without a connection; what it hands to the module is kept in `sent`."""
    plugin = gpu_info.ActionModule.__new__(gpu_info.ActionModule)
    plugin._task = types.SimpleNamespace(args={}, async_val=0)
    plugin.sent = []

    def execute_module(**keywords):
        plugin.sent.append(keywords)
        return {"changed": False, "gpus": []}

    monkeypatch.setattr(plugin, "_execute_module", execute_module, raising=False)
    monkeypatch.setattr(ActionBase, "run", lambda self, tmp, task_vars: {})
    return plugin


def test_the_controllers_library_travels_with_the_call(action, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", pytest.importorskip("pynvml"))
    assert action.run(task_vars={}) == {"changed": False, "gpus": []}
    (sent,) = action.sent
    assert sent["module_name"] == "onprem.gpu.gpu_info"
    assert load(sent["module_args"]["_nvidia_ml_py"]).NVML_ERROR_DRIVER_NOT_LOADED == 9


def test_without_the_library_the_host_is_not_contacted(action, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = action.run(task_vars={})
    assert result["failed"] is True
    assert "nvidia-ml-py" in result["msg"]
    assert "requirements.txt" in result["msg"]
    assert action.sent == []
