"""Alerts from monitoring systems: reads their payloads, selects VMs by rules, and plans the captures."""
