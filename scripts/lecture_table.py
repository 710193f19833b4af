"""Print README's table of the lecture's experiments from the records under docs/lecture."""

from pathlib import Path

from optizoo.lab.book import verdicts

FOLDER = Path(__file__).parents[1] / "docs" / "lecture"

if __name__ == "__main__":
    print(verdicts(FOLDER))
