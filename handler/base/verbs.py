"""The verbs of POST /pve: those of the table in `agents/pve/words.py` that have a label."""

from ..agents.pve.words import VERBS as WORDS

VERBS = {name: verb for name, verb in WORDS.items() if verb.label}
ALLOWABLE = (*(name for name, verb in VERBS.items() if not verb.allowed_by), "chat")
READS = tuple(name for name, verb in VERBS.items() if not (verb.needs_signature or verb.allowed_by))
STAGES = {name: verb.stages or (name,) for name, verb in VERBS.items()}  # a reading verb has one stage, itself
CAPTURE_ID = "alert-"  # how the ids of alerts' captures begin, which no caller chooses
DRILL_ID = "alert-drill-"  # the same of a drill's alert, of which no message is sent
PROPOSAL_ID = "job_"  # how the ids begin under which claude's proposals are approved
