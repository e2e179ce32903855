"""Faults of chat, seeded one by one: each is found, with its fix, and no credential is printed.

tests/data/faulty_chats.yaml has them, and these functions seed them.
"""

import os
import pwd
import socket

import pytest

from breakglass.chat.command import list_flags

from ..support import claude
from ..support.certificates import tls_context
from ..support.doctor import Fault, Setup, check_fault, each_fault, read_faults
from ..support.hung import unserved_fuse
from ..support.model import Model
from ..support.model_proxy import tls_relay
from ..support.peer import answering
from ..support.ports import reserve_port
from ..support.service import ACCOUNT, new_ssh_key

pytestmark = [pytest.mark.slow, pytest.mark.real("claude"), pytest.mark.real("bwrap")]

PLACES = ("chat",)
USER = pwd.getpwnam(ACCOUNT).pw_uid if ACCOUNT else os.geteuid()
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDGSYqA2NpkYh9rLQ6MUqU1TNMSiCjZVLKXCNAjl3NmK"
SECRET = "sk-ant-the-real-one-0123456789"
VARIABLE = f"ANTHROPIC_API_KEY={SECRET}\n"
FAULTS = read_faults("faulty_chats.yaml")


@pytest.fixture
def chatting(setup: Setup, model: Model) -> Setup:
    """A good configuration with chat."""
    model.listing = None
    setup.directory.chmod(0o755)
    setup.config["callers"]["operator"]["allow"].append("chat")
    setup.config["chat"] = {
        "command": str(claude.reachable(USER, setup.directory)),
        "base_url": model.url,
        "credential_file": setup.file("credential", VARIABLE),
    }
    setup.model = model
    return setup


def chat(setup: Setup, **values: object) -> None:
    """Change [chat]; None takes a setting out."""
    setup.config["chat"] |= values
    for name in [name for name, value in setup.config["chat"].items() if value is None]:
        del setup.config["chat"][name]


def credential(setup: Setup, text: str) -> None:
    setup.file("credential", text)


def credential_mode(setup: Setup, mode: int) -> None:
    os.chmod(setup.directory / "credential", mode)


def listing(setup: Setup, failure: object) -> None:
    """Make the model's API fail."""
    setup.model.listing = failure


def fixed(setup: Setup, answer: str) -> None:
    """Put another server in the API's place."""
    chat(setup, base_url=setup.stack.enter_context(answering(answer.encode())).url)


def unknown_authority(setup: Setup) -> None:
    """Make the API show a certificate of an authority that this machine does not know."""
    server = setup.stack.enter_context(tls_relay(setup.model, tls_context(setup.directory, "localhost")))
    chat(setup, base_url=f"https://localhost:{server.port}")


def nothing_listens(setup: Setup) -> None:
    chat(setup, base_url=f"http://127.0.0.1:{reserve_port()}")


