# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of onprem.gpu.mig; documentation in plugins/modules."""

from __future__ import annotations

from ansible_collections.onprem.gpu.plugins.plugin_utils.with_nvml import WithNvml


class ActionModule(WithNvml):
    module = "onprem.gpu.mig"
