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


def test_without_the_table_there_is_no_chat() -> None:
    """A configuration without [chat] has no fault."""
    config = read(GOOD)
    assert (config.chat, config.chat_fault, config.problems) == (None, False, ())


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


@each_row("name", CREDENTIALS)
def test_each_kind_of_credential_is_read(name: str) -> None:
    """The credential is one line of the file. Comments and empty lines are ignored."""
    settings = chat("", {"key": f"# ours\n\n {name}=sk-ant+/=_-9 \n"}).chat
    assert settings is not None
    assert settings.api == ModelApi(name, "sk-ant+/=_-9")


@each_row("url", ["http://127.0.0.1:4000", "http://localhost", "http://[::1]:8080", "https://a.example"])
def test_a_base_url_may_lack_tls_on_this_machine(url: str) -> None:
    """A gateway on loopback needs no certificate; every other address needs one."""
    settings = chat(f'base_url = "{url}"').chat
    assert settings is not None
    assert settings.api == API._replace(base_url=url)


def test_chat_settings_show_no_secret() -> None:
    """A settings object in a log or a traceback has no credential in it."""
    assert "hush" not in repr(chat('env = { KEY = "hush" }\nhttps_proxy = "http://me:hush@a"').chat)


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


@each_row("name", FAULTS)
def test_a_fault_in_chat_switches_off_only_chat(name: str) -> None:
    """The error is reported with its key's path. Chat is disabled, but callers and VMs are not."""
    text, path = FAULTS[name]
    config = chat(text)
    assert [problem.place for problem in config.problems] == [path]
    assert (config.chat, config.chat_fault) == (None, True)
    assert (len(config.callers), len(config.vms)) == (1, 1)
    assert "hush" not in str(config.problems).replace("api.hush.example", "")


@each_row("name", CREDENTIAL_FAULTS)
def test_a_credential_that_is_none_is_a_problem(name: str) -> None:
    """The hint says how to write it. The wrong text is not shown."""
    line, content, message = CREDENTIAL_FAULTS[name]
    config = chat("", {"key": content}, credential=line)
    [problem] = config.problems
    assert (problem.place, problem.sentence.partition(":")[0]) == ("chat.credential_file", message)
    assert config.chat is None
    assert "hush" not in str(config.problems)


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
