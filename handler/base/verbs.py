"""The verbs of POST /pve, which are the rows with a label in the table of `agents/pve/words.py`."""

from ..agents.pve.words import VERBS as WORDS

VERBS = {name: verb for name, verb in WORDS.items() if verb.label}
ALLOWABLE = (*(name for name, verb in VERBS.items() if not verb.allowed_by), "chat")
READS = tuple(name for name, verb in VERBS.items() if not (verb.needs_signature or verb.allowed_by))
# a verb that only reads has one stage, named after the verb
STAGES = {name: verb.stages or (name,) for name, verb in VERBS.items()}
CALM = ("healthy", "guest-alive")  # codes of verdicts after which nothing is left to do
CAPTURE_ID = "alert-"  # prefix of the ids of alerts' captures; callers may not use it
DRILL_ID = "alert-drill-"  # prefix of the ids of captures by drills, about which no message is sent
PROPOSAL_ID = "job_"  # prefix of the ids of approved proposals
