"""Checks of the command ``info``: findings, and the checks of ``/info`` itself, of caching and of CORS.

Each check sends requests to the service as clients do, and returns its findings.
"""

import dataclasses
import re
from collections.abc import Sequence
from enum import Enum
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from ..client.fallback import decode_info
from .advice import NO_RESPONSE, OTHER_SERVER
from .probe import ABORTED, Prober, Response

#: An origin that no real site has. If it is allowed, all origins are.
UNKNOWN_ORIGIN: Final = "https://doctor.invalid"


#: Fields of ``/info``. Other programs respond with JSON, too.
_INFO_FIELDS: Final = frozenset({"websocket", "cookie_needed", "origins", "entropy"})

#: The script of the iframe page.
_SCRIPT: Final = re.compile(rb'<script src="([^"\s]+)"')


class Level(Enum):
    """Severity of a finding, by its label."""

    GOOD = "ok"
    #: Not a problem, but worth knowing.
    NOTE = "note"
    BAD = "BAD"


class Finding(NamedTuple):
    """The result of a check.

    Attributes:
        level: Severity.
        subject: Name of the check or of the transport.
        text: Observation.
        advice: How to fix the problem.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""


def describe_proxy(prober: Prober) -> list[Finding]:
    """Return a finding if the requests go through a proxy."""
    proxy = prober.options.find_proxy(prober.service)
    if proxy is None:
        return []
    source, advice = (proxy.variable, "Use --no-proxy to check without it.") if proxy.variable else ("--proxy", "")
    return [Finding(Level.NOTE, "proxy", f"all requests go through {proxy.url} ({source})", advice)]


def milliseconds(seconds: float) -> str:
    """Return a duration as text."""
    return f"{seconds * 1000:.0f} ms"


async def check_info(prober: Prober, seconds: float) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Request ``/info`` twice, as another site; return the response, or None if all else would fail, and findings."""
    own_origin = prober.options.origin
    headers = [] if own_origin else [("Origin", UNKNOWN_ORIGIN)]
    first = await prober.fetch("/info", seconds, headers=headers)
    if first.failure:
        reason = first.failure if first.failure != ABORTED else f"no response in {seconds:g} s"
        advice = prober.advisor.explain_failure(reason)
        if first.failure == ABORTED and first.is_accepted and not prober.advisor.used_proxy:
            advice = f"The connection was accepted. {NO_RESPONSE}"
        return None, [Finding(Level.BAD, "/info", reason, advice)]
    responses = [first, await prober.fetch("/info", seconds, headers=headers)]
    findings = []
    is_rejected = False
    if first.status == 403:
        without_origin = prober.without_origin()
        plain = await without_origin.fetch("/info", seconds)
        if plain.status == 403:
            # So it is not about origins.
            return None, [_explain_bad_info(without_origin, plain)]
        is_rejected = not own_origin
    if is_rejected:
        first = plain
        advice = "Use --origin to test as one of your own pages."
        findings.append(Finding(Level.NOTE, "origins", "pages of unknown sites are rejected (403)", advice))
        responses = [first]
    infos = [_decode_own_info(response) for response in responses]
    info = infos[0] or infos[-1]
    if info is None:
        return None, [*findings, _explain_bad_info(prober, first)]
    if None in infos:
        first, other = responses if infos[0] else reversed(responses)
        findings.append(_describe_other_server(prober, other, seconds))
    findings.append(_describe_info(info, first))
    if len(responses) > 1 and None not in infos:
        findings += _check_caching(responses)
    if not is_rejected:
        findings.append(_check_cors(first, own_origin or UNKNOWN_ORIGIN))
    return info, findings


def _decode_own_info(response: Response) -> dict[str, Any] | None:
    """Return the object of a response to ``/info``, or None if it is not that of a service."""
    info = decode_info(response.body) if response.status == 200 else None
    return info if info is not None and _INFO_FIELDS & info.keys() else None


