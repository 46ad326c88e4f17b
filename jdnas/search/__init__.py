"""The search over student-teacher pairs (Joint-DetNAS, Algorithm 1).

It knows nothing of training: `workshop.Workshop` is injected. `study.SearchStudy` holds the state, `climb.run` advances it,
`history.History` is what was found, and `analyses` turns that into plain rows for the report.
"""
