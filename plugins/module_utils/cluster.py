# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only place that talks to a Kubernetes API server.

The kubernetes library reads kubeconfigs (exec plugins, OIDC, token files, in-cluster) and sets up TLS; the requests
themselves go straight to its connection pool. Its own retries are hidden, differ by method and never cover PATCH, so
``Cluster`` has one policy for all and counts what it sends:

- reads are repeated until an answer comes or the patience is over;
- a write is sent once; when its outcome is unknown (connection lost, 5xx) ``OutcomeUnknown`` says so and the caller
  looks;
- 429 means the server has done nothing yet: every thread waits as long as it asks, then the request is sent again;
- 401 means fresh credentials are fetched once.

Times are seconds.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
import traceback
import typing as t
from dataclasses import dataclass, field
from urllib.parse import urlencode

from ansible.module_utils.basic import env_fallback, missing_required_lib

try:
    import kubernetes.client
    import kubernetes.client.rest
    import kubernetes.config
    import urllib3
    import urllib3.exceptions
except ImportError:
    LIBRARY_TRACEBACK: str | None = traceback.format_exc()
else:
    LIBRARY_TRACEBACK = None

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

PAGE_SIZE = 500
MAX_CONNECTIONS = 8
CONNECT_SECONDS = 5
READ_SECONDS = 30
# Bookmarks come about once a minute, so a watch that is silent for longer is dead.
WATCH_READ_SECONDS = 75
# A server that never answered is more likely a wrong address than a restart.
FIRST_CONTACT_SECONDS = 10
PATIENCE_SECONDS = 120
QUERIES_PER_SECOND = 50
BURST = 100

DEFAULT_KUBECONFIG = "found by default: $KUBECONFIG, ~/.kube/config or the pod's service account"

JSON = "application/json"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
MERGE_PATCH = "application/merge-patch+json"

Query = t.Mapping[str, t.Any]
Headers = t.Mapping[str, str]


class ClusterError(Exception):
    """Something a user has to know.

    ``reason`` is one of not_found, forbidden, conflict, timeout, refused, api_unavailable.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class OutcomeUnknown(Exception):
    """A write was sent and may or may not have happened. ``answer`` is the server's, when it gave one (5xx)."""

    def __init__(self, message: str, answer: Answer | None = None) -> None:
        super().__init__(message)
        self.answer = answer


class NotSent(Exception):
    """The server was not reached: nothing can have happened."""


class Lost(Exception):
    """The connection broke after the request was sent."""


@dataclass(frozen=True)
class Answer:
    """What the server said. ``data`` is the decoded JSON; {} when the body was not a JSON object."""

    status: int
    data: dict[str, t.Any] = field(default_factory=dict)
    headers: Headers = field(default_factory=dict)
    text: str = ""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def message(self) -> str:
        return self.data.get("message") or self.text.strip()[:500] or f"HTTP {self.status}"

    @property
    def retry_after(self) -> float | None:
        value = self.headers.get("Retry-After", "")
        return float(value) if value.isdigit() else None

    @property
    def throttled(self) -> bool:
        """Turned away unprocessed. A 429 for a disruption budget is an answer, not throttling."""
        causes = (self.data.get("details") or {}).get("causes") or []
        return self.status == 429 and not any(cause.get("reason") == "DisruptionBudget" for cause in causes)


class Transport(t.Protocol):
    """One server and one set of credentials; what ``Cluster`` needs of them, so a test can stand in for both."""

    where: str

    def send(self, method: str, path: str, headers: Headers, body: bytes | None) -> Answer:
        """One request, no retry. Raises NotSent, Lost or ClusterError (TLS)."""

    def stream(
        self, path: str, headers: Headers, read_seconds: float
    ) -> t.ContextManager[tuple[int, t.Iterator[bytes]]]:
        """One GET whose body is read line by line. Raises NotSent or Lost, also while reading."""

    def renew(self) -> None:
        """Read the credentials again."""


