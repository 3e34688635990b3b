"""How fast training is beside the conventional way, how it scales, and what a profile would take."""