def proxy_that_refuses(setup: Setup) -> None:
    server = setup.stack.enter_context(answering(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"))
    chat(setup, base_url="https://api.example", https_proxy=server.url.replace("://", "://user:s3cret-of-the-proxy@"))


def base_v1(setup: Setup) -> None:
    chat(setup, base_url=f"{setup.model.url}/v1")


# --- claude ---


def program(setup: Setup, text: str, mode: int = 0o755) -> None:
    """Put another program in claude's place."""
    path = setup.directory / "program"
    path.write_text(text)
    path.chmod(mode)
    chat(setup, command=str(path))


def old_claude(setup: Setup) -> None:
    version, flags = "1.0.128 (Claude Code)", " ".join(list_flags()[:5])
    program(setup, f"#!/bin/sh\ncase $1 in --version) echo '{version}';; --help) echo '{flags}';; esac\n")


# --- sessions.dir ---


def mounted(setup: Setup, data: str) -> None:
    """Have sessions.dir on its own file system."""
    setup.mounts.append(("tmpfs", str(setup.directory / "sessions"), "tmpfs", data))


def of_another_user(setup: Setup) -> None:
    os.chown(setup.directory / "sessions", 54321, 54321)


def relative(setup: Setup) -> None:
    setup.config["sessions"]["dir"] = os.path.relpath(setup.config["sessions"]["dir"], "/")


def readable_by_all(setup: Setup) -> None:
    file = setup.directory / "sessions/chat.sqlite3"
    file.touch(0o644)
    os.chown(file, USER, USER)


# --- the system ---


def refused_sandbox(setup: Setup) -> None:
    """Make bubblewrap fail as it does if the kernel refuses namespaces."""
    fake = setup.directory / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    setup.mounts.append((str(fake), "/usr/bin/bwrap", "", ""))


def no_sandbox(setup: Setup) -> None:
    """Mount a /usr/bin without bubblewrap over the machine's own."""
    layers = setup.directory / "layers"
    for name in ("upper", "work"):
        (layers / name).mkdir(parents=True)
    os.mknod(layers / "upper/bwrap", 0o020000, 0)  # overlayfs's mark for a name that is removed
    data = f"lowerdir=/usr/bin,upperdir={layers}/upper,workdir={layers}/work"
    setup.mounts.append(("overlay", "/usr/bin", "overlay", data))


def no_socket_for_turns(setup: Setup) -> None:
    setup.environment["BREAKGLASS_CHAT"] = str(setup.directory / "nowhere")


def guest(setup: Setup, **more: str | None) -> None:
    """Have a guest that claude may log in to, with one thing wrong."""
    good = {
        "guest": "claude@192.0.2.20",
        "guest_host_key": HOST_KEY,
        "guest_key_file": setup.file("guest", new_ssh_key()),
    }
    setup.config["vms"]["devvm"] |= {name: value for name, value in (good | more).items() if value is not None}


def no_ssh(setup: Setup) -> None:
    guest(setup)
    setup.environment["PATH"] = str(setup.directory)


def no_talker(setup: Setup) -> None:
    setup.config["callers"]["operator"]["allow"].remove("chat")


def check(setup: Setup, fault: Fault) -> None:
    finding = check_fault(setup, fault, globals(), PLACES, is_alone=True)
    assert finding.place == "chat"
    for name in ("stdout", "stderr"):
        printed = (setup.directory / name).read_text()
        assert SECRET not in printed
        assert "s3cret" not in printed


@each_fault(FAULTS["faults"])
def test_a_fault_is_found_with_its_fix(chatting: Setup, name: str) -> None:
    check(chatting, FAULTS["faults"][name])


@pytest.mark.real("mounts")
@each_fault(FAULTS["with_mounts"])
def test_a_fault_of_the_system_is_found(chatting: Setup, name: str) -> None:
    check(chatting, FAULTS["with_mounts"][name])


@pytest.mark.all
@pytest.mark.real("fuse")
def test_a_file_system_that_hangs_holds_nothing_up(chatting: Setup) -> None:
    """It is a finding, as a model that says nothing is; the rest is looked at, and the end waits for neither."""
    chatting.model.listing = "mute"
    chatting.constants |= {f"doctor.{part}.SECONDS": 2.0 for part in ("sessions", "model_api")}
    with unserved_fuse(chatting.directory / "sessions"):
        report = chatting.doctor(places=PLACES)
    codes = {finding.code: finding.level for finding in report.findings}
    assert codes == {
        "chat-isolated": "ok",
        "claude-installed": "ok",
        "sessions-hang": "error",
        "model-unreachable": "error",
    }
    assert report.seconds < 30


def test_a_hostile_program_reaches_nothing(chatting: Setup) -> None:
    """Doctor runs it as the handler's user, who can read every secret: so it has no network and no disk."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port, at = listener.getsockname()[1], chatting.directory
        (at / "open").mkdir()
        (at / "open").chmod(0o777)
        attempts = [f"echo x >{at}/open/written", f"cat {at}/credential >&2", f"echo x >/dev/tcp/127.0.0.1/{port}"]
        program(chatting, "#!/bin/bash\n" + "\n".join([*attempts, "echo '2.1.331 (Claude Code)'"]) + "\n")
        chatting.doctor(places=PLACES)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert list((at / "open").iterdir()) == []
    assert SECRET not in (at / "stdout").read_text() + (at / "stderr").read_text()
