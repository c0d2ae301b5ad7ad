# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The embedded data centre: python tests/lab up | status | down | reset."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import settings
from progress import LabError


def main() -> int:
    arguments = _arguments()
    try:
        lab = importlib.import_module("lab")  # needs PyYAML: not before the arguments are read

        return int(getattr(lab, arguments.command)(arguments))
    except ModuleNotFoundError as error:
        print(f"lab: Python package {error.name} is missing; use the repository's virtual environment", file=sys.stderr)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("lab: interrupted; `down` removes what is there, `up` goes on with it", file=sys.stderr)
    return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lab", description="The embedded data centre of onprem.gpu.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="build what is missing and bring the lab up; changes nothing where it is up")
    up.add_argument("--fleet", type=Path, help=f"what stands in the racks (default: {settings.DEFAULT_FLEET})")
    commands.add_parser("status", help="show hosts, nodes and processes; exit status 0 when everything is there")
    commands.add_parser("down", help="remove every trace of a lab from this machine, also of a crashed or foreign one")
    reset = commands.add_parser("reset", help="make hosts as delivered: bare disks, no node object")
    reset.add_argument("hosts", nargs="*", help="names of hosts (default: all)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
