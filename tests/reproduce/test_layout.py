"""How results are written down, against texts worked by hand."""

import xml.etree.ElementTree as ElementTree

import pytest

from jdnas.reproduce import paper
from jdnas.reproduce.drawing import Bars, Line, Panel, draw
from jdnas.reproduce.layout import Table, percent_change, points, points_spread, size_text, with_paper
from jdnas.reproduce.records import file_name, kept, spread


def test_a_table_is_markdown() -> None:
    table = Table("Some table", ("a", "b"), (("1", "2"), ("3", "4")), ("A note.",))
    assert table.markdown() == "# Some table\n\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\nA note.\n"
    with pytest.raises(ValueError, match="has 1 cells for 2 columns"):
        Table("Some table", ("a", "b"), (("1",),))


def test_figures_are_written_as_the_paper_writes_them() -> None:
    assert points(0.3604) == "36.0" and points(None) == "-"
    assert points_spread(spread([0.30, 0.32])) == "31.0 ± 1.4"  # the sample deviation of 30 and 32 is the root of 2
    assert points_spread(spread([0.30])) == "30.0"
    assert percent_change(160.5, 117.3) == "-27%" and percent_change(28.2, 33.0) == "+17%" and percent_change(0, 3) == "-"
    assert size_text((800, 1333)) == "1333x800"


def test_the_papers_figures_stand_in_a_last_column() -> None:
    assert with_paper(("a",), [("1",), ("2",)], None) == (("a",), (("1",), ("2",)))
    assert with_paper(("a",), [("1",), ("2",)], ["9", ""]) == (("a", "paper"), (("1", "9"), ("2", "-")))


def test_table_4_agrees_with_the_percentages_that_the_paper_prints() -> None:
    printed = {"R18-FPN": ("-27%", "+17%", 2.5), "R50-FPN": ("-32%", "+24%", 2.8), "R101-FPN": ("-48%", "+47%", 2.5),
               "X101-FPN": ("-7%", "+6%", 2.8)}  # fmt: skip
    for model, (flops, fps, gain) in printed.items():
        (_, g_before, fps_before, ap_before), (_, g_after, fps_after, ap_after) = (paper.TABLE4[model, g] for g in ("baseline", "ours"))
        assert percent_change(g_before, g_after) == flops and percent_change(fps_before, fps_after) == fps
        assert ap_after - ap_before == pytest.approx(gain)


def test_the_papers_gains_of_tables_1_and_3() -> None:
    for model, gains in {"R18-FPN": (0.8, 0.1), "R50-FPN": (3.4, 2.9), "R101-FPN": (3.4, 2.7)}.items():
        standard, pool = paper.TABLE1[model, "standard"], paper.TABLE1[model, "our ETP"]
        assert tuple(pool[side] - standard[side] for side in (800, 1333)) == pytest.approx(gains)
    for student, teacher in (("R18-FPN", "R50-FPN"), ("R50-FPN", "R101-FPN")):
        assert paper.TABLE3[student, teacher, "ours"] - paper.TABLE3[student, teacher, "plain"] == pytest.approx(2.1)


def test_which_data_is_coco() -> None:
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = [name for name in FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:] if name != "N/A"]
    assert paper.is_coco(names)
    assert not paper.is_coco(["circle", "rectangle"]) and not paper.is_coco(["thing"] * 80)


def test_which_of_the_papers_sizes_a_canvas_stands_for() -> None:
    figures = {800: 34.3, 1333: 36.0}
    assert paper.near(figures, 1344) == 36.0 and paper.near(figures, 800) == 34.3
    assert paper.near(figures, 1312) is None and paper.near(figures, 96) is None


def test_drawings_are_svg_and_the_same_each_time() -> None:
    panels = (
        Panel("left", "x", "y", lines=(Line("one", [1, 2], [3, 4], "#123456"), Line("", [1, 2], [4, 3], "#123456", thin=True))),
        Panel("stacked", "", "%", bars=(Bars("a", [1, 2], "#111111"), Bars("b", [3, 4], "#222222")), groups=("g", "h"), stacked=True),
        Panel("boxes", "", "y", groups=("g",), samples=([1.0, 2.0, 3.0],)),
    )
    first, second = draw("A figure", panels), draw("A figure", panels)
    assert first == second
    texts = {"".join(node.itertext()) for node in ElementTree.fromstring(first).iter("{http://www.w3.org/2000/svg}text")}
    assert {"A figure", "left", "one", "a", "b", "g", "h", "boxes"} <= texts


def test_records_are_made_once(tmp_path) -> None:
    made = []
    path = tmp_path / "deep" / f"{file_name('ours: raw', 0)}.json"
    assert path.name == "ours__raw_0.json"
    for _ in range(2):
        record = kept(path, lambda: made.append(1) or {"ap": 0.5})
        assert record["ap"] == 0.5 and record["wall_seconds"] >= 0
    assert made == [1]
