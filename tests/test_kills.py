"""Kills and stops at any moment: nothing that was answered Success is lost, nothing is delivered twice in two forms."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

COMMAND = "from node.cli import main; main()"


def test_a_stop_is_heard_whichever_thread_the_signal_interrupts(
    tmp_path: Path, eventually: Callable[..., None]
) -> None:
    """A thread that spawns the worker blocks and unblocks SIGTERM, and can take it before the main thread wakes."""
    config, lines = tmp_path / "node.toml", tmp_path / "log.jsonl"
    config.write_text(f'port = 0\ndata_dir = "{tmp_path / "data"}"\n')
    with lines.open("w") as log:
        node = subprocess.Popen([sys.executable, "-c", COMMAND, "serve", "--config", str(config)], stderr=log)
    try:
        eventually(lambda: "node started" in lines.read_text(), "the node starts", 60)
        threads = {int(task.name) for task in Path(f"/proc/{node.pid}/task").iterdir()} - {node.pid}
        os.kill(min(threads), signal.SIGTERM)  # Linux: to the process, but this thread is asked first
        assert node.wait(30) == 0
    finally:
        node.kill()
        node.wait()
