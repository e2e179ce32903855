"""The verbs that change power: their checks, their ladder and their proofs."""
