"""What kind of wrong a gradient is, and where to look for it, in words."""
