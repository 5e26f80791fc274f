"""The arms of the speed comparison: who takes the step."""