def _describe_other_server(prober: Prober, response: Response, seconds: float) -> Finding:
    """Return a finding for the worse one of two requests for ``/info``."""
    if response.status:
        text = response.describe(f"status {response.status}")
        # Other statuses have reasons of their own, such as a limit for the rate of requests.
        advice = OTHER_SERVER if response.status in (200, 404) else _explain_bad_info(prober, response).advice
    else:
        text, advice = response.describe_failure(seconds), NO_RESPONSE
    return Finding(Level.BAD, "servers", f"one of two requests for /info got {text}", advice)


def _explain_bad_info(prober: Prober, response: Response) -> Finding:
    status = response.status
    advice = prober.advisor.explain_status(status, response.header("location"), bytes(response.body))
    text = f"status {status}"
    if status == 200:
        is_json = decode_info(response.body) is not None
        text = (
            "the response is JSON, but not that of a SockJS service" if is_json else "the response is not a JSON object"
        )
    return Finding(Level.BAD, "/info", response.describe(text), advice)


def _describe_info(info: dict[str, Any], response: Response) -> Finding:
    websocket = "websockets enabled" if info.get("websocket") is not False else "websockets disabled"
    cookie = "sets the cookie JSESSIONID" if info.get("cookie_needed") else "sets no cookie"
    base_url = f", base_url {info['base_url']}" if info.get("base_url") else ""
    return Finding(Level.GOOD, "/info", f"{milliseconds(response.headers_after)}; {websocket}, {cookie}{base_url}")


def _check_caching(responses: Sequence[Response]) -> list[Finding]:
    entropies = [(decode_info(response.body) or {}).get("entropy") for response in responses]
    if responses[1].header("age") or (entropies[0] is not None and entropies[0] == entropies[1]):
        advice = "A cache stores responses in spite of no-store. Exclude this location from caching."
        return [Finding(Level.BAD, "caching", "two requests for /info got the same response", advice)]
    if "no-store" not in responses[0].header("cache-control"):
        return [Finding(Level.NOTE, "caching", "/info has no no-store", "A proxy removes Cache-Control.")]
    return []


def _check_cors(response: Response, origin: str) -> Finding:
    allowed = [value for name, value in response.headers if name == "access-control-allow-origin"]
    overwritten = "A proxy overwrites the server's field, which has the page's origin."
    if len(allowed) > 1 or (allowed and "," in allowed[0]):
        text = f"/info has {len(allowed)} Access-Control-Allow-Origin fields"
        advice = "A proxy adds a second one. Browsers reject both; leave it to the server."
    elif not allowed:
        text = "/info has no Access-Control-Allow-Origin: pages of other sites cannot use HTTP transports"
        advice = "A proxy removes it, or the request did not reach the server."
    elif allowed[0] == "*":
        text, advice = "/info allows all origins, which excludes credentials", overwritten
    elif allowed[0] != origin:
        text, advice = f"/info allows {allowed[0]}, and not {origin}", overwritten
    else:
        return Finding(Level.GOOD, "CORS", f"/info can be read by pages of {origin}")
    return Finding(Level.BAD, "CORS", text, advice)


async def check_iframe(prober: Prober, seconds: float) -> list[Finding]:
    """Return a finding if the script of the iframe page is not at the path that the page names."""
    page = await prober.fetch("/iframe.html", seconds)
    found = _SCRIPT.search(page.body)
    if page.status != 200 or found is None:
        return []
    path, service = found[1].decode().replace("&amp;", "&"), urlsplit(prober.service.url)
    own_path = f"{service.path}/sockjs.min.js"
    if not path.startswith("/") or path.startswith("//") or path == own_path:
        # Relative, of another host, or beside the page.
        return []
    root = prober.service._replace(url=f"{service.scheme}://{service.netloc}")
    script = await dataclasses.replace(prober, service=root).fetch(path, seconds)
    if script.status == 200 or script.failure:
        return []
    text = f"/iframe.html loads {path}: status {script.status}"
    advice = (
        f"A proxy changes the path of requests, so that the server does not know {own_path}: forward it unchanged "
        "(nginx: `proxy_pass` without a path), or set sockjs_url. Transports that need an iframe do not work."
    )
    return [Finding(Level.BAD, "iframe", text, advice)]
