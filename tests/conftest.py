"""What several tests of training share."""

import pytest


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder with a corpus and a cache for its tokens."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "corpus").mkdir()
    for i in range(12):
        lines = (f"line {j} of text {i}: the {j * i % 7} quick foxes jump over {j % 5} lazy dogs\n" for j in range(120))
        (folder / "corpus" / f"{i:02}.txt").write_text("".join(lines))
    return folder
