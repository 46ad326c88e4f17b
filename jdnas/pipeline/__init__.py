"""The whole job: base detector, teacher pool, search, export, parity check, benchmark and report."""
