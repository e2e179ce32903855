"""Fixtures: turns of the real claude without a handler, and a handler with a program in claude's place."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from breakglass.config.model import Address, ChatSettings, Host, Vm
from breakglass.config.model_api import ModelApi
from breakglass.demo.proxmox.world import VMID, World

from ..support.claude import UIDS, reachable
from ..support.claude_turns import Place, WithGuest
from ..support.model import Model
from ..support.scripted_claude import ScriptedClaude
from ..support.selection import sampled
from ..support.talk import Talker, started


@pytest.fixture(scope="module")
def claude(directory: Path) -> ScriptedClaude:
    """A program in the place of `claude`, for all tests of a file."""
    return ScriptedClaude(directory)


@pytest.fixture(scope="module")
def talker(claude: ScriptedClaude, model: Model, directory: Path, request: pytest.FixtureRequest) -> Iterator[Talker]:
    """A handler for all tests of a file that leave it as it was. With PLACES, it has so many, and can be waited for."""
    places = getattr(request.module, "PLACES", 0)
    chat = f"max_turns_at_once = {places}\n{claude.chat}" if places else claude.chat
    with started(Talker(directory, model, chat=chat, metrics=bool(places))) as talker:
        talker.wait_for_chat("on")
        yield talker


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    """Everything, once for this file, with claude under our own user."""
    with ExitStack() as parts:
        directory = Path(tempfile.mkdtemp(prefix="bg"))
        parts.callback(shutil.rmtree, directory)
        directory.chmod(0o711)
        world = parts.enter_context(closing(World(directory / "w")))
        assert world.qm("start", "102").returncode == 0
        sshd = WithGuest(world)
        parts.callback(sshd.stop)
        model = parts.enter_context(closing(Model()))
        settings = ChatSettings(
            str(directory / "sessions"),
            str(reachable(UIDS[0], directory)),
            shared_uid=True,
            env={"CLAUDE_CODE_MAX_RETRIES": "1"},
            api=ModelApi("ANTHROPIC_API_KEY", "sk-model", model.url),
        )
        (directory / "sessions").mkdir(mode=0o711)
        address = Address("breakglass", "127.0.0.1", sshd.port)
        host = Host("pve1", address, sshd.power_key, sshd.read_only_key, (sshd.host_key,))
        guest = replace(address, user="guest")
        vm = Vm("devvm", VMID, (host,), guest=guest, guest_host_keys=(sshd.host_key,))
        yield Place(directory, world, sshd, model, settings, vm)


@pytest.fixture
def apart(shared: Place) -> Place:
    """The same with claude as a user of its own."""
    return replace(shared, settings=replace(shared.settings, uids=UIDS, shared_uid=False))


@pytest.fixture(params=sampled(["shared", "apart"], "apart"))
def place(shared: Place, apart: Place, request: pytest.FixtureRequest) -> Place:
    """Both ways to run claude."""
    return shared if request.param == "shared" else apart
