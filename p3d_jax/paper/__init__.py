"""The paper as a program: its settings, its tables, its numbers."""
