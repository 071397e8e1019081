#!/usr/bin/env python3
"""Records `make demo` as docs/demo.cast, in asciinema's format, version 2: `asciinema play docs/demo.cast`.

    docs/record-demo.py [BIN-DIR]     BIN-DIR has the binaries [default: target/release]

The demo runs on a terminal of its own with 120 columns, so that bars are drawn. Python 3, standard library only.
"""

import fcntl
import json
import os
import pathlib
import pty
import struct
import sys
import termios
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLUMNS, ROWS = 120, 36


def main():
    binaries = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "target/release")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        time.sleep(0.2)  # until the parent has set the size
        os.execv(str(ROOT / "tests/demo.sh"), ["demo.sh", binaries])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    began, events, pending = time.monotonic(), [], b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # EIO: the last process has closed the terminal
            break
        if not data:
            break
        # A read may end within a character.
        pending += data
        text = pending.decode(errors="ignore")
        pending = pending[len(text.encode()):]
        events.append([round(time.monotonic() - began, 3), "o", text])
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        sys.exit(f"error: the demo ended with status {status}")
    head = {"version": 2, "width": COLUMNS, "height": ROWS, "title": "make demo"}
    lines = [json.dumps(line, ensure_ascii=False) for line in [head, *events]]
    (ROOT / "docs/demo.cast").write_text("\n".join(lines) + "\n")


main()
