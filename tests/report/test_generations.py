from jdnas.report.generations import gains_over_generations
from jdnas.report.inputs import RunData
from jdnas.search.analyses import gains_by_change
from jdnas.search.history import History
from tests.search.simulated import trial


def figure_of(history: History):
    return gains_over_generations(RunData({}, (), "cost", {"actions": gains_by_change(history)}))


def test_bars_are_the_gains_of_the_search_by_generation() -> None:
    history = History([trial(0, 0.30), trial(1, 0.34, parent=0, kind="prune_channels"), trial(2, 0.31, parent=0, kind="add_layer"),
                       trial(3, 0.20, parent=0, kind="prune_layer")])  # fmt: skip
    figure = figure_of(history)
    assert figure is not None and figure["layout"]["barmode"] == "stack"
    bars = {bar["name"]: (bar["x"], [round(gain, 6) for gain in bar["y"]]) for bar in figure["data"]}
    assert bars == {"prune channels": ([0], [4.0]), "add layer": ([0], [1.0])}  # what did not help is no gain
    assert figure["data"][1]["customdata"] == ["1 of 1 candidates helped, 50 % of those that did"]


def test_without_a_gain_there_is_no_chart() -> None:
    assert figure_of(History([trial(0, 0.3), trial(1, 0.2, parent=0, kind="a")])) is None
    assert gains_over_generations(RunData({}, (), "cost", {"actions": [{"change": "x", "gain": "nan", "generation": 0}, 3]})) is None
