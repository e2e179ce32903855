"""Authentication: signatures, the clock challenge, and what a caller may do."""
