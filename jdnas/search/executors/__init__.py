"""Where candidates are worked on: in this process, or as tasks of a Ray cluster.

An executor is given candidates and gives back finished trials, in whatever order they finish; it knows neither what is proposed next
nor where that is stored, which is `climb`'s business and stays in one process.
"""
