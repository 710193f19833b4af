"""Faults: what goes wrong around a run, and what the user is told and keeps."""
