"""The commands that `make` runs to install system packages; apt-get itself is not run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from programs import ROOT


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Return a directory with all the programs of a machine that has neither apt-get nor anything to be installed."""
    for name in ("env", "sed"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    add_program(tmp_path, "id", "echo 0")
    return tmp_path


def add_program(machine: Path, name: str, text: str) -> None:
    (machine / name).write_text(f"#!/bin/sh\n{text}\n")
    (machine / name).chmod(0o755)


def add_apt(machine: Path, text: str = "") -> None:
    """Add an apt-get that writes down what it is asked for, and then does as `text` says."""
    add_program(machine, "apt-get", f"""echo "$*" >> "{machine}/asked"\n{text}""")
    add_program(machine, "apt-cache", 'echo "$2 | 150 | somewhere"')


def asked(machine: Path) -> list[str]:
    return (machine / "asked").read_text().splitlines()


def ask_for(machine: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts/system-packages", *words],
        env={**os.environ, "PATH": str(machine)},
        capture_output=True,
        text=True,
        timeout=60,
    )


INSTALL = "-qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends"


def test_missing_packages_are_installed(machine: Path) -> None:
    add_apt(machine)
    ended = ask_for(machine, "chromium", "redis")
    assert ended.returncode == 0, ended.stderr
    assert asked(machine) == ["-qq update", f"{INSTALL} chromium chromium-driver redis-server"]
    assert ended.stdout == "Installing Chromium with chromedriver, Redis\n"


def test_present_packages_are_not_installed(machine: Path) -> None:
    add_apt(machine)
    for name in ("node", "npm", "redis-server"):
        add_program(machine, name, "exit 0")
    ended = ask_for(machine, "node", "redis")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert not (machine / "asked").exists()


def test_a_chromium_without_its_driver_is_not_enough(machine: Path) -> None:
    add_apt(machine)
    add_program(machine, "chromium", "exit 0")
    assert ask_for(machine, "chromium").returncode == 0
    assert asked(machine)[1:] == [f"{INSTALL} chromium chromium-driver"]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (None, "'python9' was not found"),
        ("exit 1", "'python9' does not run"),
        ("case $2 in *print*) echo 3.10;; *) exit 1;; esac", "'python9' is 3.10"),
    ],
    ids=["missing", "broken", "too old"],
)
def test_a_python_that_will_not_do(machine: Path, program: str | None, said: str) -> None:
    add_apt(machine)
    if program is not None:
        add_program(machine, "python9", program)
    ended = ask_for(machine, "python", "python9")
    assert ended.returncode == 1
    assert "Python 3.11 or newer is required" in ended.stderr
    assert said in ended.stderr
    assert not (machine / "asked").exists()


def test_a_python_that_makes_no_environments(machine: Path) -> None:
    add_apt(machine)
    add_program(machine, "python3", "case $2 in *print*) echo 3.13;; *ensurepip*) exit 1;; esac")
    assert ask_for(machine, "python", "python3").returncode == 0
    assert asked(machine)[1:] == [f"{INSTALL} python3.13-venv"]


def test_a_compiler_and_header_files(machine: Path) -> None:
    add_apt(machine)
    add_program(machine, "python3", f"case $2 in *include*) echo {machine};; *) echo 3.13;; esac")
    assert ask_for(machine, "compiler", "python3").returncode == 0
    assert asked(machine)[1:] == [f"{INSTALL} gcc libc6-dev python3.13-dev"]
    add_program(machine, "gcc", "exit 0")
    (machine / "Python.h").touch()
    assert ask_for(machine, "compiler", "python3").stdout == ""


def test_ubuntu_has_other_names(machine: Path) -> None:
    add_apt(machine)
    add_program(machine, "apt-cache", '[ "$1" = show ] && echo "Package: $2"; exit 0')
    assert ask_for(machine, "chromium").returncode == 0
    assert asked(machine)[1:] == [f"{INSTALL} chromium-browser chromium-chromedriver"]


def test_a_nodejs_that_brings_npm_is_installed_without_it(machine: Path) -> None:
    add_apt(machine, 'case "$*" in *npm*) exit 100;; esac')
    assert ask_for(machine, "node", "redis").returncode == 0
    assert asked(machine)[1:] == [f"{INSTALL} nodejs npm redis-server", f"{INSTALL} nodejs redis-server"]


def test_it_waits_for_another_update(machine: Path) -> None:
    lock = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7"
    add_apt(machine, f"""[ "$2" != update ] || [ -e "{machine}/waited" ] || {{ echo "{lock}" >&2; exit 100; }}""")
    add_program(machine, "sleep", f""": > "{machine}/waited" """)
    ended = ask_for(machine, "redis")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert asked(machine) == ["-qq update", "-qq update", f"{INSTALL} redis-server"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exit 100", "'apt-get update' failed. Please install: Redis\n"),
        ("echo no network >&2; exit 100", "no network\n'apt-get update' failed. Please install: Redis\n"),
        ('[ "$2" = update ]', "apt-get could not install: Redis\n"),
    ],
)
def test_an_apt_get_that_fails(machine: Path, text: str, said: str) -> None:
    add_apt(machine, text)
    ended = ask_for(machine, "redis")
    assert (ended.returncode, ended.stderr) == (1, said)


def test_without_apt_get(machine: Path) -> None:
    ended = ask_for(machine, "redis")
    assert (ended.returncode, ended.stderr) == (1, "Please install: Redis. (apt-get was not found.)\n")


def test_other_users_than_root_use_sudo(machine: Path) -> None:
    add_apt(machine)
    add_program(machine, "id", "echo 1000")
    add_program(machine, "sudo", f"""echo "sudo $*" >> "{machine}/asked"; [ "$1" = -n ] && shift; exec "$@" """)
    add_program(machine, "true", "exit 0")
    ended = ask_for(machine, "chromium")
    assert ended.returncode == 0, ended.stderr
    assert [line for line in asked(machine) if line.startswith("sudo")] == [
        "sudo -n true",
        "sudo -n env LC_ALL=C apt-get -qq update",
        f"sudo -n env DEBIAN_FRONTEND=noninteractive apt-get {INSTALL} chromium chromium-driver",
    ]


def test_without_root_and_sudo_the_command_is_printed(machine: Path) -> None:
    add_apt(machine)
    add_program(machine, "id", "echo 1000")
    ended = ask_for(machine, "redis")
    assert (ended.returncode, ended.stderr) == (1, "Please install: Redis. As root: apt-get install redis-server\n")


def test_an_unknown_word(machine: Path) -> None:
    ended = ask_for(machine, "coffee")
    assert (ended.returncode, ended.stderr) == (1, "scripts/system-packages: unknown argument 'coffee'\n")
