# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of layouts: one bar a GPU, whose pieces are as wide as their share of the memory."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from mig_notation import USER, carried_out, layout, make_gpu, make_wanted_on

from ansible_collections.onprem.gpu.plugins.filter.mig_plan import mig_plan
from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import Mode, foreseen, plan
from ansible_collections.onprem.gpu.plugins.module_utils.mig_models import MIG_MODELS
from ansible_collections.onprem.gpu.plugins.module_utils.mig_picture import WIDTH, bars, users


def pieces(line: str) -> list[str]:
    return line.split("|")[1:-1]


@pytest.mark.parametrize("model", MIG_MODELS)
def test_a_piece_is_as_wide_as_its_share(model: str) -> None:
    [planned] = mig_plan([model], "all-balanced")
    line, *_legend = planned["picture"]
    assert len(line) <= WIDTH
    made = [one for one in planned["plan"] if one["op"] == "create_gpu_instance"]
    shown = {piece.rstrip("."): len(piece) + 1 for piece in pieces(line)}
    widths = {shown[one["profile"]] / one["size"] for one in made}
    assert len(widths) == 1


def test_use_and_halves_are_marked() -> None:
    [line] = bars(make_gpu("A100-40GB", "2g@0* 1g[]@2 3g[1,1]@4"))
    used, empty, free, divided = pieces(line)
    assert used.startswith("2g.10gb.*") or "*" in used
    assert "/" in empty
    assert set(free) == {"."}
    assert "2" in divided.replace("3g.20gb", "")


def test_each_user_has_a_line() -> None:
    gpu = make_gpu("A100-40GB", "2g@0* 1g@2 3g[1*,2*]@4", users=("pod team-a/train-0",))
    assert users(gpu) == [
        "the whole GPU: pod team-a/train-0",
        f"2g.10gb at slices 0-1: {USER}",
        f"3g.20gb at slices 4-7: {USER}",
    ]
    assert users(make_gpu("A100-40GB", "2g@0 1g@2")) == []


def test_modes_without_instances() -> None:
    assert "MIG off" in bars(make_gpu("A100-40GB", on=False))[0]
    assert "pending enable" in bars(make_gpu("A100-40GB", on=False, mode=Mode(False, True)))[0]
    assert "not MIG capable" in mig_plan(["L4"], "all-disabled")[0]["picture"][0]


@pytest.mark.parametrize(
    ("there", "wanted"), [("3g@0 3g@4", "4g 2g 1g"), ("1g@0..6", "3g 1g*3"), ("3g@4", "3g[1,1,1]"), ("", "7g")]
)
def test_what_is_foreseen_is_what_comes(there: str, wanted: str) -> None:
    gpu = make_gpu("A100-40GB", there)
    planned = plan(gpu, make_wanted_on(gpu, wanted))
    assert layout(foreseen(planned)) == layout(carried_out(gpu, planned.operations))


def test_the_filter_names_what_it_does_not_know() -> None:
    with pytest.raises(AnsibleFilterError, match=r"'H1000' is no model of a GPU\. Those with MIG are A30-24GB, "):
        mig_plan(["H1000"], "all-balanced")
    with pytest.raises(AnsibleFilterError, match=r"mig-configs: 'all-1g\.5gb' is not the name of a layout"):
        mig_plan(["H100-80GB"], "all-1g.5gb")


def test_the_filter_knows_the_names_that_gpu_info_reports() -> None:
    assert mig_plan(["H100-SXM5-80GB"], "all-balanced")[0]["picture"]
    assert mig_plan(["0x2330"], "all-balanced")[0]["changed"]
