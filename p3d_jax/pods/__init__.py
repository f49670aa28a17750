"""Runs on many chips: planned without them, and started on them."""
