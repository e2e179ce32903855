"""Forensics: probes, the evidence that they find, and the verdict on that evidence."""
