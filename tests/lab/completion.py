"""Types a line into a shell on a terminal, has it complete the last word, and
prints the words of the line, one a line.

    completion.py bash|zsh|fish LINE
"""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time

COMMANDS = {
    "bash": ["bash", "--noprofile", "--rcfile", "/etc/bash_completion", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "-i"],
}
PREPARE = {
    "bash": "",
    "zsh": "autoload -U compinit; compinit -u -D; PROMPT=''",
    "fish": "",
}
WITHIN = 60


def main():
    shell, line = sys.argv[1:]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="dumb", PS1="", HISTFILE="")
        os.execvp(COMMANDS[shell][0], COMMANDS[shell])
    # Wide enough for any line.
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 2000, 0, 0))

    screen = ""

    def type_in(text):
        os.write(terminal, text.encode())

    def wait_for(mark):
        nonlocal screen
        deadline = time.monotonic() + WITHIN
        while mark not in screen:
            if time.monotonic() > deadline:
                sys.exit(f"never: {mark}\n{screen}")
            if select.select([terminal], [], [], 1)[0]:
                screen += os.read(terminal, 65536).decode(errors="replace")

    type_in(f"{PREPARE[shell]}\necho RE''ADY\n")
    wait_for("READY")
    screen = ""
    # At the start of the line, and at its end. The quotes keep what is echoed
    # from being taken for what is printed.
    type_in(f"{line}\t\x01printf '[%s]\\n' \x05 ; echo DO''NE\n")
    wait_for("DONE")
    for word in re.findall(r"(?m)^\[(.*)\]\r?$", screen):
        print(word)


main()
