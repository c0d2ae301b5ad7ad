# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of onprem.gpu.survey; documentation in plugins/modules."""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.gpu.plugins.plugin_utils.with_nvml import WithNvml


class ActionModule(WithNvml):
    module = "onprem.gpu.survey"

    def needs_nvml(self, arguments: dict[str, t.Any]) -> bool:
        documents = arguments.get("documents")
        found = documents.values() if isinstance(documents, dict) else ()
        return any(isinstance(document, dict) and document.get("mig") for document in found)
