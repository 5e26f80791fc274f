"""Trainings compared step by step: each by itself, and at the reference's state."""
