"""callers.d/NAME.toml and vms.d/NAME.toml: a caller or a VM in its own file, beside the configuration."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from breakglass.base.findings import ConfigError
from breakglass.config.load import load_config
from breakglass.config.model import Config
from breakglass.config.warnings import check_change

from ..support.rows import each_row
from .test_config import GOOD, whsec

ANNA, BOB = (f'secret = "{whsec(letter)}"\nallow = ["status"]\n' for letter in "ab")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with the caller `operator`, and an empty directory for other callers' files."""
    return write(tmp_path / "breakglass.toml", GOOD)


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.touch(0o600)
    file.write_text(text)
    return file


def own(config: Path, name: str = "anna.toml", text: str = ANNA) -> Path:
    return write(config.parent / "callers.d" / name, text)


def names(config: Config) -> list[str]:
    return [caller.name for caller in config.callers]


# --- what is a caller ---


def test_a_caller_has_a_file_of_its_own(config: Path) -> None:
    """The file has the keys of a caller's table, and counts as one. The digest and doctor include the files."""
    before = load_config(config, {})
    file = own(config, "a.b@c.toml")
    found = load_config(config, {})
    assert (names(found), found.problems, found.warnings) == (["operator", "a.b@c"], (), before.warnings)
    assert str(file) in found.files
    assert found.digest != before.digest


def test_a_name_that_is_in_both_is_off_and_both_files_are_named(config: Path) -> None:
    """Both entries are disabled. No other caller may use their secrets."""
    config.write_text(f"{GOOD}\n[callers.anna]\n{BOB}")
    own(config)
    own(config, "bob.toml", BOB)
    found = load_config(config, {})
    assert names(found) == ["operator"]
    [both, shared] = (problem for problem in found.problems if problem.place != "callers.anna.secret")
    assert (both.place, shared.place) == ("callers.anna", "callers.d/bob.toml: secret")
    assert (str(config) in both.sentence, "callers.d/anna.toml" in both.sentence) == (True, True)
    assert (shared.code, shared.sentence.split()[-1]) == ("secret-shared", "anna")


KINDS: list[tuple[Callable[[Path], object], str, str]] = [  # how anna.toml is made, the place, the code
    (lambda file: write(file, "secret = ["), "", "caller-disabled"),
    (lambda file: write(file, ANNA.replace("status", "reboot")), ": allow", "caller-disabled"),
    (lambda file: write(file, f"[callers.anna]\n{ANNA}"), ": callers", "unknown-setting"),
    (lambda file: write(file, ANNA).chmod(0o604), "", "file-exposed"),
    (Path.mkdir, "", "file-not-readable"),
    (lambda file: os.mkfifo(file, 0o600), "", "caller-disabled"),  # it has no writer
    (lambda file: file.symlink_to("nowhere"), "", "file-missing"),
]


@each_row("make, place, code", KINDS)
def test_a_fault_disables_its_caller_and_names_the_file(
    make: Callable[[Path], object], place: str, code: str, tmp_path: Path
) -> None:
    config = write(tmp_path / "breakglass.toml", GOOD)
    own(config, "bob.toml", BOB)
    make(config.parent / "callers.d/anna.toml")
    found = load_config(config, {})
    assert names(found) == ["operator", "bob"]
    assert {problem.place: problem.code for problem in found.problems}[f"callers.d/anna.toml{place}"] == code


# --- names that are no callers' ---


