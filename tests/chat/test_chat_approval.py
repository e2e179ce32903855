"""From a proposal to an approval to the next turn, with the real claude, sshd, host agent and QEMU."""

import pytest

from ..support.model import Model
from ..support.sshd import Sshd
from ..support.talk import PATIENT, Talker, answer_text, bash, fake

pytestmark = [pytest.mark.real("sshd"), pytest.mark.slow]

PROPOSES: list[dict[str, object]] = [
    {"text": "It is hung: reset it.", **bash("pve reset")},
    bash("pve reset"),
    {"text": "It needs a yes."},
]


@pytest.mark.real("claude")
def test_a_proposal_is_approved_by_a_signed_verb(sshd: Sshd, model: Model) -> None:
    """The read-only key may not reset. The operator may, once, under the proposal's id. claude then gets the outcome.

    If two proposals are for the same state, only the first approved one acts.
    """
    sshd.world.directory.chmod(0o711)
    with Talker(sshd.world.directory, model, host=sshd, patched=PATIENT) as talker:
        talker.answering()
        first = talker.chat(fake(*PROPOSES))
        approval, older = [event for event in first if event["type"] == "approval"]
        assert (approval["verb"], approval["vm"], approval["why"]) == ("reset", "devvm", "It is hung: reset it.")
        assert talker.pve("history").json["jobs"] == []

        second = talker.chat(fake({"text": "I wait."}), session=first[0]["session"])
        assert "You proposed reset: the proposal is not approved, so the verb has not run." in model.asked[-1].said

        for _ in range(2):
            assert talker.pve("reset", msg_id=approval["job"], if_last=approval["last"]).json["outcome"] == "done"
        spent = talker.pve("reset", msg_id=older["job"], if_last=older["last"]).json
        assert (spent["outcome"], spent["verdict"]["code"]) == ("refused", "last-differs")
        assert spent["verdict"]["sentence"].startswith("operator sent reset ")
        jobs = talker.pve("history").json["jobs"]
        assert [job["id"] for job in jobs if job["outcome"] == "done"] == [approval["job"]]

        third = talker.chat(fake({"text": "Good."}), session=second[0]["session"])
        assert "You proposed reset: operator approved it, and it ended: done" in model.asked[-1].said
        assert answer_text(third) == "Good."
