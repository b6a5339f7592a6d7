"""Plots over records; each says what it can show. matplotlib is imported with the first of them."""
