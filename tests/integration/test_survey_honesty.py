# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The survey is honest: what it says about a host is what a run of every task then does to it.

Converged hosts are changed at random, as people and accidents change them. Then `site --check`, which goes by the
survey, is held against `site` with gpu_survey_fast=false, which goes by nothing but the tasks.

SEED=n repeats a run, MUTATIONS=n makes another number of them (default 45).
"""

from __future__ import annotations

import os
import random

import observe
import pytest
from documents import converged, differences, items, traceable_differences
from mutations import HARMLESS, Mutation, of_item, of_node

SITE = observe.ROOT / "playbooks" / "site.yml"
SEED = int(os.environ.get("SEED") or random.randrange(10**6))
MUTATIONS = int(os.environ.get("MUTATIONS") or 45)
AT_ONCE = 5
ROUNDS = max(MUTATIONS // (AT_ONCE * 3), 1)


@pytest.fixture(scope="module")
def converged_run(hosts: list[str]) -> observe.Run:
    """A run that changed nothing: where every round starts."""
    observe.play(SITE).require_success()
    run = observe.play(SITE).require_success()
    assert run.changed_items() == {}
    return run


@pytest.fixture(scope="module")
def dice() -> random.Random:
    print(f"SEED={SEED} MUTATIONS={MUTATIONS}")
    return random.Random(SEED)


def test_what_is_none_of_our_business_stays_unnoticed(converged_run: observe.Run, hosts: list[str]) -> None:
    for host in hosts:
        for mutation in HARMLESS:
            mutation.apply(host)
    check, full, moved = check_and_full_run(converged_run, hosts)
    assert check.changed_items() == {}
    assert full.changed_items() == {}
    assert moved == {host: set() for host in hosts}


@pytest.mark.parametrize("number", range(ROUNDS))
def test_survey_and_full_run_agree(
    converged_run: observe.Run, hosts: list[str], dice: random.Random, number: int
) -> None:
    """Several mutations of each host at once; what the survey says about each item is compared."""
    mutated = {host: mutate(converged_run, host, dice, AT_ONCE) for host in hosts}
    judge(converged_run, mutated)


def test_survey_and_full_run_agree_on_a_single_mutation(
    converged_run: observe.Run, hosts: list[str], dice: random.Random
) -> None:
    """One mutation a host, so that nothing else on it can draw the survey's attention."""
    mutated = {host: mutate(converged_run, host, dice, 1) for host in hosts}
    judge(converged_run, mutated)


def test_changes_of_nodes_by_hand_are_noticed(
    converged_run: observe.Run, hosts: list[str], dice: random.Random
) -> None:
    variables = {host: observe.host_variables(host) for host in hosts}
    mutations = list(
        of_node(variables[hosts[0]]["gpu_node_labels"], [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}])
    )
    for mutation in dice.sample(mutations, min(3, len(mutations))):
        mutation.apply(dice.choice(hosts))
        check, full, _moved = check_and_full_run(converged_run, hosts)
        assert check.changed_items() != {}, mutation.name
        assert check.changed_items() == full.changed_items(), mutation.name


def mutate(run: observe.Run, host: str, dice: random.Random, count: int) -> list[Mutation]:
    """Change HOST in COUNT ways, each of another item, and return what was done."""
    managers = {"debian": "apt", "redhat": "dnf"}
    family = run.result_of("onprem.gpu.gpu_info", host)["os"]["family"]
    every = [list(of_item(item, managers[family])) for item in items(run, host)]
    ways = [ways for ways in every if ways]
    dice.shuffle(ways)
    done: list[Mutation] = []
    while ways and len(done) < count:
        mutation = dice.choice(ways.pop())
        if mutation.apply(host):
            done.append(mutation)
    return done


def judge(run: observe.Run, mutated: dict[str, list[Mutation]]) -> None:
    hosts = list(mutated)
    told = "\n".join(f"{host}: {mutation.name}" for host in hosts for mutation in mutated[host])
    print(told)
    check, full, moved = check_and_full_run(run, hosts)
    for host in hosts:
        visible = {item.id for item in items(run, host) if item.state_key} - undecided(check, host)
        assert moved[host] & visible == traceable_differences(check, host) & visible, told
        assert converged(check, host) == (full.changed_items().get(host, []) == []), told
        if any(mutation.matters for mutation in mutated[host]):
            assert not converged(check, host), told
        if all(mutation.matters is False for mutation in mutated[host]):
            assert converged(check, host), told


def undecided(check: observe.Run, host: str) -> set[str]:
    """Generated files while packages differ: the survey asks programs that the run is going to replace first."""
    kinds = {difference["kind"] for difference in differences(check, host).values()}
    if not kinds & {"package", "unfinished"}:
        return set()
    return {item.id for item in items(check, host) if item.kind == "generated"}


def check_and_full_run(run: observe.Run, hosts: list[str]) -> tuple[observe.Run, observe.Run, dict[str, set[str]]]:
    """What the survey says, what every task does, and the ids of the items that the tasks changed on each host."""
    files = {host: [item.name for item in items(run, host) if item.kind in ("file", "generated")] for host in hosts}
    before = observe.on_hosts(hosts, lambda host: observe.host_state(host, *files[host]))
    check = observe.play(SITE, "--check").require_success()
    full = observe.play(SITE, "--extra-vars", "gpu_survey_fast=false").require_success()
    after = observe.on_hosts(hosts, lambda host: observe.host_state(host, *files[host]))
    moved: dict[str, set[str]] = {}
    for host in hosts:
        keys = observe.differing(before[host], after[host])
        moved[host] = {item.id for item in items(run, host) if item.state_key in keys}
    return check, full, moved