def test_other_files_are_ignored_with_a_warning(config: Path) -> None:
    """They are an editor's copies, leftovers of a killed command, and links to files that another owner may change.

    A link to a file in the directory is followed.
    """
    file = own(config)
    file.rename(file.with_name("anna"))
    file.symlink_to("anna")
    for name in (".anna.toml.swp", "anna.toml~", "bob.toml.off"):
        own(config, name, "secret = [")
    (file.parent / "bob.toml").symlink_to(write(config.parent / "bob.toml", BOB))
    (file.parent / "carl.toml").symlink_to(file.parent.parent / "callers.d.old/carl.toml")
    found = load_config(config, {})
    assert (names(found), found.problems) == (["operator", "anna"], ())
    ignored = [each.sentence.split() for each in found.warnings if each.code == "caller-file-ignored"]
    assert [(words[0].removeprefix("callers.d/"), words[-1]) for words in ignored] == [
        *((".anna.toml.swp", "dot"), ("anna", ".toml"), ("anna.toml~", ".toml"), ("bob.toml", "directory")),
        *(("bob.toml.off", ".toml"), ("carl.toml", "directory")),
    ]


def test_a_volume_of_kubernetes_is_read_without_a_warning(config: Path) -> None:
    """Its names are links through `..data` to a directory that is replaced as a whole."""
    place = config.parent / "callers.d"
    place.mkdir()
    for version, text in (("..2026_11_28", ANNA), ("..2026_11_29", BOB)):
        (place / version).mkdir()
        write(place / version / "anna.toml", text)
        (place / "..data_tmp").symlink_to(version)
        (place / "..data_tmp").rename(place / "..data")
        if not (place / "anna.toml").is_symlink():
            (place / "anna.toml").symlink_to("..data/anna.toml")
        found = load_config(config, {})
        assert names(found) == ["operator", "anna"]
        assert [each.sentence for each in found.warnings if each.code == "caller-file-ignored"] == []
    assert found.callers[1].keys == (b"b" * 32,)
    place.rename(config.parent / "..data")  # the directory itself may be such a link
    place.symlink_to("..data")
    assert names(load_config(config, {})) == ["operator", "anna"]


# --- a directory that can't be read ---


def test_a_directory_that_is_none_ends_the_reading(config: Path) -> None:
    """An error must not look like removed callers, and only the first start may be without the directory.

    An empty directory is accepted.
    """
    place, before = config.parent / "callers.d", load_config(config, {})
    assert names(before) == ["operator"]
    for make in (lambda: place.write_text(""), lambda: place.symlink_to("/nowhere")):  # a volume may not be mounted
        make()
        with pytest.raises(ConfigError, match=str(place)):
            load_config(config, {})
        place.unlink()
    own(config)
    used = load_config(config, {})
    check_change(before, used)
    place.rename(config.parent / "gone")
    with pytest.raises(ConfigError, match=r"callers\.d"):
        check_change(used, load_config(config, {}))
    place.mkdir()
    check_change(used, load_config(config, {}))


# --- VMs, by the same rules ---

MAIL = 'hosts = ["pve1"]\nvmid = 103\n'
VM_FILES = [
    ("mail.toml", MAIL, ["devvm", "mail"], ""),
    ("mail.toml", MAIL.replace("pve1", "pve9"), ["devvm"], "vms.d/mail.toml: hosts"),
    ("mail.toml", f"{MAIL}guest = 1\n", ["devvm", "mail"], "vms.d/mail.toml: guest"),
    ("devvm.toml", MAIL, [], "vms.devvm"),
    ("mail.toml~", "vmid =", ["devvm"], "vms.d/mail.toml~"),
]


@each_row("name, text, names, place", VM_FILES)
def test_a_vm_has_a_file_of_its_own(tmp_path: Path, name: str, text: str, names: list[str], place: str) -> None:
    config = write(tmp_path / "breakglass.toml", GOOD)
    before = load_config(config, {})
    write(config.parent / "vms.d" / name, text)
    if not names:
        with pytest.raises(ConfigError, match=place):
            load_config(config, {})
        return
    found = load_config(config, {})
    assert (list(found.vms), found.directories) == (names, ("vms",))
    assert (found.digest == before.digest) == (len(names) == 1 and "~" in name)
    assert place in ("", *(each.place for each in (*found.problems, *found.warnings)))
    (config.parent / "vms.d").rename(config.parent / "gone")
    with pytest.raises(ConfigError, match=r"vms\.d"):
        check_change(found, load_config(config, {}))
