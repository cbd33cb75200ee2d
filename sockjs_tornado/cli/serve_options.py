"""The options of the command ``serve``, from the command line, the environment and a file.

Each option is a field of :class:`ServeOptions`. ``drain_time``, say, is ``--drain-time`` on the command line,
``SOCKJS_DRAIN_TIME`` in the environment, and ``drain_time`` in the file. The first of these that gives a value counts.
"""

import argparse
import contextlib
import dataclasses
import ipaddress
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from ..exceptions import ConfigurationError
from .option_sources import PREFIX, read_environment, read_file, read_toml

LEVELS: Final = ("debug", "info", "warning", "error", "critical")


class Kind(NamedTuple):
    """A kind of value.

    Attributes:
        parse: Returns the value for a text of the command line or the environment, or for a value of the file. It
            raises TypeError or ValueError if that is not valid.
        expected: The valid values, for an error.
    """

    parse: Callable[[Any], Any]
    expected: str


def _parse_text(value: Any) -> str:
    # No name or address has a null character.
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return value


def _parse_flag(value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    try:
        return words[value.lower()]
    except (AttributeError, KeyError):
        raise ValueError from None


def _parse_seconds(value: Any) -> float:
    if isinstance(value, bool) or not 0 <= float(value) < float("inf"):
        raise ValueError
    return float(value)


def _parse_list(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    return tuple(_parse_text(item.strip()) for item in items)


def _parse_networks(value: Any) -> tuple[str, ...]:
    networks = _parse_list(value)
    for network in networks:
        ipaddress.ip_network(network)
    return networks


def _parse_settings(value: Any) -> Mapping[str, Any]:
    # Their values are checked by the router.
    return dict(value)


def _whole(low: int, high: int | None = None) -> Kind:
    def parse(value: Any) -> int:
        if isinstance(value, str):
            value = int(value)
        if type(value) is not int or value < low or (high is not None and value > high):
            raise ValueError
        return value

    return Kind(parse, f"{low} or more" if high is None else f"{low} to {high}")


def _choice(*names: str) -> Kind:
    def parse(value: Any) -> str:
        name = _parse_text(value).lower()
        if name not in names:
            raise ValueError
        return name

    return Kind(parse, " or ".join(names))


TEXT: Final = Kind(_parse_text, "a text")
FLAG: Final = Kind(_parse_flag, "true or false")
SECONDS: Final = Kind(_parse_seconds, "a number of seconds, 0 or more")
ORIGINS: Final = Kind(_parse_list, '"*", "same-origin", or a list of origins')
NETWORKS: Final = Kind(_parse_networks, "a list of IP addresses and networks, such as 127.0.0.1,10.0.0.0/8")
SETTINGS: Final = Kind(_parse_settings, "settings by name")


def _option(kind: Kind, default: Any, summary: str, metavar: str = "") -> Any:
    metadata = {"kind": kind, "help": summary, "metavar": metavar}
    if kind is SETTINGS:
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    """What ``serve`` is to do."""

    connection: str = _option(TEXT, "echo", "echo, chat, or a SockJSConnection subclass, such as package.module.Class")
    host: str = _option(TEXT, "127.0.0.1", "address to listen on")
    port: int = _option(_whole(0, 65535), 8080, "port to listen on; 0 for a free one")
    uds: str | None = _option(TEXT, None, "listen on a Unix socket instead of a port", "PATH")
    fd: int | None = _option(
        _whole(0), None, "listen on a socket that is open already; 3 for the first one of systemd", "NUMBER"
    )
    certfile: str | None = _option(TEXT, None, "file with the certificate chain in PEM: serve over TLS", "FILE")
    keyfile: str | None = _option(TEXT, None, "file with its private key, if not in the same file", "FILE")
    prefix: str | None = _option(TEXT, None, "prefix of the URLs (default /echo, /chat or /sockjs)")
    origins: tuple[str, ...] | None = _option(
        ORIGINS, None, 'origins of pages that may connect: "*" (the default), same-origin, or a list', "ORIGIN,..."
    )
    set: Mapping[str, Any] = _option(SETTINGS, None, "a setting of the router; the value is JSON or text", "NAME=VALUE")
    xheaders: bool = _option(
        FLAG, False, "trust X-Real-Ip, X-Forwarded-For and X-Forwarded-Proto of every client, so of a proxy"
    )
    proxy_trust: tuple[str, ...] | None = _option(
        NETWORKS, None, "trust these headers of proxies at these addresses only, and of those on --uds", "ADDRESS,..."
    )
    drain_time: float = _option(SECONDS, 5.0, "seconds over which the sessions are closed after SIGTERM", "SECONDS")
    workers: int = _option(_whole(1), 1, "number of processes, of which any serves any session", "N")
    redis: str | None = _option(TEXT, None, "URL of a Redis server through which all servers share their rooms", "URL")
    namespace: str = _option(
        TEXT, "sockjs", "prefix of all keys and channels in Redis, another one for each application", "NAME"
    )
    advertise: str | None = _option(
        TEXT,
        None,
        "private address of this server, such as http://10.0.0.1:9080, where the others reach it to serve each other's "
        "sessions; requires --redis, and SOCKJS_SECRET in the environment",
        "URL",
    )
    node_certfile: str | None = _option(
        TEXT, None, "file with the certificate chain of this server for an https address in --advertise", "FILE"
    )
    node_keyfile: str | None = _option(TEXT, None, "file with its private key, if not in the same file", "FILE")
    node_cafile: str | None = _option(
        TEXT, None, "file with the authorities that issue the certificates of all servers", "FILE"
    )
    metrics_port: int | None = _option(
        _whole(0, 65535), None, "port for /metrics, /healthz and /readyz (requires the extra `metrics`)", "PORT"
    )
    metrics_host: str = _option(TEXT, "127.0.0.1", "address for this port", "HOST")
    log_level: str = _option(_choice(*LEVELS), "info", f"lowest level of the log: {', '.join(LEVELS)}", "LEVEL")
    log_format: str = _option(_choice("text", "json"), "text", "text or json", "FORMAT")
    access_log: bool = _option(FLAG, False, "log each request, without session ids and queries")
    uvloop: bool = _option(FLAG, False, "use uvloop (requires the extra `fast`)")
    #: Where options were given, by name.
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def source(self, name: str) -> str:
        """Return an option as the user has written it, for the beginning of an error."""
        return self.sources.get(name, _flag(name))


FIELDS: Final = {field.name: field for field in dataclasses.fields(ServeOptions) if "kind" in field.metadata}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to a parser. Only those that are given become attributes of its result."""
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file with any of these options; - in their names becomes _"
    )
    for name, field in FIELDS.items():
        kind, text = field.metadata["kind"], field.metadata["help"].replace("%", "%%")
        if field.default not in (None, False) and kind is not SETTINGS:
            shown = f"{field.default:g}" if isinstance(field.default, float) else field.default
            text += f" (default {shown})"
        keywords: dict[str, Any] = {"help": text}
        if kind is FLAG:
            keywords["action"] = argparse.BooleanOptionalAction
        elif field.metadata["metavar"]:
            keywords["metavar"] = field.metadata["metavar"]
        if kind is SETTINGS:
            keywords["action"] = "append"
        if name == "connection":
            parser.add_argument(name, nargs="?", **keywords)
        else:
            parser.add_argument(_flag(name), **keywords)
    parser.epilog = "Each option can also be given in the environment: SOCKJS_PORT=80 is the same as --port 80."


#: The options that say where to listen, by kind. One of them replaces those of other kinds in less specific sources.
_ADDRESSES: Final = ({"uds"}, {"fd"}, {"host", "port"})


def resolve(given: argparse.Namespace, environment: Mapping[str, str]) -> ServeOptions:
    """Return the options, from the command line, the environment and the file, in this order.

    Raises:
        ConfigurationError: A value is not valid, or a name is unknown.
    """
    arguments = {name: value for name, value in vars(given).items() if name in FIELDS}
    variables = read_environment(environment, [*FIELDS, "config"])
    other_config = variables.pop("config", None)
    config_source = "--config" if "config" in given else f"{PREFIX}CONFIG"
    config = getattr(given, "config", other_config)
    sources: list[tuple[Callable[[str], str], Mapping[str, Any]]] = [
        (lambda name: name if name == "connection" else _flag(name), arguments),
        (lambda name: f"{PREFIX}{name.upper()}", variables),
    ]
    if config is not None:
        sources.append((lambda name: f"{config}: {name}", read_file(config, list(FIELDS), config_source)))
    values: dict[str, Any] = {}
    found_in: dict[str, str] = {}
    # The first source has precedence, so it comes last.
    for describe, source in reversed(sources):
        kinds = [names for names in _ADDRESSES if not names.isdisjoint(source)]
        # A container image may set a port in the environment that its user replaces there.
        if len(kinds) > 1 and source is not variables:
            first, second = (next(name for name in source if name in names) for names in kinds[:2])
            raise ConfigurationError(f"{describe(first)}: cannot be combined with {describe(second)}")
        if kinds:
            replaced = {name for names in _ADDRESSES if names not in kinds for name in names}
            values = {name: value for name, value in values.items() if name not in replaced}
        for name, value in source.items():
            found_in[name] = describe(name)
            parsed = _parse(found_in[name], FIELDS[name].metadata["kind"], value)
            values[name] = {**values.get(name, {}), **parsed} if name == "set" else parsed
    options = ServeOptions(**values, sources=found_in)
    _check_combinations(options)
    return options


def find_log_format(given: argparse.Namespace, environment: Mapping[str, str]) -> str:
    """Return the option ``log_format``, also if others are not valid."""
    sources: list[Mapping[str, Any]] = [vars(given), {"log_format": environment.get(f"{PREFIX}LOG_FORMAT")}]
    config = getattr(given, "config", environment.get(f"{PREFIX}CONFIG", ""))
    with contextlib.suppress(ConfigurationError):
        sources.append(read_toml(config, "--config"))
    return next((str(source["log_format"]) for source in sources if source.get("log_format")), "text")


def _parse(source: str, kind: Kind, value: Any) -> Any:
    if kind is SETTINGS and isinstance(value, str):
        value = value.split("\n")
    if kind is SETTINGS and isinstance(value, list):
        value = dict(_parse_setting(source, item) for item in value if item)
    try:
        return kind.parse(value)
    except (AttributeError, OverflowError, TypeError, ValueError):
        raise ConfigurationError(f"{source}: expected {kind.expected}, got {value!r}") from None


def _parse_setting(source: str, item: Any) -> tuple[str, Any]:
    name, separator, value = str(item).partition("=")
    if not separator:
        raise ConfigurationError(f"{source}: expected NAME=VALUE, got {item!r}")
    try:
        return name, json.loads(value)
    except (RecursionError, ValueError):
        return name, value


def _check_combinations(options: ServeOptions) -> None:
    """Raise ConfigurationError for options that exclude or require each other."""
    source = options.source
    if options.uds is not None and options.fd is not None:
        raise ConfigurationError(f"{source('uds')}: cannot be combined with {source('fd')}")
    if options.keyfile is not None and options.certfile is None:
        raise ConfigurationError(f"{source('keyfile')}: requires --certfile")
    if options.advertise is not None and options.redis is None:
        raise ConfigurationError(f"{source('advertise')}: requires --redis")
    if "namespace" in options.sources and options.redis is None:
        raise ConfigurationError(f"{source('namespace')}: requires --redis")
    if "metrics_host" in options.sources and options.metrics_port is None:
        raise ConfigurationError(f"{source('metrics_host')}: requires --metrics-port")
    if options.xheaders and options.proxy_trust is not None:
        raise ConfigurationError(
            f"{source('xheaders')}: cannot be combined with {source('proxy_trust')}, which trusts the proxies at these "
            "addresses only"
        )
    is_https = (options.advertise or "").startswith("https:")
    if is_https and options.node_certfile is None:
        raise ConfigurationError(f"{source('advertise')}: https requires --node-certfile")
    for name in ("node_certfile", "node_keyfile", "node_cafile"):
        if getattr(options, name) is not None and not is_https:
            raise ConfigurationError(f"{source(name)}: requires {source('advertise')} with an https address")
    if (
        options.metrics_port
        and options.uds is None
        and options.fd is None
        and options.metrics_host == options.host
        and options.metrics_port <= options.port < options.metrics_port + options.workers
    ):
        raise ConfigurationError(
            f"{source('metrics_port')}: expected another port than {source('port')}; each worker has the next one"
        )
    if options.workers > 1:
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigurationError(f"{source('workers')}: expected 1, since this system has no Unix sockets")
        if options.redis is not None and options.advertise is None:
            raise ConfigurationError(
                f"{source('workers')}: with {source('redis')}, requires --advertise: a worker serves any session"
            )
        if options.metrics_port is not None and options.metrics_port + options.workers > 65536:
            raise ConfigurationError(f"{source('metrics_port')}: too high, since each worker has the next port")
    if options.origins is not None and "allowed_origins" in options.set:
        raise ConfigurationError(f"{source('origins')}: cannot be combined with {source('set')} allowed_origins")
