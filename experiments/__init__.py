"""Configs, launchers and measurements; not part of the installed package."""
