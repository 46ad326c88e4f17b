"""Where benchmarks leave their results, and what their figures were taken with."""

from jdnas.reproduce.provenance import ROOT, commit, provenance

__all__ = ["ROOT", "commit", "provenance"]
