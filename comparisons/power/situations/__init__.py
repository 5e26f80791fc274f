"""Faults that one plain forward and backward does not show, and correct code in their place."""
