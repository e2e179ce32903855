"""The verbs that change power: their checks, their steps of increasing force, and their proofs."""
