"""One side of a comparison: what is called, with what, and what one call of it gives."""
