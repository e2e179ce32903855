"""The error that ends a command of Proxmox."""


class Died(Exception):
    """Raised with Proxmox's error message; the command exits with `code`, which for a task is 255."""

    def __init__(self, words: str, code: int = 255) -> None:
        super().__init__(words)
        self.code = code
