"""Operations with a backward pass written by hand, and right."""
