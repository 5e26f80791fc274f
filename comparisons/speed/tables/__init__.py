"""The results as tables, for the terminal, for speed.md and for the README."""
