"""What a process that outlives its readers does when its output is closed: real pipes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Speaks as `coster up` does: before and while its output is diverted, and afterwards.
SPEAKER = """
import sys
from pathlib import Path
from coster.output import DivertedOutput, Progress, outlive_readers, print_json

outlive_readers()
progress, output = Progress(0.0), DivertedOutput()
progress.doing("begun")
output.divert()
print("a library speaks", flush=True)
progress.done("ready")
output.restore()
print_json({"ready": True})
print("not flushed by anybody")
output.divert()
progress.done("stopped")
Path(sys.argv[1]).write_text("the end")
"""


def speak(end: Path, script: str = SPEAKER, *, deaf: tuple[str, ...]) -> tuple[int, str, str]:
    """Its exit code, and what was heard on the outputs that are not `deaf`."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(end)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    pipes = {"out": process.stdout, "err": process.stderr}
    for name in deaf:
        pipe = pipes[name]
        assert pipe is not None
        pipe.close()  # long before it has started far enough to write
    heard = {
        name: "" if name in deaf or pipe is None else pipe.read() for name, pipe in pipes.items()
    }
    code = process.wait(timeout=60)
    for pipe in pipes.values():
        assert pipe is not None
        pipe.close()
    return code, heard["out"], heard["err"]


@pytest.mark.parametrize("deaf", [(), ("out",), ("err",), ("out", "err")], ids=str)
def test_nothing_ends_because_nobody_reads(tmp_path: Path, deaf: tuple[str, ...]) -> None:
    """It comes to its end with exit code 0, and who still reads hears every word meant for them."""
    end = tmp_path / "end"
    code, out, err = speak(end, deaf=deaf)

    assert code == 0, err
    assert end.read_text() == "the end"
    if "out" not in deaf:
        assert out.startswith('{"ready":true}\n')
    if "err" not in deaf:
        words = ("begun", "a library speaks", "ready", "stopped")
        assert [word for word in words if word in err] == list(words)
        assert "Broken" not in err


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_output_that_was_never_open_is_no_error(tmp_path: Path, closed: str) -> None:
    """A shell may close both before it begins."""
    end = tmp_path / "end"
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", SPEAKER, str(end)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert (done.returncode, end.exists()) == (0, True)


def test_a_full_disk_is_not_a_reader_who_left(tmp_path: Path) -> None:
    """Only a closed output is taken for one: any other error of a write rises."""
    script = "import os, sys\nfrom coster.output import outlive_readers\n"
    script += "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)\noutlive_readers()\n"
    script += "sys.stdout.write('x')\nsys.stdout.flush()\n"
    code, _, err = speak(tmp_path / "end", script, deaf=())
    assert code != 0
    assert "No space left" in err
