"""How a command of Proxmox's ends early."""


class Died(Exception):
    """What Proxmox says before it exits with `code`: 255 for a task, and what `die` leaves for the rest."""

    def __init__(self, words: str, code: int = 255) -> None:
        super().__init__(words)
        self.code = code
