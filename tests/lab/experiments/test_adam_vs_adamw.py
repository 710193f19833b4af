"""L2 in Adam's moments against decoupled decay."""

from optizoo.lab.experiments.adam_vs_adamw import page
from tests.lab.experiments import tiny

NAME = "adam_vs_adamw"
TINY = {
    "data": "synthetic",
    "images": 100,
    "batch_size": 50,
    "epochs": 3,
    "hidden": 8,
    "lrs": (1e-3, 0.01),
    "decays": (0.0, 0.1, 10.0),
    "seeds": (1, 2, 3),
}


def test_without_decay_they_are_one():
    """With λ = 0 both forms give the same run; with λ = 10 they do not."""
    rows = [row for row in tiny(NAME) if row["kind"] == "grid"]
    cells = {(row["optimizer"], row["lr"], row["decay"]): (row["train"], row["validation"]) for row in rows}
    assert len(cells) == 2 * 2 * 3
    for lr in TINY["lrs"]:
        assert cells["adam", lr, 0.0] == cells["adamw", lr, 0.0]
    assert any(cells["adam", lr, 10.0] != cells["adamw", lr, 10.0] for lr in TINY["lrs"])


def test_best_cells_are_chosen_on_validation():
    """The cell with the best validation accuracy runs again, from seeds that are not the grid's."""
    rows = tiny(NAME)
    for name in ("adam", "adamw"):
        grid = [row for row in rows if (row["kind"], row["optimizer"]) == ("grid", name)]
        again = [row for row in rows if (row["kind"], row["optimizer"]) == ("best", name)]
        best = max(grid, key=lambda row: row["validation"])
        assert {(row["lr"], row["decay"]) for row in again} == {(best["lr"], best["decay"])}
        assert [row["seed"] for row in again] == [1, 2, 3]


def test_the_claims_follow_the_rows():
    """The verdict follows the sign of the difference, and there is none while seeds disagree."""
    rows = tiny(NAME)
    for gains, verdict, number in (
        ((0.02, 0.03, 0.04), "held", "+3.00 points"),
        ((-0.02, -0.03, -0.04), "did not hold", "-3.00 points"),
        ((0.02, -0.03, 0.04), "not tested at this size", "+1.00 points"),
    ):
        for row in rows:
            if row["kind"] == "best":
                row["test"] = 0.5 + (gains[row["seed"] - 1] if row["optimizer"] == "adamw" else 0)
        shown = page(rows)
        assert (shown.headline.verdict, shown.headline.number) == (verdict, number)
        assert ("is not significant" in shown.seen[2]) == (verdict == "not tested at this size")
