"""docs/install.md without the package, upgrade.md, backup.md and the runbook, followed as a person follows them.

There are two machines: a new Debian, and a Proxmox host with the project's stand-ins. Each command comes from the
document. The test brings a certificate, the machine's name, a login as root on the host, and a `systemctl` that starts
what the installed unit files say (tests/support/machines.py). pip takes its files from a directory, with the lock's
hashes.
"""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution

import pytest

from breakglass.agents.pve.words import VERSION

from ..support.documents import commands, inline_commands
from ..support.locks import copy_checkout
from ..support.machines import STANDIN, Machine, two_machines
from ..support.stages import until
from ..support.wheelhouse import wheelhouse

pytestmark = [pytest.mark.all, pytest.mark.first, pytest.mark.real("debian", "network")]

WHEELS = "/var/cache/wheels"
PIP = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS}
NAME = "rescue.example.org"
AGENT = "breakglass-pve"
LETSENCRYPT = f"/etc/letsencrypt/live/{NAME}"
CLIENT = {
    "BREAKGLASS_URL": f"https://{NAME}",
    "BREAKGLASS_SECRET_FILE": "/etc/breakglass/anna.signing-key",
    "SSL_CERT_FILE": f"{LETSENCRYPT}/fullchain.pem",
}
CONFIG = {"BREAKGLASS_CONFIG": "/etc/breakglass/breakglass.toml"}
BESIDE = re.compile(  # what a machine changes by itself, and what was there for the test
    rf"/etc/(?:passwd|group|shadow|gshadow|subuid|subgid)-?|/etc/\.pwd\.lock|/var/log/.*|{WHEELS}.*|/root/\.\w.*|/root"
    r"|/var/cache/ldconfig.*|/usr/(?:lib|share)/.*/__pycache__.*|/etc/systemd/system/[\w.-]+\.wants|/run.*|/var/lib/nginx.*|/usr/src"
)


