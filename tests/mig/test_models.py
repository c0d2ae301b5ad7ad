# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table for planning without hardware against the simulated GPUs, which were written from other sources."""

from __future__ import annotations

import pytest
import silicon
import silicon_mig

from ansible_collections.onprem.gpu.plugins.module_utils.mig_models import gpu_without_hardware

CAPABLE = sorted(name for name, model in silicon.MODELS.items() if model.mig)


@pytest.mark.parametrize("name", CAPABLE)
def test_the_same_profiles_at_the_same_places(name: str) -> None:
    model = silicon.MODELS[name]
    planned = gpu_without_hardware(f"0x{model.device:04x}")
    assert planned.mig_capable, f"{name} is not in the table"
    assert {
        profile.name: (
            profile.id,
            profile.slices,
            profile.instance_count,
            [place.start for place in profile.placements],
        )
        for profile in planned.profiles
    } == {
        profile.name: (profile.id, profile.slices, profile.count, list(profile.starts))
        for profile in silicon_mig.PROFILES[model.mig]
    }
