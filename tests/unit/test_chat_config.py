"""[chat]: its settings, and that an error in it disables only chat."""

from breakglass.config.model import ChatSettings, Config
from breakglass.config.model_api import CREDENTIALS, ModelApi

from ..support.rows import each_row, read_rows
from .test_config import GOOD, no_files, read

CREDENTIAL = 'credential_file = "key"\n'
KEY = "ANTHROPIC_API_KEY=sk-hush"
API = ModelApi("ANTHROPIC_API_KEY", "sk-hush")


def chat(text: str, files: dict[str, str] | None = None, credential: str = CREDENTIAL) -> Config:
    return read(f"{GOOD}\n[chat]\n{credential}{text}", Files({"key": KEY, **(files or {})}))


class Files(dict[str, str]):
    """The files that exist."""

    def __missing__(self, name: str) -> str:
        return no_files(name)


def test_every_chat_setting_is_read() -> None:
    text = 'command = "/opt/claude"\nmax_turns_at_once = 5\nturn_seconds = 60\n'
    text += 'env = { B = "inline" }\n'
    text += 'base_url = "https://gateway.example:8443/claude/"\nca_file = "/etc/ours.pem"\n'
    text += 'https_proxy = "http://me:hush@proxy.example:3128/"\n'
    settings = chat(text).chat
    api = API._replace(
        base_url="https://gateway.example:8443/claude",
        https_proxy="http://me:hush@proxy.example:3128/",
        ca_file="/etc/ours.pem",
    )
    assert settings == ChatSettings("var/sessions", api, "/opt/claude", 5, 60, {"B": "inline"})
    assert "hush" not in repr(settings)
    assert "inline" not in repr(settings)


ROWS = read_rows("wrong_settings.yaml", key=KEY, credential=CREDENTIAL)


@each_row(
    ("config", "place", "words"),
    [
        *((chat(text), path, "") for text, path in ROWS["chat"].values()),
        *(
            (chat("", {"key": content}, credential=line), "chat.credential_file", message)
            for line, content, message in ROWS["credentials"].values()
        ),
    ],
)
def test_a_fault_in_chat_disables_only_chat(config: Config, place: str, words: str) -> None:
    """It is reported with its key's path and without a secret. Callers and VMs are not disabled."""
    [problem] = config.problems
    assert (problem.place, problem.sentence[: len(words)]) == (place, words)
    assert (config.chat, config.chat_fault) == (None, True)
    assert (len(config.callers), len(config.vms)) == (1, 1)
    assert "hush" not in str(problem).replace("api.hush.example", "")


@each_row(("hint", "name"), [(hint, name) for hint, names in ROWS["not for claude"].items() for name in names])
def test_claude_is_given_no_credential(hint: str, name: str) -> None:
    """`env` may not have a credential. The hint names the place for it."""
    config = chat(f'env = {{ {name} = "hush" }}')
    [problem] = config.problems
    assert (config.chat, hint in problem.fix, name in problem.place) == (None, True, True)
    assert "hush" not in str(problem)


@each_row("name", CREDENTIALS)
@each_row("url", ["", "http://127.0.0.1:4000", "http://localhost", "http://[::1]:8080", "https://a.example"])
def test_each_kind_of_credential_is_read(name: str, url: str) -> None:
    """It is one line of the file, among comments. Only a gateway on loopback needs no certificate."""
    config = chat(f'base_url = "{url}"' if url else "", {"key": f"# ours\n\n {name}=sk-ant+/=_-9 \n"})
    assert config.chat is not None
    assert config.chat.api == ModelApi(name, "sk-ant+/=_-9", base_url=url or API.base_url)
