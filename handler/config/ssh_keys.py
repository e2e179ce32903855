"""SSH private keys in the configuration: whether one can be used, and its public half.

asyncssh takes longer to load than the rest of a command, so it is loaded only if there is a key to read.
"""

from functools import lru_cache
from shlex import quote
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ssh_library import asyncssh


def public_key(private: str) -> str:
    """Return the public half of an unencrypted private key, without comment. Raises ValueError for others."""
    return " ".join(import_key(private).export_public_key().decode("ascii").split()[:2])


@lru_cache(maxsize=64)
def import_key(private: str) -> "asyncssh.SSHKey":
    """Return an unencrypted private key, parsed once (RSA takes a second). Raises ValueError if it is anything else."""
    from .ssh_library import asyncssh

    return asyncssh.import_private_key(private.strip("\ufeff \t\r\n") + "\n")


def key_fault(private: str, file: str) -> tuple[str, str, str] | None:
    """Return a code, why a private key can't be used, and what to do. None if the key can be used.

    `file` is the name of its file, if it has one.
    """
    shown = quote(file) if file else "FILE"
    if private.lstrip().startswith(("ssh-", "ecdsa-", "sk-")):
        fix = f"put the private key into {shown}. It is in the file without .pub, and begins with -----BEGIN"
        if file.endswith(".pub"):
            fix = f'name the private key, the file without .pub: "{file.removesuffix(".pub")}"'
        return "key-public", "is a public key", fix
    try:
        public_key(private)
    except ValueError as error:
        if "passphrase" in str(error).lower():
            return "key-encrypted", "is an encrypted key", f"remove its passphrase: ssh-keygen -p -N '' -f {shown}"
        fix = f"move it away and make a pair: ssh-keygen -t ed25519 -N '' -f {shown}; then "
        fix += "run breakglass host install-commands, and run what it prints on the host; see breakglass docs admin"
        return "key-garbage", "is not a private key of OpenSSH", fix
    return None


def new_key(comment: str) -> tuple[str, str]:
    """Return a new Ed25519 private key, unencrypted, and its public half as one line with a comment."""
    from .ssh_library import asyncssh

    key = asyncssh.generate_private_key("ssh-ed25519", comment)
    return key.export_private_key().decode("ascii"), key.export_public_key().decode("ascii")
