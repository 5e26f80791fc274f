"""What a gradient may be made of, term by term, and the terms that fit what is missing."""
