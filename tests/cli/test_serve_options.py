"""The options of ``serve``: the command line, the environment, and a file."""

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
from programs import ROOT

from sockjs_tornado import ConfigurationError
from sockjs_tornado.cli import main
from sockjs_tornado.cli.serve_options import FIELDS, FLAG, ServeOptions, add_arguments, resolve

PAGE = ROOT / "docs/cli.md"

#: A value for each option, as text and as a value of a file.
VALUES: dict[str, tuple[str, Any, Any]] = {
    "connection": ("chat", '"chat"', "chat"),
    "host": ("::1", '"::1"', "::1"),
    "port": ("81", "81", 81),
    "uds": ("/run/a.sock", '"/run/a.sock"', "/run/a.sock"),
    "fd": ("3", "3", 3),
    "certfile": ("a.pem", '"a.pem"', "a.pem"),
    "keyfile": ("b.pem", '"b.pem"', "b.pem"),
    "prefix": ("/a", '"/a"', "/a"),
    "origins": ("https://a, https://b", '["https://a", "https://b"]', ("https://a", "https://b")),
    "set": ("heartbeat_delay=10", "{heartbeat_delay = 10}", {"heartbeat_delay": 10}),
    "xheaders": ("yes", "true", True),
    "proxy_trust": ("127.0.0.1,10.0.0.0/8", '["127.0.0.1", "10.0.0.0/8"]', ("127.0.0.1", "10.0.0.0/8")),
    "drain_time": ("2.5", "2.5", 2.5),
    "workers": ("4", "4", 4),
    "redis": ("redis://a", '"redis://a"', "redis://a"),
    "namespace": ("chat", '"chat"', "chat"),
    "advertise": ("https://a:80", '"https://a:80"', "https://a:80"),
    "node_certfile": ("a.pem", '"a.pem"', "a.pem"),
    "node_keyfile": ("b.pem", '"b.pem"', "b.pem"),
    "node_cafile": ("c.pem", '"c.pem"', "c.pem"),
    "metrics_port": ("9100", "9100", 9100),
    "metrics_host": ("::1", '"::1"', "::1"),
    "log_level": ("Debug", '"debug"', "debug"),
    "log_format": ("json", '"json"', "json"),
    "access_log": ("true", "true", True),
    "uvloop": ("ON", "true", True),
}
#: Options that are given with others, which they require.
WITH = {
    "keyfile": ["certfile"],
    "metrics_host": ["metrics_port"],
    "namespace": ["redis"],
    "advertise": ["redis", "node_certfile"],
    "node_certfile": ["redis", "advertise"],
    "node_keyfile": ["redis", "advertise", "node_certfile"],
    "node_cafile": ["redis", "advertise", "node_certfile"],
}


