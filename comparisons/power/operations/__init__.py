"""Operations with a backward pass by hand that is right, and the faults to plant into it."""
