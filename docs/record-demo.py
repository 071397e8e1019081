#!/usr/bin/env python3
"""Records `make demo` as docs/demo.cast, and draws the recording as docs/demo.svg.

    docs/record-demo.py [BIN-DIR]     BIN-DIR has the binaries [default: target/release]
    docs/record-demo.py --draw        draws demo.svg of the demo.cast that is there
    docs/record-demo.py --check       writes nothing; fails if demo.svg is not what demo.cast gives (tests/tests/docs.rs)

demo.cast is in asciinema's format, version 2: `asciinema play docs/demo.cast`. The demo runs on a terminal of its own,
so that bars are drawn. Python 3, standard library only.
"""

import fcntl
import json
import os
import pathlib
import pty
import re
import struct
import sys
import termios
import time
from html import escape

ROOT = pathlib.Path(__file__).resolve().parent.parent
CAST, DRAWING = ROOT / "docs/demo.cast", ROOT / "docs/demo.svg"
COLUMNS, ROWS = 120, 30
# Seconds that a frame of the drawing is shown: at least, in addition for each new line, and in addition for the last frame.
FRAME, NEW_LINE, LAST = 0.25, 0.2, 6.0
CHARACTER, LINE, MARGIN = 7.2, 17, 12
# SVG makes one space of several plain ones.
NO_BREAK_SPACE = "\u00a0"


def record(binaries):
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
    CAST.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [head, *events]))


class Screen:
    """The few things that a terminal does for the demo: lines, bold text, cursor up, erase."""

    def __init__(self):
        self.lines, self.row, self.column, self.is_bold = [[]], 0, 0, False

    def write(self, text):
        for part in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|[^\x1b]", text):
            if part == "\n":
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append([])
            elif part == "\r":
                self.column = 0
            elif part.startswith("\x1b"):
                self.control(part[2:-1], part[-1])
            else:
                self.put(part)

    def control(self, argument, letter):
        line = self.lines[self.row]
        if letter == "m":
            self.is_bold = argument == "1"
        elif letter == "A":
            self.row = max(0, self.row - int(argument or 1))
        elif letter in "KJ":
            del line[self.column:]
            if letter == "J":
                del self.lines[self.row + 1:]

    def put(self, character):
        if self.column == COLUMNS:
            self.write("\r\n")
        line = self.lines[self.row]
        line.extend([(" ", False)] * (self.column + 1 - len(line)))
        line[self.column] = (character, self.is_bold)
        self.column += 1

    def visible(self):
        """The last rows, each as its text and whether it is bold."""
        rows = [("".join(c for c, _ in line).rstrip(), any(bold for _, bold in line)) for line in self.lines]
        while rows and not rows[-1][0]:
            rows.pop()
        return rows[-ROWS:]


def frames():
    """Each picture of the recording, with the seconds that it is shown: longer than it was there, so that it can be read."""
    screen, result, at = Screen(), [], 0.0
    for line in CAST.read_text().splitlines()[1:]:
        when, _, text = json.loads(line)
        # A frame ends before the next section, and before the next command.
        for piece in re.split(r"(?=\x1b\[1m# )|(?=\$ sampan )", text):
            before = screen.visible()
            screen.write(piece)
            after = screen.visible()
            new = len([row for row in after if row not in before])
            if after == before:
                continue
            if "\x1b[J" in piece and when - at < FRAME:  # bars that are drawn again
                result[-1] = (after, result[-1][1])
                continue
            result.append((after, FRAME if "\x1b[J" in piece else FRAME + NEW_LINE * new))
            at = when
    picture, seconds = result[-1]
    result[-1] = (picture, seconds + LAST)
    return result


def draw():
    shown = frames()
    width, height = round(COLUMNS * CHARACTER + 2 * MARGIN), ROWS * LINE + 2 * MARGIN
    total, at, steps, strip, rows = sum(seconds for _, seconds in shown), 0.0, [], [], {}
    for nth, (picture, seconds) in enumerate(shown):
        steps.append(f"{100 * at / total:.2f}% {{ transform: translateY({-nth * height}px) }}")
        at += seconds
        for line, row in enumerate(picture):
            if row[0]:
                name = rows.setdefault(row, f"r{len(rows)}")
                strip.append(f'<use href="#{name}" y="{nth * height + MARGIN + line * LINE + 13}"/>')
    words = []
    for (text, bold), name in rows.items():
        kind, text = ' class="b"' if bold else "", escape(text.replace(" ", NO_BREAK_SPACE))
        words.append(f'<text id="{name}" x="{MARGIN}"{kind}>{text}</text>')
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<title>A recording of make demo</title>",
        "<style>",
        "text { font: 12px ui-monospace, monospace; fill: #e6edf3 }",
        ".b { font-weight: 700; fill: #7ee787 }",
        f".strip {{ animation: play {total:.1f}s step-end infinite }}",
        "@keyframes play {", *steps, "}",
        "</style>",
        "<defs>", *words, "</defs>",
        f'<rect width="{width}" height="{height}" rx="6" fill="#0d1117"/>',
        f'<svg width="{width}" height="{height}"><g class="strip">', *strip, "</g></svg>",
        "</svg>", "",
    ])


def main():
    if sys.argv[1:] == ["--check"]:
        if DRAWING.read_text() != draw():
            sys.exit("error: docs/demo.svg is not what docs/record-demo.py draws of docs/demo.cast")
        return
    if sys.argv[1:] != ["--draw"]:
        record(sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "target/release"))
    DRAWING.write_text(draw())


main()
