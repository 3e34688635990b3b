"""What the tables say: the dip, the methods, what they cost, which to choose, and the verdicts. Needs no torch."""
