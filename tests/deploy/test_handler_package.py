"""The life of the handler's package on a Debian 13 that has systemd as PID 1 and no network."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.agents.pve.words import VERSION

from ..support.booted import Booted, booted
from ..support.chroot import base
from ..support.documents import commands
from ..support.installing import new_key
from ..support.locks import ROOT
from ..support.release import build_package, handler_package, host_package
from ..support.stages import until
from ..support.wheelhouse import build_wheel, wheelhouse

pytestmark = [pytest.mark.all, pytest.mark.real("debian", "network", "systemd")]

EPOCH, NEXT = 1_796_000_000, "0.4.0"
DEBIAN = ("systemd", "systemd-sysv", "openssh-client", "procps", "python3", "curl", "nginx")
[INSTALL] = commands("docs/install.md", "1. The program")
[_, CONFIGURE] = commands("docs/install.md", "3. The configuration")
[START] = commands("docs/install.md", "5. Start")
[UPGRADE] = commands("docs/upgrade.md", "With the package")
[REMOVE, _] = commands("docs/install.md", "Remove everything")
[DEMO] = commands("docs/packages.md", "The handler's package")
PACKAGE = f"apt-get -qy install /root/breakglass_{VERSION}_amd64.deb </dev/null"
UNITS = "breakglass.service breakglass-doctor.timer breakglass-report.timer breakglass-chat.socket"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages of this version and of the next."""
    place = tmp_path_factory.mktemp("packages")
    [wheel] = wheelhouse().glob("breakglass-*.whl")
    for version, built in ((VERSION, wheel), (NEXT, build_wheel(place / "source", NEXT))):
        build_package(handler_package(ROOT, EPOCH, built), ROOT, place, EPOCH, version)
    return place


@pytest.fixture
def system(packages: Path, tmp_path: Path) -> Iterator[Booted]:
    files = tmp_path / "files"
    (files / "etc/systemd/system").mkdir(parents=True)
    (files / "etc/systemd/system/booted.target").write_text("[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\n")
    (files / "root").mkdir()
    (files / "prepare").write_text("rm /prepare\n")
    for package in packages.glob("*.deb"):
        shutil.copy(package, files / "root")
    (tmp_path / "booted").mkdir()
    with booted(tmp_path / "booted", files, base(*DEBIAN)) as system:
        yield system


def sh(system: Booted, script: str, *, check: bool = True) -> str:
    return system.run("bash", "-ec", script, check=check, cwd="/root")


def answers(system: Booted) -> dict[str, object]:
    """Return /health, and nothing before the handler listens."""
    output = sh(system, "curl -s http://127.0.0.1:8080/health", check=False)
    return dict(json.loads(output)) if output else {}


def active(system: Booted) -> list[str]:
    return sh(system, f"systemctl is-active {UNITS}", check=False).split()


def test_install_init_upgrade_remove_purge(system: Booted) -> None:
    """Each step does what install.md and upgrade.md say of it, and after the last one nothing is left."""
    said = sh(system, INSTALL.replace("apt update\n", ""))  # there is no network, and nothing else is missing
    assert f"breakglass {VERSION}" in said.splitlines()
    assert "breakglass init" in said
    sh(system, "systemctl start breakglass")
    assert system.show("breakglass", "ConditionResult") == "no"
    owners = sh(system, "stat -c '%U %G %a' /etc/breakglass /etc/breakglass/secrets").splitlines()
    assert owners == ["root breakglass 750", "root root 700"]
    demo_runs(system)
    _, public = new_key()
    said = sh(system, CONFIGURE.replace("ssh-ed25519 AAAA…", public))
    assert ("systemctl enable --now breakglass" in said, "no problems" in said.splitlines()[-1]) == (True, True)
    assert '"config":"ok"' in sh(system, START)
    pid = system.show("breakglass", "MainPID")
    assert sh(system, f"stat -c %U /proc/{pid}") == "breakglass\n"
    others = UNITS.partition(" ")[2]
    sh(system, f"systemctl enable --now {others}")

    install_next = UPGRADE.partition("export ")[0]
    sh(system, "sed -i 's/^vmid = 102/vmid = \"x\"/' /etc/breakglass/breakglass.toml")
    said = sh(system, install_next)
    assert ("not restarted" in said, "vmid" in said) == (True, True)
    assert system.show("breakglass", "MainPID") == pid
    sh(system, "sed -i 's/^vmid = \"x\"/vmid = 102/' /etc/breakglass/breakglass.toml")
    sh(system, f"{install_next.replace('install', 'install --reinstall')}")
    until(lambda: answers(system).get("version") == NEXT, "the next version")
    sh(system, PACKAGE.replace("install", "install --allow-downgrades", 1))
    until(lambda: answers(system).get("version") == VERSION, "the old version")

    assert active(system) == ["active"] * 4
    kept = "ls -lR /etc/breakglass; cat /etc/breakglass/breakglass.toml"
    before = sh(system, kept)
    sh(system, "apt-get -qy remove breakglass")
    assert active(system) == ["inactive"] * 4
    assert sh(system, kept) == before
    assert sh(system, "ls /usr/lib/breakglass 2>/dev/null || :") == ""
    sh(system, PACKAGE)
    until(lambda: answers(system).get("config") == "ok", "the handler after another installation")
    said = sh(system, REMOVE[REMOVE.index("apt purge") :])
    assert "with all keys" in said
    left = "find /etc /opt /root /run /usr /var/lib -xdev -name '*breakglass*'"
    assert sh(system, f"{left}; grep breakglass /etc/passwd /etc/group || :") == ""


