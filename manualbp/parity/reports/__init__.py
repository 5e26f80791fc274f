"""What was found, as text, files and pictures."""
