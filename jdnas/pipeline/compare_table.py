"""What `jdnas compare` came to, in rows of text and in Markdown."""

from typing import Any

from jdnas.pipeline.baselines import JOINT

Json = dict[str, Any]


def cell(spread: Json | None, digits: int = 4) -> str:
    """Write a mean and its sample standard deviation; a dash where there is none."""
    if spread is None:
        return "–"
    tail = "" if spread["std"] is None else f" ± {spread['std']:.{digits}f}"
    return f"{spread['mean']:.{digits}f}{tail}"


def lines(table: Json) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of a comparison, for the terminal and for Markdown."""
    shares = sorted(table["rows"][0]["ap_at_cost"], key=float, reverse=True)
    at_cost = [f"AP at {float(share):.0%} cost" for share in shares]
    joint = [row["method"] for row in table["rows"] if row["method"] in JOINT]
    score = table["score_name"]
    headings = ["method", score, "AP", "cost", "images", "candidates", *(f"{name} − it, in {score}" for name in joint), *at_cost]
    base = table["base"]
    rows = [["base", f"{base['score']:.4f}", f"{base['ap']:.4f}", "1.00", *["–"] * (2 + len(joint) + len(shares))]]
    for row in table["rows"]:
        rows.append(
            [row["method"], cell(row["score"]), cell(row["ap"]), cell(row["cost_share"], 2), f"{row['images']['mean']:,.0f}",
             f"{row['candidates']['mean']:.1f}", *(cell(row["gain_of"].get(name)) for name in joint),
             *(cell(row["ap_at_cost"][share], 3) for share in shares)]
        )  # fmt: skip
    return headings, rows


def markdown(table: Json) -> str:
    """Return a comparison as Markdown: the table, and what it rests on."""
    headings, rows = lines(table)
    seeds = ", ".join(map(str, table["seeds"]))
    what_one_is = "; H has the base's cost and resolution as its 1" if table["score_name"] == "H" else ""
    text = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1), *("| " + " | ".join(row) + " |" for row in rows)]
    text += [
        "", f"Mean ± sample standard deviation over seeds {seeds}; {table['images']:,} training images for each method; those of base and "
        f"pool are {table['base_and_pool_images']}. Choices were made on {table['chosen_on']}, all figures are on {table['judged_on']}. "
        f"Cost: {table['cost_name'].replace('_', ' ')}, as a share of the base's{what_one_is}.", "",
    ]  # fmt: skip
    return "\n".join(text)
