# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The survey has to say exactly what the modules that write a host would change; a fast path rests on it."""

from __future__ import annotations

from pathlib import Path

import observe

PLAYBOOK = Path(__file__).with_name("survey_contract.yml")
FAMILIES = ("os_debian12", "os_el9")  # the systems differ in systemd, not in how they are asked


def test_survey_and_writers_agree_in_every_state_of_units_and_files(hosts: list[str]) -> None:
    asked = observe.play(PLAYBOOK, "-e", f"contract_hosts={':'.join(FAMILIES)}").require_success().tasks()
    assert len(set(asked) & set(hosts)) == len(FAMILIES), "the default fleet has a host of each family"
