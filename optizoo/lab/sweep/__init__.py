"""Sweeps: every optimizer tuned at the same budget, the winners compared from new seeds, on one machine or many."""
