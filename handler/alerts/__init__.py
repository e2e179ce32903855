"""Alerts from monitoring systems: their payloads, the rules that select a VM, and what is captured."""
