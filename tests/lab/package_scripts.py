# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Maintainer scripts: what the vendors' packages do to a host when they come and go."""

from __future__ import annotations

Scripts = dict[str, str]

LDCONFIG_DEB: Scripts = {"postinst": "ldconfig\n", "postrm": "ldconfig\n"}
LDCONFIG_RPM: Scripts = {"post": "/sbin/ldconfig\n", "postun": "/sbin/ldconfig\n"}


def service_deb(*units: str, enable: bool) -> Scripts:
    """What debhelper adds for units: enabled and started when installed, restarted by upgrades, stopped at removal."""
    postinst = 'if [ "$1" = configure ]; then\n'
    for unit in units:
        if enable:
            postinst += f"    deb-systemd-helper enable {unit} >/dev/null || true\n"
        else:
            postinst += f"    deb-systemd-helper update-state {unit} >/dev/null || true\n"
    postinst += "    if [ -d /run/systemd/system ]; then\n        systemctl --system daemon-reload >/dev/null || true\n"
    for unit in units:
        if enable:
            postinst += (
                f'        deb-systemd-invoke $([ -n "$2" ] && echo restart || echo start) {unit} >/dev/null || true\n'
            )
        else:
            postinst += f'        [ -z "$2" ] || deb-systemd-invoke try-restart {unit} >/dev/null || true\n'
    postinst += "    fi\nfi\n"
    names = " ".join(units)
    running = "[ -d /run/systemd/system ]"
    prerm = f'if [ "$1" = remove ] && {running}; then\n    deb-systemd-invoke stop {names} >/dev/null || true\nfi\n'
    postrm = (
        f"if {running}; then\n    systemctl --system daemon-reload >/dev/null || true\nfi\n"
        f'if [ "$1" = purge ]; then\n    deb-systemd-helper purge {names} >/dev/null || true\nfi\n'
    )
    return {"postinst": postinst, "prerm": prerm, "postrm": postrm}


def service_rpm(*units: str, preset: bool, start: bool = False) -> Scripts:
    """What the systemd macros add: enabled where a preset says so, never started, stopped at removal."""
    names = " ".join(units)
    post = "systemctl daemon-reload >/dev/null 2>&1 || :\n"
    if preset:
        post += f'if [ "$1" -eq 1 ]; then\n    systemctl --no-reload preset {names} >/dev/null 2>&1 || :\nfi\n'
    if start:
        post += f"systemctl --no-block start {names} >/dev/null 2>&1 || :\n"
    preun = f'if [ "$1" -eq 0 ]; then\n    systemctl --no-reload disable --now {names} >/dev/null 2>&1 || :\nfi\n'
    return {"post": post, "preun": preun, "postun": "systemctl daemon-reload >/dev/null 2>&1 || :\n"}


def dkms_deb(version: str) -> Scripts:
    """Build for the running kernel after installation, take the modules away before removal or upgrade."""
    remove = f"dkms remove -m nvidia -v {version} --all || true"
    return {
        "postinst": f'if [ "$1" = configure ]; then\n    /usr/lib/dkms/common.postinst nvidia {version}\nfi\n',
        "prerm": f'case "$1" in\nremove | upgrade | deconfigure) {remove} ;;\nesac\n',
    }


def dkms_rpm(version: str) -> Scripts:
    """The same for rpm: an upgrade runs the new package's post before the old one's preun."""
    return {
        "post": f"/usr/lib/dkms/common.postinst nvidia {version} || :\n",
        "preun": f"dkms remove -m nvidia -v {version} --all || :\n",
    }


def joined(*several: Scripts) -> Scripts:
    """Several sets of scripts as one."""
    together: Scripts = {}
    for scripts in several:
        for name, body in scripts.items():
            together[name] = together.get(name, "") + body
    return together
