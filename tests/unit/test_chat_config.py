"""[chat]: its settings, and that an error in it disables only chat."""

from breakglass.config.model import ChatSettings, Config
from breakglass.config.model_api import CREDENTIALS, ModelApi

from ..support.rows import each_row
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


FAULTS = {
    "an unknown key": ("program = 'x'", "chat.program"),
    "no command": ('command = ""', "chat.command"),
    "a number for a command": ("command = 7", "chat.command"),
    "a file of variables, as in an older checkout": ('env_file = "vars"', "chat.env_file"),
    "an account, as in 0.1": ('user = "claude"', "chat.user"),
    "user ids, as in an older checkout": ('uids = "200000-200063"', "chat.uids"),
    "a shared user, as there": ("shared_uid = true", "chat.shared_uid"),
    "no turn at all": ("max_turns_at_once = 0", "chat.max_turns_at_once"),
    "a switch for a number": ("turn_seconds = true", "chat.turn_seconds"),
    "an endless turn": ("turn_seconds = 99999999", "chat.turn_seconds"),
    "a variable that is a number": ("env = { A = 1 }", "chat.env.A"),
    "a variable with a strange name": ('env = { "A=B" = "x" }', "chat.env.A=B"),
    "a list of variables": ('env = ["A=1"]', "chat.env"),
    "an address without a scheme": ('base_url = "api.hush.example"', "chat.base_url"),
    "an address without TLS": ('base_url = "http://api.example"', "chat.base_url"),
    "an address that looks like this machine": ('base_url = "http://127.0.0.1.example"', "chat.base_url"),
    "an address with a password": ('base_url = "https://me:hush@api.example"', "chat.base_url"),
    "an address with a question": ('base_url = "https://api.example/?key=hush"', "chat.base_url"),
    "an address with a space": ('base_url = "https://api.example/a b"', "chat.base_url"),
    "an address with no such port": ('base_url = "https://api.example:99999"', "chat.base_url"),
    "a number for an address": ("base_url = 7", "chat.base_url"),
    "a proxy that speaks TLS": ('https_proxy = "https://me:hush@proxy.example"', "chat.https_proxy"),
    "an empty proxy": ('https_proxy = ""', "chat.https_proxy"),
    "a relative path": ('ca_file = "ours.pem"', "chat.ca_file"),
}
CREDENTIAL_FAULTS = {
    "none": ("", KEY, "is missing"),
    "a name that is empty": ('credential_file = ""', KEY, "is missing"),
    "the credential itself": ('credential_file = "sk-ant-hush-hush-hush-hush"', KEY, "can't be read"),
    "a number": ("credential_file = 7", KEY, "is not text"),
    "an empty file": (CREDENTIAL, "", "is empty"),
    "a comment alone": (CREDENTIAL, "# hush", "contains no known credential"),
    "a value alone": (CREDENTIAL, "sk-ant-hush", "contains no known credential"),
    "another variable": (CREDENTIAL, "AWS_BEARER_TOKEN_BEDROCK=hush", "contains no known credential"),
    "no value": (CREDENTIAL, "ANTHROPIC_API_KEY=", "contains no known credential"),
    "quotes": (CREDENTIAL, 'ANTHROPIC_API_KEY="hush"', "contains no known credential"),
    "two": (CREDENTIAL, f"{KEY}\nCLAUDE_CODE_OAUTH_TOKEN=hush", "contains no known credential"),
    "two words": (CREDENTIAL, "ANTHROPIC_API_KEY=hush hush", "contains no known credential"),
}


@each_row(
    ("config", "place", "words"),
    [
        *((chat(text), path, "") for text, path in FAULTS.values()),
        *(
            (chat("", {"key": content}, credential=line), "chat.credential_file", message)
            for line, content, message in CREDENTIAL_FAULTS.values()
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


NOT_FOR_CLAUDE = {
    "chat.credential_file": [*CREDENTIALS, "CLAUDE_CODE_OAUTH_REFRESH_TOKEN"],
    "base_url (": ["ANTHROPIC_BASE_URL"],
    "https_proxy": ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "NO_PROXY"],
    "ca_file": ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "NODE_TLS_REJECT_UNAUTHORIZED"],
    "a gateway's": [
        *("AWS_SECRET_ACCESS_KEY", "AWS_REGION", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_CLIENT_SECRET"),
        *("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY", "CLAUDE_CODE_CLIENT_KEY"),
        *("ANTHROPIC_CUSTOM_HEADERS", "ANTHROPIC_FOUNDRY_API_KEY", "ANTHROPIC_BEDROCK_BASE_URL"),
    ],
}


@each_row(("hint", "name"), [(hint, name) for hint, names in NOT_FOR_CLAUDE.items() for name in names])
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
