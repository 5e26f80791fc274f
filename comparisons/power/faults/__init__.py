"""The planted faults: wrong backward passes of those operations."""