class TokenBucket:
    """Lets ``rate`` requests a second through, ``burst`` at once, for all threads together; can be closed."""

    def __init__(
        self,
        rate: float = QUERIES_PER_SECOND,
        burst: float = BURST,
        clock: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate, self._burst = rate, burst
        self._clock, self._sleep = clock, sleep
        self._tokens, self._filled_at = float(burst), clock()
        self._closed_until = 0.0
        self._lock = threading.Lock()
        self.waited = 0.0

    def take(self) -> None:
        """Return when a request may be sent."""
        with self._lock:
            now = self._clock()
            opens = max(now, self._closed_until)
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
            self._filled_at = now
            self._tokens -= 1
            delay = max(opens - now, -self._tokens / self._rate if self._tokens < 0 else 0.0)
            self.waited += delay
        if delay > 0:
            self._sleep(delay)

    def close_for(self, seconds: float) -> None:
        """Let nothing through for this long."""
        with self._lock:
            self._closed_until = max(self._closed_until, self._clock() + seconds)


class Cluster:
    """Requests to one API server, with one rate limit and one retry policy for all threads of the process."""

    def __init__(
        self,
        transport: Transport,
        clock: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
        bucket: TokenBucket | None = None,
    ) -> None:
        self._transport = transport
        self._clock, self._sleep = clock, sleep
        self._bucket = bucket or TokenBucket(clock=clock, sleep=sleep)
        self._lock = threading.Lock()
        self._renewals = 0
        self._reached = False
        self._requests = 0
        self._retries = 0

    @property
    def where(self) -> str:
        """Server and credentials, for messages."""
        return self._transport.where

    @property
    def http(self) -> dict[str, t.Any]:
        """What was sent so far: requests, how many were repeated, seconds spent waiting for the rate limit."""
        return {
            "requests": self._requests,
            "retries": self._retries,
            "throttled_seconds": round(self._bucket.waited, 3),
        }

    # --- requests ---

    def get(self, path: str, query: Query | None = None) -> Answer:
        return self.request("GET", path, query)

    def patch(self, path: str, body: t.Mapping[str, t.Any], query: Query | None = None) -> Answer:
        return self.request("PATCH", path, query, body, MERGE_PATCH)

    def request(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: t.Mapping[str, t.Any] | None = None,
        content_type: str = JSON,
        *,
        accept: str = JSON,
    ) -> Answer:
        """Send one request and return the server's answer, good or bad.

        Raises OutcomeUnknown for a write whose fate is not known, ClusterError when the server stays out of reach,
        turns requests away for too long or rejects the credentials.
        """
        url = f"{path}?{urlencode(query)}" if query else path
        headers = {"Accept": accept, **({"Content-Type": content_type} if body is not None else {})}
        payload = None if body is None else json.dumps(body).encode()
        attempts = _Attempts(self._clock, random.random)
        while True:
            renewals = self._renewals
            self._count(retry=attempts.made > 0)
            try:
                answer = self._transport.send(method, url, headers, payload)
            except NotSent as error:
                self._wait_for_next(attempts, str(error))
                continue
            except Lost as error:
                if method != "GET":
                    raise OutcomeUnknown(str(error)) from error
                self._wait_for_next(attempts, str(error))
                continue
            self._reached = True
            if answer.status == 401:
                self._renew_credentials(answer, attempts, renewals)
            elif answer.throttled:
                self._wait_for_next(attempts, f"it turns requests away: {answer.message}", answer)
            elif answer.status >= 500:
                self._slow_down(answer)
                if method != "GET":
                    raise OutcomeUnknown(f"HTTP {answer.status}: {answer.message}", answer)
                self._wait_for_next(attempts, f"HTTP {answer.status}: {answer.message}")
            else:
                return answer

    def list_pages(self, path: str, query: Query | None = None, accept: str = JSON) -> t.Iterator[dict[str, t.Any]]:
        """The pages of a list, 500 objects each, as they come.

        A list that takes so long that its continue token expires goes on from the latest state (the token the server
        offers with the 410): good enough where each write carries the version it was computed from.
        """
        position: dict[str, str] = {}
        while True:
            answer = self.request("GET", path, {**(query or {}), "limit": PAGE_SIZE, **position}, accept=accept)
            if answer.status == 410 and (answer.data.get("metadata") or {}).get("continue"):
                position = {"continue": answer.data["metadata"]["continue"]}
                continue
            page = self.demand(answer, f"list {path}")
            yield page
            if not page["metadata"].get("continue"):
                return
            position = {"continue": page["metadata"]["continue"]}

    def watch(self, path: str, query: Query, seconds: float) -> t.Iterator[dict[str, t.Any]]:
        """The objects there are, as ADDED events, then what happens to them, for at most this long.

        With a resourceVersion in the query only what happened after that version. Ends earlier when the connection
        breaks, the version is too old or the server is too busy; the caller starts over while it still waits, and loses
        nothing because each watch begins with the whole state, or after a list it makes anew. Raises ClusterError for
        refusals.
        """
        seconds = max(1, int(seconds))
        parameters = urlencode({**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": seconds})
        self._count(retry=False)
        read_seconds = min(WATCH_READ_SECONDS, seconds + CONNECT_SECONDS)
        started = self._clock()
        try:
            with self._transport.stream(f"{path}?{parameters}", {"Accept": JSON}, read_seconds) as (status, lines):
                if status == 200:
                    yield from _events(lines)
                else:
                    self._judge_refused_watch(Answer(status, _decoded(b"".join(lines))), path)
        except (NotSent, Lost):
            pass
        if self._clock() - started < 1:
            self._sleep(1)

    def _judge_refused_watch(self, answer: Answer, path: str) -> None:
        if answer.status not in (410, 429) and answer.status < 500:
            raise self.failure(answer, f"watch {path}")
        self._slow_down(answer)

    # --- judging answers ---

    def demand(self, answer: Answer, what: str) -> dict[str, t.Any]:
        """The data of a good answer. Raises ClusterError for any other, saying what was tried and where."""
        if answer.ok and answer.data:
            return answer.data
        if answer.ok:
            raise ClusterError(
                "refused", f"{self.where} is not an API server: it answered {answer.text[:80]!r} to {what}."
            )
        raise self.failure(answer, what)

    def failure(self, answer: Answer, what: str) -> ClusterError:
        """The error for an answer that is not good; ``what`` says what was tried ("patch node gpu-1")."""
        if answer.status == 403:
            return ClusterError(
                "forbidden",
                f"Not allowed to {what}: {answer.message}. Sent to {self.where}. Grant that verb to this user, or use "
                "credentials that have it.",
            )
        reasons = {401: "forbidden", 404: "not_found", 409: "conflict", 410: "conflict"}
        return ClusterError(
            reasons.get(answer.status, "refused"),
            f"Could not {what}: {answer.message} (HTTP {answer.status} from {self.where}).",
        )

    # --- policy ---

    def _count(self, retry: bool) -> None:
        self._bucket.take()
        with self._lock:
            self._requests += 1
            self._retries += retry

    def _slow_down(self, answer: Answer) -> None:
        if answer.retry_after:
            self._bucket.close_for(answer.retry_after * random.uniform(1, 1.25))

    def _wait_for_next(self, attempts: _Attempts, failure: str, throttled: Answer | None = None) -> None:
        """Wait before the next try (a throttling server stops all threads), or give up when patience is over."""
        patience = PATIENCE_SECONDS if self._reached else FIRST_CONTACT_SECONDS
        pause = attempts.next_pause(throttled.retry_after if throttled else None)
        if attempts.elapsed + pause > patience:
            raise ClusterError(
                "api_unavailable",
                f"No usable answer from {self.where} within {attempts.elapsed:.0f} s ({attempts.made} tries): "
                f"{failure}. Check that the server runs and can be reached from the controller, and that the address "
                "is right (options kubeconfig, context and host, or K8S_AUTH_KUBECONFIG, K8S_AUTH_CONTEXT and "
                "K8S_AUTH_HOST).",
            )
        if throttled:
            self._bucket.close_for(pause)
        else:
            self._sleep(pause)

    def _renew_credentials(self, answer: Answer, attempts: _Attempts, renewals: int) -> None:
        """Read the credentials again, unless another thread has done so since this request was sent."""
        attempts.made += 1
        if not attempts.unauthorized:
            attempts.unauthorized = True
            with self._lock:
                if renewals == self._renewals:
                    self._transport.renew()
                    self._renewals += 1
            return
        raise ClusterError(
            "forbidden",
            f"{self.where} does not accept the credentials: {answer.message} (HTTP 401). The token or client "
            "certificate has expired or belongs to another cluster. Log in again or fetch a new kubeconfig, then run "
            "this again.",
        )


def _events(lines: t.Iterator[bytes]) -> t.Iterator[dict[str, t.Any]]:
    for line in lines:
        event = json.loads(line)
        if event["type"] == "ERROR":
            return
        yield event


class _Attempts:
    """How often and how long one request has been tried."""

    def __init__(self, clock: t.Callable[[], float], chance: t.Callable[[], float]) -> None:
        self._clock, self._chance = clock, chance
        self._started = clock()
        self.made = 0
        self.unauthorized = False

    @property
    def elapsed(self) -> float:
        return self._clock() - self._started

    def next_pause(self, retry_after: float | None) -> float:
        """Seconds until the next try: what the server asked for, or 1 s doubling to 15 s; up to a quarter more."""
        self.made += 1
        wanted = min(15.0, 2.0 ** (self.made - 1)) if retry_after is None else retry_after
        return wanted * (1 + self._chance() / 4)


def _decoded(body: bytes) -> dict[str, t.Any]:
    try:
        data = json.loads(body)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


# --- The real transport ---------------------------------------------------------------------------------------------


class KubernetesTransport:
    """The connection pool of the kubernetes library. ``options`` are the module's authentication options."""

    def __init__(self, options: t.Mapping[str, t.Any]) -> None:
        self._options = options
        self.renew()

    def renew(self) -> None:
        self._configuration = _configuration(self._options)
        self._configuration.connection_pool_maxsize = MAX_CONNECTIONS
        self._pool = kubernetes.client.rest.RESTClientObject(self._configuration).pool_manager
        self.where = f"{self._configuration.host} ({_credentials_text(self._options)})"

    def send(self, method: str, path: str, headers: Headers, body: bytes | None) -> Answer:
        with self._translated_errors():
            response = self._pool.request(
                method,
                self._configuration.host + path,
                body=body,
                headers=self._with_identity(headers),
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
                retries=False,
                redirect=False,
            )
        return Answer(
            response.status, _decoded(response.data), response.headers, response.data.decode(errors="replace")
        )

    @contextlib.contextmanager
    def stream(self, path: str, headers: Headers, read_seconds: float) -> t.Iterator[tuple[int, t.Iterator[bytes]]]:
        with self._translated_errors():
            response = self._pool.request(
                "GET",
                self._configuration.host + path,
                headers=self._with_identity(headers),
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                yield response.status, _lines(response)
            finally:
                response.close()

    def _with_identity(self, headers: Headers) -> t.Any:
        identified = urllib3.HTTPHeaderDict(headers)
        for setting in self._configuration.auth_settings().values():
            identified[setting["key"]] = setting["value"]
        if self._options.get("impersonate_user"):
            identified["Impersonate-User"] = self._options["impersonate_user"]
        for group in self._options.get("impersonate_groups") or []:
            identified.add("Impersonate-Group", group)
        identified["User-Agent"] = "onprem.gpu"
        return identified

    @contextlib.contextmanager
    def _translated_errors(self) -> t.Iterator[None]:
        try:
            yield
        except urllib3.exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error) and "match" not in str(error):
                raise Lost(str(error)) from error
            raise ClusterError(
                "refused",
                f"The certificate of {self.where} cannot be trusted: {error}. Give the cluster's CA (ca_cert, or "
                "certificate-authority-data in the kubeconfig) and an address the certificate is made out for.",
            ) from error
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
            raise NotSent(_last_part(error)) from error
        except urllib3.exceptions.ProxyError as error:
            raise NotSent(f"proxy: {_last_part(error)}") from error
        except (urllib3.exceptions.LocationValueError, UnicodeError) as error:
            raise ClusterError(
                "refused", f"{self._configuration.host} is not an address of an API server: {error}"
            ) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Lost(str(error)) from error


def _lines(response: t.Any) -> t.Iterator[bytes]:
    pending = b""
    for chunk in response.stream(65536, decode_content=True):
        *complete, pending = (pending + chunk).split(b"\n")
        yield from (line for line in complete if line)
    if pending:
        yield pending


def _last_part(error: Exception) -> str:
    """urllib3 puts the pool's repr in front: keep what people read."""
    return str(error).rpartition(": ")[2]


def _configuration(options: t.Mapping[str, t.Any]) -> t.Any:
    """Found in the order kubernetes.core uses: options, kubeconfig, in-cluster, default file."""
    configuration = kubernetes.client.Configuration()
    complete = options.get("host") and (
        options.get("api_key") or (options.get("client_cert") and options.get("client_key"))
    )
    if not complete:
        _load_configuration(options, configuration)
    overrides = {
        "host": (options.get("host") or "").rstrip("/") or None,
        "ssl_ca_cert": options.get("ca_cert"),
        "verify_ssl": options.get("validate_certs"),
        "cert_file": options.get("client_cert"),
        "key_file": options.get("client_key"),
        "proxy": options.get("proxy"),
        "no_proxy": options.get("no_proxy"),
    }
    for name, value in overrides.items():
        if value is not None:
            setattr(configuration, name, value)
    if options.get("api_key"):
        configuration.api_key = {"authorization": f"Bearer {options['api_key']}"}
        configuration.refresh_api_key_hook = None
        if not options.get("client_cert"):  # a certificate of the kubeconfig would win over the token
            configuration.cert_file = configuration.key_file = None
    return configuration


def _load_configuration(options: t.Mapping[str, t.Any], configuration: t.Any) -> None:
    kubeconfig, context = options.get("kubeconfig"), options.get("context")
    try:
        if isinstance(kubeconfig, dict):
            kubernetes.config.load_kube_config_from_dict(
                kubeconfig, context=context, client_configuration=configuration, persist_config=False
            )
            return
        if not kubeconfig and not context:
            try:
                kubernetes.config.load_incluster_config(client_configuration=configuration)
                return
            except kubernetes.config.ConfigException:
                pass
        kubernetes.config.load_kube_config(
            kubeconfig, context=context, client_configuration=configuration, persist_config=False
        )
    except Exception as error:  # the library lets KeyError, YAMLError, OSError and TypeError through besides its own
        raise ClusterError(
            "refused",
            f"Cannot use the {_credentials_text(options)}: {error}. Set kubeconfig (or K8S_AUTH_KUBECONFIG) to the "
            "file of your cluster and context (or K8S_AUTH_CONTEXT) to one of its contexts.",
        ) from error


def _credentials_text(options: t.Mapping[str, t.Any]) -> str:
    kubeconfig, context = options.get("kubeconfig"), options.get("context")
    if options.get("host") and not kubeconfig and not context:
        return "credentials given as options"
    source = (
        "kubeconfig given as data" if isinstance(kubeconfig, dict) else f"kubeconfig {kubeconfig or DEFAULT_KUBECONFIG}"
    )
    return f"{source}, context {context}" if context else source


# --- For modules ----------------------------------------------------------------------------------------------------


def _option(name: str, *older_names: str, **specification: t.Any) -> dict[str, t.Any]:
    variables = [f"K8S_AUTH_{each.upper()}" for each in (name, *older_names)]
    aliases = {"aliases": list(older_names)} if older_names else {}
    return {"fallback": (env_fallback, variables), **aliases, **specification}


# Names and environment variables are those of the kubernetes.core collection; documented in doc_fragments/cluster.py.
AUTHENTICATION_OPTIONS: dict[str, dict[str, t.Any]] = {
    "kubeconfig": _option("kubeconfig", type="raw", no_log=True),
    "context": _option("context", type="str"),
    "host": _option("host", type="str"),
    "api_key": _option("api_key", type="str", no_log=True),
    "ca_cert": _option("ca_cert", "ssl_ca_cert", type="path"),
    "validate_certs": _option("validate_certs", "verify_ssl", type="bool"),
    "client_cert": _option("client_cert", "cert_file", type="path"),
    "client_key": _option("client_key", "key_file", type="path", no_log=False),
    "proxy": _option("proxy", type="str"),
    "no_proxy": _option("no_proxy", type="str"),
    "impersonate_user": _option("impersonate_user", type="str"),
    "impersonate_groups": _option("impersonate_groups", type="list", elements="str"),
}


def open_cluster(module: AnsibleModule) -> Cluster:
    """The cluster a module's options speak of. Ends the module when that cannot be used."""
    if LIBRARY_TRACEBACK is not None:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=LIBRARY_TRACEBACK)
    options = {name: module.params[name] for name in AUTHENTICATION_OPTIONS}
    module.no_log_values = secrets_of(options)
    try:
        return Cluster(KubernetesTransport(options))
    except ClusterError as error:
        module.fail_json(msg=str(error), reason=error.reason, changed=False)
        raise


def secrets_of(options: t.Mapping[str, t.Any]) -> set[str]:
    """What must not show in results.

    AnsibleModule would take a kubeconfig's path for a secret (and messages could not name the file), and every name in
    a kubeconfig given as data too: a cluster called "kubernetes" would black out half of each label.
    """
    secrets = {options["api_key"]} if options.get("api_key") else set()
    kubeconfig = options.get("kubeconfig")
    if isinstance(kubeconfig, dict):
        for entry in kubeconfig.get("users") or []:
            secrets |= set(_user_secrets(entry.get("user") or {}))
    return {secret for secret in secrets if secret}


def _user_secrets(user: t.Mapping[str, t.Any]) -> t.Iterator[t.Any]:
    yield from (user.get(name) for name in ("token", "password", "client-key-data"))
    yield from ((user.get("auth-provider") or {}).get("config") or {}).values()
    yield from (variable.get("value") for variable in (user.get("exec") or {}).get("env") or [])
