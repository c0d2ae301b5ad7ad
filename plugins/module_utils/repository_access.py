# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Edge: fetch a repository's index the way the host's package manager would, and verify its signature.

Python 3.9. Reads the network and writes only below the folder it is given. gpgv comes with apt and with gnupg2 (which
dnf needs); where apt uses Sequoia instead (Debian 13), sqv does the same.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import ssl
import typing as t
import urllib.error
import urllib.request

APT_HELPER = "/usr/lib/apt/apt-helper"
DNF_CONFIGURATION = "/etc/dnf/dnf.conf"
LARGEST_INDEX = 64 * 1024 * 1024  # octets; a bigger answer is not an index

RunCommand = t.Callable[..., "tuple[int, str, str]"]  # AnsibleModule.run_command


class FetchError(Exception):
    """A file of the repository cannot be had; the message says which and why. absent: the server said 404."""

    def __init__(self, message: str, absent: bool = False) -> None:
        super().__init__(message)
        self.absent = absent


class SignatureError(Exception):
    """The signature is not by the wanted key; the message says by which it is."""


class RepositoryAccess:
    """Fetches and verifies for one host. format: apt or yum. folder: an empty one that the caller removes."""

    def __init__(self, run: RunCommand, package_format: str, folder: str, timeout_seconds: int) -> None:
        self._run = run
        self._folder = folder
        self._timeout_seconds = timeout_seconds
        self._fetch_into = self._fetch_with_apt if package_format == "apt" else self._fetch_with_urllib

    def fetch(self, url: str) -> str:
        """Return the path of a local copy; raise FetchError."""
        path = os.path.join(self._folder, f"{len(os.listdir(self._folder))}-{os.path.basename(url)}")
        self._fetch_into(url, path)
        return path

    def _fetch_with_apt(self, url: str, path: str) -> None:
        """apt-helper knows apt's proxies, passwords and certificates."""
        seconds = str(self._timeout_seconds)
        options = ["Acquire::Retries=0", "Acquire::http::Timeout=" + seconds, "Acquire::https::Timeout=" + seconds]
        rc, out, err = self._run(
            [APT_HELPER] + [word for option in options for word in ("-o", option)] + ["download-file", url, path]
        )
        if rc != 0:
            reason = " ".join(" ".join(re.findall(r"(?m)^E: (.*)$", err + out)).split()) or (err + out).strip()
            raise FetchError(f"{url}: {reason}", absent="404" in reason or "File not found" in reason)

    def _fetch_with_urllib(self, url: str, path: str) -> None:
        try:
            with _opener(DNF_CONFIGURATION).open(url, timeout=self._timeout_seconds) as answer:
                content = answer.read(LARGEST_INDEX)
        except urllib.error.HTTPError as error:
            raise FetchError(f"{url}: {error.code} {error.reason}", absent=error.code == 404) from error
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise FetchError(f"{url}: {getattr(error, 'reason', error)}") from error
        with open(path, "wb") as copy:
            copy.write(content)

    def verify(self, keyring: bytes, signed: str, signature: str | None = None) -> tuple[str, str]:
        """Return (path of what was signed, fingerprint that signed it); raise SignatureError.

        signed: path of a clear-signed message, or of a file with a detached signature.
        """
        keys = os.path.join(self._folder, "wanted.gpg")
        with open(keys, "wb") as copy:
            copy.write(keyring)
        if shutil.which("gpgv"):
            return self._verify_with_gpgv(keys, signed, signature)
        if signature and shutil.which("sqv"):
            return self._verify_with_sqv(keys, signed, signature)
        raise SignatureError("this host has neither gpgv nor sqv to verify signatures with")

    def _verify_with_gpgv(self, keys: str, signed: str, signature: str | None) -> tuple[str, str]:
        content = signed if signature else signed + ".content"
        command = ["gpgv", "--homedir", self._folder, "--status-fd", "1", "--keyring", keys]
        command += [signature, signed] if signature else ["--output", content, signed]
        rc, status, _errors = self._run(command)
        good = re.search(r"(?m)^\[GNUPG:\] VALIDSIG (\S+)(?: \S+){8} (\S+)", status)
        if rc == 0 and good:
            return content, good.group(2)
        raise SignatureError(_gpgv_problem(status))

    def _verify_with_sqv(self, keys: str, signed: str, signature: str) -> tuple[str, str]:
        rc, out, err = self._run(["sqv", "--keyring", keys, signature, signed])
        if rc == 0 and out.split():
            return signed, out.split()[0]
        raise SignatureError(" ".join(err.split()) or "no valid signature")


def _gpgv_problem(status: str) -> str:
    """Say in words what gpgv's status lines (gnupg doc/DETAILS) report."""
    unknown = re.search(r"(?m)^\[GNUPG:\] ERRSIG (\S+)(?: \S+){5}(?: ([0-9A-F]{40,}))?", status)
    if unknown:
        return f"signed by the key {unknown.group(2) or unknown.group(1)}"
    if "[GNUPG:] BADSIG" in status:
        return "the signature does not fit the file, so the file was changed after signing"
    if "[GNUPG:] EXPKEYSIG" in status or "[GNUPG:] KEYEXPIRED" in status:
        return "the key that signed it has expired"
    if "[GNUPG:] REVKEYSIG" in status:
        return "the key that signed it was revoked"
    return "it is not signed"


def _opener(configuration: str) -> urllib.request.OpenerDirector:
    """Return an opener with dnf's proxy and its answer to "verify certificates?"."""
    settings = configparser.ConfigParser(interpolation=None, strict=False)
    settings.read(configuration)
    proxy = settings.get("main", "proxy", fallback="")
    handlers: list[urllib.request.BaseHandler] = []
    if proxy and proxy != "_none_":
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    if settings.get("main", "sslverify", fallback="1").lower() in ("0", "false", "no"):
        handlers.append(urllib.request.HTTPSHandler(context=ssl._create_unverified_context()))
    return urllib.request.build_opener(*handlers)
