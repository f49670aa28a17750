"""Starts a run where the chips are: each file prints or runs its commands."""
