"""Turns of a conversation with claude as clients see them."""
