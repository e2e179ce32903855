"""Forensics: probes, the evidence that they find, and the verdict on it."""