class Installation:
    """The two machines, and what was done on them."""

    def __init__(self, handler: Machine, host: Machine) -> None:
        self.handler, self.host = handler, host
        self.is_installed = False
        self.said: dict[str, str] = {}
        host.run(f"echo '{handler.address} {NAME}' >>/etc/hosts")
        handler.run(f"echo '127.0.0.1 {NAME}' >>/etc/hosts")
        self.offer_wheels()
        self.before: list[dict[str, str]] = []  # every file of both machines
        [install, self.removal] = commands("docs/packages.md", "Without the package")
        self.apt, program, service = re.split(r"^(?=cd )", install, flags=re.MULTILINE)
        self.program, self.service = f"{program}breakglass --version\n", f"cd /usr/src/breakglass\n{service}"

    def prepare(self) -> None:
        """Do what the document takes for granted: an ordinary Debian, a login as root on the host, a certificate."""
        front = {"DEBIAN_FRONTEND": "noninteractive"}
        self.handler.run(f"{self.apt.rstrip()} adduser procps systemd", online=True, env=front)
        self.handler.run("ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
        self.host.write("/root/.ssh/authorized_keys", self.handler.path("/root/.ssh/id_ed25519.pub").read_text(), 0o600)
        self.handler.run(
            f"mkdir -p {LETSENCRYPT}; cd {LETSENCRYPT}; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256"
            f" -nodes -days 9 -subj /CN={NAME} -addext subjectAltName=DNS:{NAME}"
            " -keyout privkey.pem -out fullchain.pem 2>&1"
        )
        self.before = [machine.tree() for machine in (self.handler, self.host)]

    def copy_sources(self, version: str = VERSION) -> None:
        """Put the files of a release to where the documents expect them."""
        place = self.handler.path("/usr/src/breakglass")
        shutil.rmtree(place, ignore_errors=True)
        copy_checkout(place)
        words = place / "agents/pve/words.py"
        words.write_text(words.read_text().replace(f'VERSION = "{VERSION}"', f'VERSION = "{version}"'))

    def offer_wheels(self) -> None:
        """Put pip's files on the machine: the locked wheels, and what the package is built with."""
        place = self.handler.path(WHEELS)
        shutil.copytree(wheelhouse(), place, ignore=shutil.ignore_patterns("breakglass*"))
        found = distribution("setuptools")
        with zipfile.ZipFile(place / f"setuptools-{found.version}-py3-none-any.whl", "w") as wheel:
            for file in found.files or ():
                if ".." not in file.parts and file.suffix != ".pyc" and file.name != "INSTALLER":
                    wheel.write(str(file.locate()), str(file))

    def follow(self) -> None:
        """Do what docs/install.md says, from the program to the first signed status."""
        handler, host, output = self.handler, self.host, self.said
        output["program"] = handler.run(self.program, env=PIP).stdout
        output["service"] = handler.run(f"{self.service}id breakglass").stdout
        [read_key, configure] = commands("docs/install.md", "3. The configuration")
        key = " ".join(host.run(read_key).stdout.split()[:2])
        handler.write("/root/.ssh/known_hosts", f"{host.address} {key}\n")
        assert "ssh-ed25519 AAAA…" in configure
        output["configuration"] = handler.run(configure.replace("ssh-ed25519 AAAA…", key)).stdout
        [recipe, try_key] = commands("docs/install.md", "4. The Proxmox host")
        output["host"] = handler.run(recipe).stdout
        output["key"] = handler.run(try_key).stdout
        [start] = commands("docs/install.md", "5. Start")
        service, health = start.splitlines()
        handler.run(service)
        self.wait_until_answering(health)
        [proxy] = commands("docs/install.md", "6. TLS")
        output["proxy"] = handler.run(f"{proxy}", check=False).stderr
        [status] = commands("docs/install.md", "7. The first signed status")
        output["status"] = handler.run(status, env={"SSL_CERT_FILE": CLIENT["SSL_CERT_FILE"]}).stdout
        self.is_installed = True

    def wait_until_answering(self, health: str) -> dict[str, object]:
        """Ask for /health, as a document says, until the VM answers."""

        def seen() -> dict[str, object]:
            answer = self.handler.run(health, check=False).stdout
            return json.loads(answer) if '"proxmox":"answering"' in answer else {}

        until(seen, "an answering VM")
        return seen()

    def remove(self) -> None:
        """Do what docs/install.md says at its end."""
        [on_handler, on_host] = commands("docs/install.md", "Remove everything")
        self.is_installed = False
        self.handler.run(on_handler.replace("apt purge -y breakglass\n", self.removal))
        self.host.wait_until_gone(AGENT)  # it would make its directories again
        self.host.run(on_host)

    def call(self, *words: str) -> dict[str, object]:
        """Send a signed verb and return the answer."""
        ran = self.handler.run(f"breakglass call --json {' '.join(words)}", check=False, env=CLIENT)
        answer: dict[str, object] = json.loads(ran.stdout)
        return answer


@pytest.fixture(scope="module")
def machines() -> Iterator[Installation]:
    with two_machines() as (handler, host):
        made = Installation(handler, host)
        made.prepare()
        yield made


@pytest.fixture
def installed(machines: Installation) -> Installation:
    """An installation that was made as docs/install.md says."""
    if not machines.is_installed:
        machines.copy_sources()
        machines.follow()
    return machines


def test_install_md_ends_with_a_signed_status(installed: Installation) -> None:
    """Each step prints what the document says it prints, and the last one is a verb that has reached the VM.

    The handler has its own account, which can't change what root owns.
    """
    output = installed.said
    assert output["program"].splitlines()[-1] == f"breakglass {VERSION}"
    assert "(breakglass)" in output["service"]
    assert "no problems" in output["configuration"].splitlines()[-1]
    assert "enable --now breakglass\n" in output["configuration"]
    assert [line for line in output["host"].splitlines() if line.startswith(("warning:", "error:"))] == []
    assert 'ok: VM 102 "devvm"' in output["host"]
    assert '"quorum":true' in output["key"].replace(" ", "")
    assert "test is successful" in output["proxy"]
    assert output["status"].startswith("devvm: running (status")
    pid = installed.handler.run("cat /run/systemctl/breakglass.service.pid").stdout
    assert installed.handler.run(f"stat -c %U /proc/{pid}").stdout == "breakglass\n"
    for name in ("/etc/breakglass/breakglass.toml", "/opt/breakglass/bin/python", "/etc/breakglass/pve_power"):
        assert installed.handler.run(f"stat -c %U {name}").stdout == "root\n"


def test_the_readmes_shortest_way_ends_with_a_signed_status(installed: Installation) -> None:
    """The user is an ordinary one, and there is no TLS. The same host then takes the keys of both installations."""
    handler = installed.handler
    [install, serve, look] = commands("README.md", "Install it for one VM")
    key = " ".join(installed.host.path("/etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])
    install = install.replace("ssh-ed25519 AAAA…", key)
    wait = 'curl -sS --retry 60 --retry-connrefused --retry-delay 1 "$BREAKGLASS_URL/health" >/dev/null\n'
    handler.run(
        "useradd --create-home anna; cd ~anna; cp -r /usr/src/breakglass checkout; mkdir .ssh;"
        "cp ~root/.ssh/id_ed25519 ~root/.ssh/known_hosts .ssh/; chown -R anna: ."
    )
    become = "cd ~anna/checkout; exec setpriv --reuid=anna --regid=anna --init-groups env HOME=/home/anna"
    other_port = {"PORT": "8081", "BREAKGLASS_URL": "http://127.0.0.1:8081"}  # 8080 belongs to the service
    script = f"{install}{serve.rstrip()} &\n{wait}{look}kill $!; wait\n"
    output = handler.run(f'{become} bash -ec "$(cat)"', stdin=script, env={**PIP, **other_port}).stdout
    assert [line for line in output.splitlines() if line.startswith(("warning:", "error:"))] == []
    assert "devvm: running (status" in output
    handler.run("userdel --remove anna 2>&1")
    assert installed.call("status")["outcome"] == "done"


# --- docs/upgrade.md, docs/backup.md ---


def test_upgrade_md_goes_to_the_next_version_and_back(installed: Installation) -> None:
    """The host agent and the handler are of the new version, then of the old one; each says so."""
    handler = installed.handler
    installed.copy_sources("0.4.0")
    [program] = commands("docs/upgrade.md", "1. The new program, beside the old one")
    assert "no problems" in handler.run(program, env=PIP).stdout.splitlines()[-1]
    [agents] = commands("docs/upgrade.md", "2. The host agents")
    assert f"pve1: {VERSION} -> 0.4.0" in handler.run(agents).stdout
    [switch] = commands("docs/upgrade.md", "3. The handler")
    *change, health = switch.splitlines()
    handler.run("\n".join(change))
    assert installed.wait_until_answering(health)["version"] == "0.4.0"
    [back] = commands("docs/upgrade.md", "Back out")
    back = re.sub(r"breakglass-\S+", f"breakglass-{VERSION}", back)
    assert f"pve1: 0.4.0 -> {VERSION}" in handler.run(back).stdout
    assert installed.wait_until_answering(health)["version"] == VERSION
    [other_machine] = commands("docs/upgrade.md", "The hosts from another machine")
    handler.write("/root/hosts.toml", f'[hosts.pve1]\nssh = "breakglass@{installed.host.address}"\n')
    upgraded = handler.run(f"cd /root\n{other_machine}").stdout
    assert re.findall(r": (\S+ -> \S+)", upgraded) == [f"{VERSION} -> {VERSION}"] * 2
    handler.run("rm -r /root/hosts.toml /opt/breakglass-0.4.0")
    installed.copy_sources()
    assert installed.call("status")["outcome"] == "done"


def test_backup_md_brings_both_machines_back(installed: Installation) -> None:
    """What the two archives hold is enough for the same keys to work again, and for the host to know its jobs."""
    handler, host = installed.handler, installed.host
    job = installed.call("forensics")["id"]
    [save, restore] = commands("docs/backup.md", "The handler's machine")
    handler.run(f"cd /root\n{save}rm -r /etc/breakglass /var/lib/breakglass")
    handler.run("systemd-tmpfiles --create breakglass.conf")
    *unpack, health = restore.splitlines()
    handler.run("cd /root\n" + "\n".join(unpack))
    installed.wait_until_answering(health)
    [save, restore] = commands("docs/backup.md", "A Proxmox host")
    handler.run("systemctl stop breakglass")
    host.wait_until_gone(AGENT)  # its own process copies the job there, after the answer
    assert str(job) in host.run("ls /var/lib/breakglass/102/jobs").stdout
    host.run(f"cd /root\n{save}rm -r /var/lib/breakglass /run/breakglass")
    assert "error:" not in host.run(f"cd /root\n{restore}rm breakglass-host.tar.gz").stdout
    handler.run("systemctl start breakglass; rm /root/breakglass-handler.tar.gz")
    installed.wait_until_answering(health)
    history = installed.call("history")
    assert str(job) in json.dumps(history["jobs"])


# --- the runbook ---


def test_the_runbook_at_0300(installed: Installation) -> None:
    """The look and the three verbs of the first screen, and the line that sends an id again, reach the VM."""
    [look] = commands("docs/runbook.md", "A VM does not answer")
    assert "devvm: " in installed.handler.run(look, env=CLIENT).stdout
    for verb in inline_commands("docs/runbook.md", "A VM does not answer"):
        assert f"running ({verb.split()[2]} done" in installed.handler.run(verb, env=CLIENT).stdout
    [again, history, on_host] = inline_commands("docs/runbook.md", "unknown (it may have happened)")
    for _ in range(2):
        ran = installed.handler.run(again.replace("msg_…", "msg_tried2"), env=CLIENT)
        assert "running (cycle done" in ran.stdout
    for listing in (installed.handler.run(history, env=CLIENT), installed.handler.run(f"cd /root\n{on_host}")):
        assert "msg_tried2" in listing.stdout


def test_the_runbook_by_hand(installed: Installation) -> None:
    """The power key works without the handler, and qm without the host agent."""
    handler, host = installed.handler, installed.host
    [_, by_key, *by_qm, show_pid, show_arguments, end, kill] = inline_commands("docs/runbook.md", "Without the page")
    assert '"outcome":"done"' in handler.run(f"cd /root\n{by_key}").stdout.replace(" ", "")
    assert "qmpstatus: running" in host.run("\n".join(by_qm)).stdout
    assert [line.split()[1] for line in by_qm] == ["status", "reset", "stop", "start"]
    pid = host.run(show_pid).stdout.strip()
    assert "-pidfile" in host.run(show_arguments.replace("PID", pid)).stdout
    assert kill == end.replace("kill", "kill -9")
    host.run(end.replace("PID", pid))
    until(lambda: "stopped" in host.run("qm status 102").stdout, "the end of QEMU")
    assert installed.call("start")["outcome"] == "done"


def test_the_runbooks_lines_for_a_host(installed: Installation) -> None:
    """The storage, the chain, HA, one more VM, open connections and the host key."""
    handler, host = installed.handler, installed.host
    [storage] = commands("docs/runbook.md", "storage-hung and anyway")
    [anyway] = inline_commands("docs/runbook.md", "storage-hung and anyway")
    assert "active" in host.run(storage.replace("ID", "local")).stdout
    assert "running (cycle done" in handler.run(anyway, env=CLIENT).stdout
    [chain] = commands("docs/admin.md", "The chain of jobs")
    assert '"event": "begins"' in host.run(chain).stdout.replace('"event":"begins"', '"event": "begins"')
    host.write("/etc/pve/ha/resources.cfg", "vm: 102\n\tstate started\n\n")
    [job] = commands("docs/runbook.md", "A job to end by hand")
    assert "breakglass-pve" in host.run(job).stdout
    host.run("\n".join(inline_commands("docs/runbook.md", "Under HA")))
    assert "state started" in host.path("/etc/pve/ha/resources.cfg").read_text()
    host.run("rm -r /etc/pve/ha")
    [add, allow, connections] = commands("docs/admin.md", "Adding a VM")
    assert f"breakglass-pve {allow.split(maxsplit=1)[1].strip()}" in handler.run(add, env=CONFIG).stdout
    assert "serves VM 102-103 now" in host.run(allow).stdout
    handler.run("breakglass vm remove mail --yes --force --unit breakglass", env=CONFIG)
    assert "sshd" in host.run(connections).stdout
    [pin] = commands("docs/admin.md", "Pinning the host key")
    show, spare = pin.splitlines()
    assert host.run(show).stdout.startswith("ssh-ed25519 ")
    handler.run(f"cd /tmp\n{spare}\nrm spare spare.pub")


def test_the_runbooks_lines_for_the_handler(installed: Installation) -> None:
    """The recipe for root's own account, chat's files, and a reload."""
    handler, host = installed.handler, installed.host
    [recipe, connections] = commands("docs/admin.md", "With root's own account")
    as_root = "umask 077; sed s/breakglass@192/root@192/ /etc/breakglass/breakglass.toml >/etc/breakglass/root.toml"
    handler.run(f"cd /tmp\n{as_root}\n{recipe}", env={"BREAKGLASS_CONFIG": "/etc/breakglass/root.toml"})
    assert f"given='{handler.address}'" in handler.path("/tmp/install.sh").read_text()
    handler.run("rm /tmp/install.sh /etc/breakglass/root.toml")
    assert handler.address in host.run(connections).stdout
    [changed, chat, by_hand, check, check_credentials] = commands("docs/admin.md", "Installing the handler")
    restart, reload = changed.splitlines()
    handler.run(restart)
    installed.wait_until_answering("curl -s http://127.0.0.1:8080/health")
    handler.run(f"{reload}\n{chat}")
    for script in (check, check_credentials):
        assert "no problems" in handler.run(script).stdout
    handler.run("systemctl disable --now breakglass-chat.socket")
    serves_by_hand(installed, by_hand)
    [guest, credential] = commands("docs/admin.md", "Setting up chat")
    handler.run(guest)
    assert handler.run("stat -c '%U %G %a' /etc/breakglass/guest").stdout == "root breakglass 640\n"
    handler.run(credential, stdin="ANTHROPIC_API_KEY=x\n")
    assert handler.run("stat -c '%U %G %a' /etc/breakglass/claude").stdout == "root breakglass 640\n"
    handler.run("rm /etc/breakglass/claude /etc/breakglass/guest /etc/breakglass/guest.pub")
    [reload] = commands("docs/admin.md", "Changing the configuration")
    pid = handler.run("cat /run/systemctl/breakglass.service.pid").stdout
    assert json.loads(handler.run(reload.replace("PID", pid)).stdout)["config"] == "ok"


def serves_by_hand(installed: Installation, script: str) -> None:
    """Start the handler with setpriv, as root's shell does, in place of its unit."""
    handler = installed.handler
    prepare, _, serve = script.rstrip().rpartition("\n")
    handler.run("systemctl stop breakglass")
    handler.run(prepare.replace("adduser", ": adduser"))  # the account is there
    environment = "BREAKGLASS_CONFIG=/etc/breakglass/breakglass.toml"
    wait = "curl -sS --retry 60 --retry-connrefused --retry-delay 1 http://127.0.0.1:8080/health"
    assert '"config":"ok"' in handler.run(f"{environment} {serve} >/dev/null & {wait}; kill $!; wait").stdout
    handler.run("systemctl start breakglass")
    installed.wait_until_answering("curl -s http://127.0.0.1:8080/health")


# --- and back ---


def test_removing_everything_leaves_nothing(installed: Installation) -> None:
    """Both machines have the files that they had before the installation, with the same owners and modes."""
    installed.remove()
    for machine, was in zip((installed.handler, installed.host), installed.before, strict=True):
        now = machine.tree()
        changed = {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}
        left = {name: (was.get(name), now.get(name)) for name in changed if not BESIDE.fullmatch(name)}
        assert left == {}, left
        accounts = machine.run("cat /etc/passwd /etc/shadow /etc/group; ls /run").stdout + machine.running()
        assert re.findall("breakglass.*", accounts.replace(f"{STANDIN}/breakglass", "")) == []