def read(
    *arguments: str, environment: dict[str, str] | None = None, file: str = "", folder: Path | None = None
) -> ServeOptions:
    """Return the options of a command line, with variables of the environment and the text of a file."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    if folder is not None:
        path = folder / "serve.toml"
        path.write_text(file)
        arguments = ("--config", str(path), *arguments)
    return resolve(parser.parse_args(arguments), environment or {})


def on_command_line(name: str) -> list[str]:
    """Return an option of the command line."""
    if name == "connection":
        return [VALUES[name][0]]
    flag = f"--{name.replace('_', '-')}"
    return [flag] if FIELDS[name].metadata["kind"] is FLAG else [flag, VALUES[name][0]]


def test_without_any_option_the_defaults_apply() -> None:
    assert read() == ServeOptions()
    assert VALUES.keys() == FIELDS.keys()


@pytest.mark.parametrize("name", VALUES)
def test_an_option_can_be_given_in_three_places(name: str, tmp_path: Path) -> None:
    names = [name, *WITH.get(name, [])]
    arguments = [part for each in names for part in on_command_line(each)]
    variables = {f"SOCKJS_{each.upper()}": VALUES[each][0] for each in names}
    lines = "\n".join(f"{each} = {VALUES[each][1]}" for each in names)
    found = [read(*arguments), read(environment=variables), read(file=lines, folder=tmp_path)]
    assert [getattr(options, name) for options in found] == [VALUES[name][2]] * 3
    assert found[0] == found[1] == found[2] != ServeOptions()


def test_the_command_line_precedes_the_environment_and_that_the_file(tmp_path: Path) -> None:
    file = 'port = 1\nhost = "a"\nprefix = "/a"\nuvloop = true\n[set]\nheartbeat_delay = 1\njsessionid = true'
    variables = {
        "SOCKJS_PORT": "2",
        "SOCKJS_HOST": "b",
        "SOCKJS_SET": "heartbeat_delay=2\nresponse_limit=2\n",
    }
    arguments = ["--port", "3", "--no-uvloop", "--set", "response_limit=3", "--set", "verify_ip=false"]
    options = read(*arguments, environment=variables, file=file, folder=tmp_path)
    assert (options.port, options.host, options.prefix, options.uvloop) == (3, "b", "/a", False)
    assert options.set == {"heartbeat_delay": 2, "jsessionid": True, "response_limit": 3, "verify_ip": False}


@pytest.mark.parametrize(
    ("arguments", "variables", "file", "expected"),
    [
        (["--port", "80"], {}, 'uds = "/a"', ("127.0.0.1", 80, None, None)),
        (["--host", "::1"], {}, "fd = 3", ("::1", 8080, None, None)),
        (["--fd", "3"], {"SOCKJS_UDS": "/a"}, "port = 80", ("127.0.0.1", 8080, None, 3)),
        (["--uds", "/a"], {"SOCKJS_FD": "3"}, "", ("127.0.0.1", 8080, "/a", None)),
        ([], {"SOCKJS_PORT": "80"}, 'uds = "/a"', ("127.0.0.1", 80, None, None)),
        (["--port", "80"], {"SOCKJS_HOST": "::1"}, "fd = 3", ("::1", 80, None, None)),
    ],
)
def test_an_address_replaces_another_kind_of_address(
    arguments: list[str], variables: dict[str, str], file: str, expected: tuple[Any, ...], tmp_path: Path
) -> None:
    options = read(*arguments, environment=variables, file=file, folder=tmp_path)
    assert (options.host, options.port, options.uds, options.fd) == expected


@pytest.mark.parametrize(
    ("arguments", "file", "why"),
    [
        (["--uds", "/a", "--port", "80"], "", "--uds: cannot be combined with --port"),
        (["--host", "::1", "--fd", "3"], "", "--fd: cannot be combined with --host"),
        (["--fd", "3", "--uds", "/a"], "", "--uds: cannot be combined with --fd"),
        ([], 'uds = "/a"\nport = 80', "FILE: uds: cannot be combined with FILE: port"),
    ],
)
def test_two_kinds_of_addresses_in_one_place_are_an_error(
    arguments: list[str], file: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(*arguments, file=file, folder=tmp_path)
    assert re.sub(r"\S+\.toml", "FILE", str(caught.value)) == why


def test_a_setting_on_the_command_line_is_recognised(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, name in ((["--heartbeat-delay"], "heartbeat_delay"), (["--verify_ip=0"], "verify_ip")):
        with pytest.raises(SystemExit) as caught:
            main(["serve", *arguments])
        assert caught.value.code == 2
        expected = f"unrecognized arguments: {' '.join(arguments)}; {name} is a setting of the router, which needs "
        assert expected + f"--set {name}=VALUE\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["serve", "--prt", "80"], "--prt; the nearest is --port"),
        (["serve", "--heartbeat"], "--heartbeat; `serve --help` lists all"),
        (["connect", "URL", "--reconect"], "--reconect; the nearest is --reconnect"),
        (["info", "URL", "--heartbeat-delay=5"], "--heartbeat-delay=5; `info --help` lists all"),
        (["info", "URL", "more"], "more"),
    ],
)
def test_the_nearest_option_of_the_command_is_suggested(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    errors = capsys.readouterr().err
    assert errors.startswith(f"usage: python -m sockjs_tornado {arguments[0]} ")
    assert errors.endswith(f"error: unrecognized arguments: {hint}\n")


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("port = 5")
    assert read(environment={"SOCKJS_CONFIG": str(path)}).port == 5
    assert read("--config", str(path), environment={"SOCKJS_CONFIG": "nothing.toml"}).port == 5
    with pytest.raises(ConfigurationError, match=r"^--config: cannot read nothing\.toml: No such file"):
        read("--config", "nothing.toml", environment={"SOCKJS_CONFIG": str(path)})
    with pytest.raises(ConfigurationError, match=r"^SOCKJS_CONFIG: cannot read nothing\.toml: No such file"):
        read(environment={"SOCKJS_CONFIG": "nothing.toml"})


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"SOCKJS_PROT": "1"}, "SOCKJS_PROT: unknown option; the nearest is SOCKJS_PORT"),
        ({"SOCKJS_HEARTBEAT": "1"}, "SOCKJS_HEARTBEAT: unknown option; `serve --help` lists all"),
        (
            {"SOCKJS_HEARTBEAT_DELAY": "1"},
            "SOCKJS_HEARTBEAT_DELAY: unknown option; heartbeat_delay is a setting of the router, which needs "
            "SOCKJS_SET=heartbeat_delay=VALUE",
        ),
        ({"SOCKJS_port": "1"}, "SOCKJS_port: unknown option; "),
        ({"SOCKJS_PORT": "x"}, "SOCKJS_PORT: expected 0 to 65535, got 'x'"),
        ({"SOCKJS_PORT": ""}, "SOCKJS_PORT: expected 0 to 65535, got ''"),
        ({"SOCKJS_FD": "-1"}, "SOCKJS_FD: expected 0 or more, got '-1'"),
        ({"SOCKJS_HOST": ""}, "SOCKJS_HOST: expected a text, got ''"),
        ({"SOCKJS_UVLOOP": "maybe"}, "SOCKJS_UVLOOP: expected true or false, got 'maybe'"),
        ({"SOCKJS_DRAIN_TIME": "nan"}, "SOCKJS_DRAIN_TIME: expected a number of seconds, 0 or more, got 'nan'"),
        ({"SOCKJS_DRAIN_TIME": "1e400"}, "SOCKJS_DRAIN_TIME: expected a number of seconds, 0 or more, got '1e400'"),
        ({"SOCKJS_PROXY_TRUST": "proxy"}, "SOCKJS_PROXY_TRUST: expected a list of IP addresses and networks"),
        ({"SOCKJS_ORIGINS": "a,,b"}, 'SOCKJS_ORIGINS: expected "*", "same-origin", or a list of origins, got'),
        ({"SOCKJS_LOG_FORMAT": "xml"}, "SOCKJS_LOG_FORMAT: expected text or json, got 'xml'"),
        ({"SOCKJS_SET": "x"}, "SOCKJS_SET: expected NAME=VALUE, got 'x'"),
        ({"SOCKJS_UDS": "/a", "SOCKJS_FD": "3"}, "SOCKJS_UDS: cannot be combined with SOCKJS_FD"),
        ({"SOCKJS_KEYFILE": "/a"}, "SOCKJS_KEYFILE: requires --certfile"),
        ({"SOCKJS_NAMESPACE": "a"}, "SOCKJS_NAMESPACE: requires --redis"),
        ({"SOCKJS_METRICS_HOST": "0.0.0.0"}, "SOCKJS_METRICS_HOST: requires --metrics-port"),
        (
            {"SOCKJS_XHEADERS": "1", "SOCKJS_PROXY_TRUST": "::1"},
            "SOCKJS_XHEADERS: cannot be combined with SOCKJS_PROXY_TRUST",
        ),
    ],
)
def test_a_wrong_variable_is_an_error(variables: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(why)}"):
        read(environment=variables)


@pytest.mark.parametrize(
    "arguments", [("--metrics-host", "127.0.0.2"), ("--uds", "/a"), ("--fd", "3"), ("--metrics-port", "82")]
)
def test_the_metrics_need_a_port_of_their_own_on_the_same_address(arguments: tuple[str, ...]) -> None:
    same = {"SOCKJS_PORT": "81", "SOCKJS_METRICS_PORT": "81"}
    with pytest.raises(ConfigurationError, match=r"^SOCKJS_METRICS_PORT: expected another port than SOCKJS_PORT"):
        read(environment=same)
    read(*arguments, environment=same)


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("drain-time = 1", "drain-time: unknown option; the nearest is drain_time"),
        ("settings = {}", "settings: unknown option; "),
        (
            "heartbeat-delay = 1",
            "heartbeat-delay: unknown option; heartbeat_delay is a setting of the router, which needs a line in [set]",
        ),
        ("config = 'a'", "config: unknown option"),
        ("port = true", "port: expected 0 to 65535, got True"),
        ("port = 1.0", "port: expected 0 to 65535, got 1.0"),
        ("host = 1", "host: expected a text, got 1"),
        (r'uds = "/a\u0000b"', r"uds: expected a text, got '/a\x00b'"),
        ("uvloop = 1", "uvloop: expected true or false, got 1"),
        ("drain_time = true", "drain_time: expected a number of seconds, 0 or more, got True"),
        ("drain_time = []", "drain_time: expected a number of seconds, 0 or more, got []"),
        ("origins = [1]", 'origins: expected "*", "same-origin", or a list of origins, got [1]'),
        ("set = 5", "set: expected settings by name, got 5"),
        ("set = [5]", "set: expected NAME=VALUE, got 5"),
    ],
)
def test_a_wrong_line_of_a_file_is_an_error(file: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(str(tmp_path))}/serve.toml: {re.escape(why)}"):
        read(file=file, folder=tmp_path)


@pytest.mark.parametrize("data", [b"port 80", b"port = 80 # \xff", b"set = " + 10_000 * b"["])
def test_a_file_that_is_not_toml_is_an_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"^--config: \S+a\.toml is not valid TOML: "):
        read("--config", str(path))


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfport = 80\r\n")
    assert read("--config", str(path)).port == 80


def test_a_setting_that_is_nested_too_deeply_is_text() -> None:
    value = 100_000 * "["
    assert read("--set", f"a={value}").set == {"a": value}


def test_other_variables_are_passed_over() -> None:
    """Those of the package and its build, and those that Kubernetes sets for a service that is named sockjs."""
    kubernetes = {
        "SOCKJS_PORT": "tcp://10.0.0.1:80",
        "SOCKJS_PORT_80_TCP": "tcp://10.0.0.1:80",
        "SOCKJS_PORT_80_TCP_ADDR": "10.0.0.1",
        "SOCKJS_SERVICE_HOST": "10.0.0.1",
        "SOCKJS_SERVICE_PORT": "80",
        "SOCKJS_SERVICE_PORT_HTTP": "80",
    }
    others = {
        "SOCKJS_TRACE": "1",
        "SOCKJS_SECRET": "x",
        "SOCKJS_TORNADO_REQUIRE_C": "1",
        "PORT": "1",
        "sockjs_port": "1",
    }
    assert read(environment=kubernetes | others) == ServeOptions()


def test_the_page_lists_every_option() -> None:
    section = PAGE.read_text().split("\n## serve\n")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[0:3] == "| `"
    ]
    documented = {row[0].strip("`"): row[1].strip("`") for row in rows}
    flags = {name if name == "connection" else f"--{name.replace('_', '-')}": field for name, field in FIELDS.items()}
    assert documented.keys() == {*flags, "--config"}
    for flag, field in flags.items():
        default = field.default
        if default in (None, False) or flag == "--set":
            assert documented[flag] in ("off", "–", "/echo, /chat or /sockjs", "*"), flag
        else:
            assert documented[flag] == (f"{default:g}" if isinstance(default, float) else str(default)), flag
