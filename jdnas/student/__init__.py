"""The student: its action space, and how weights are inherited through it."""
