# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves a folder over HTTP; the lab's package repositories. usage: serve.py ADDRESS PORT FOLDER"""

from __future__ import annotations

import functools
import http.server
import sys


class Handler(http.server.SimpleHTTPRequestHandler):
    """Keeps connections open, so that apt and dnf need only one each."""

    protocol_version = "HTTP/1.1"


def main() -> None:
    address, port, folder = sys.argv[1:]
    handler = functools.partial(Handler, directory=folder)
    http.server.ThreadingHTTPServer((address, int(port)), handler).serve_forever()


if __name__ == "__main__":
    main()
