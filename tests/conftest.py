"""What several tests share."""

import sys

import pytest

from efficientllm.cli import main as cli


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder with a corpus and a cache for its tokens."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "corpus").mkdir()
    for i in range(12):
        lines = (f"line {j} of text {i}: the {j * i % 7} quick foxes jump over {j % 5} lazy dogs\n" for j in range(120))
        (folder / "corpus" / f"{i:02}.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Return what runs the command line in this process, on a results folder, and returns exit code, output and errors."""

    def on(results, *, columns):
        monkeypatch.setenv("COLUMNS", str(columns))

        def ran(*words):
            monkeypatch.setattr(sys, "argv", ["efficientllm", *map(str, words), "--results", str(results)])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            told = capsys.readouterr()
            return ended.value.code or 0, told.out, told.err

        return ran

    return on