def demo_runs(system: Booted) -> None:
    """The package runs the demo as an ordinary user."""
    argv = ["nsenter", f"--target={system.pid}", "--all", "--wdns=/tmp", "setpriv", "--reuid=65534", "--regid=65534"]
    with subprocess.Popen([*argv, "--clear-groups", "sh", "-c", DEMO], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        page = next(line for line in run.stdout if line.strip().startswith("page "))
        assert page.split()[1].startswith("http://127.0.0.1:")
        sh(system, "pkill -INT -f 'breakglass demo'")
        assert "Ctrl-C ended everything." in run.stdout.read()


def test_an_installation_without_the_package_goes_first(system: Booted) -> None:
    """Nothing is unpacked, and the lines that are printed make room for the package, which uses its configuration.

    A Proxmox host, which has an account with uid 0 or the host agent, is refused too.
    """
    agent = "/usr/sbin/breakglass-pve"
    for make, said, undo in (
        ("echo breakglass:x:0:0::/:/bin/sh >>/etc/passwd", "has uid 0", "sed -i /^breakglass:/d /etc/passwd"),
        (f"touch {agent}", "on a Proxmox host", f"rm {agent}"),
    ):
        output = sh(system, f"{make}; {PACKAGE}", check=False)
        assert (said in output, sh(system, f"{undo}; ls /usr/lib/breakglass 2>/dev/null || :")) == (True, ""), output
    sh(
        system,
        "mkdir -p /etc/breakglass /opt/breakglass/bin; echo '# own' >/etc/breakglass/breakglass.toml;"
        "printf '[Service]\\nExecStart=sleep 1000\\n[Install]\\nWantedBy=multi-user.target\\n'"
        " >/etc/systemd/system/breakglass.service; ln -s /opt/breakglass/bin/breakglass /usr/local/bin/breakglass;"
        "systemctl enable --now breakglass",
    )
    said = sh(system, PACKAGE, check=False)
    assert "/etc/systemd/system/breakglass.service" in said
    assert sh(system, "pgrep -c sleep") == "1\n"
    printed = "\n".join(re.findall("^(?:systemctl stop|rm) .*$", said, re.MULTILINE))
    said = sh(system, f"{printed}\n{PACKAGE}")
    assert sh(system, "cat /etc/breakglass/breakglass.toml; pgrep -c sleep || :") == "# own\n0\n"
    assert "not restarted" in said  # such a file is no configuration


def test_a_unit_that_the_administrator_changed_does_not_prevent_an_upgrade(tmp_path: Path) -> None:
    """The lines that make room for the package would remove it."""
    script = (ROOT / "deploy/debian/handler/preinst").read_text()
    for place in ("/etc/systemd/system", "/usr"):
        script = script.replace(place, str(tmp_path))
    (tmp_path / "breakglass.service").touch()
    codes = [subprocess.run(["sh", "-c", script, "preinst", verb]).returncode for verb in ("upgrade", "install")]
    assert codes == [0, 1]


@pytest.mark.skipif(shutil.which("lintian") is None, reason="lintian is not installed")
def test_lintian_finds_no_error(packages: Path, tmp_path: Path) -> None:
    """In this package, and in the host's."""
    [package] = packages.glob(f"*_{VERSION}_*.deb")
    for file in (package, build_package(host_package(ROOT, EPOCH), ROOT, tmp_path, EPOCH)):
        ran = subprocess.run(["lintian", "--tag-display-limit", "0", file], capture_output=True, text=True)
        assert (ran.returncode, re.findall("^E: .*", ran.stdout, re.MULTILINE)) == (0, []), ran.stdout + ran.stderr
