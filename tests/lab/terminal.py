"""Runs a command on a terminal of 80 columns, whose output can be stopped as by Ctrl-S.

terminal.py FILE COMMAND...: what the terminal shows goes to FILE, and the terminal's
name to FILE.tty.
"""

import fcntl
import os
import pty
import struct
import sys
import termios

shown = open(sys.argv[1], "wb", buffering=0)
child, terminal = pty.fork()
if child == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    name = sys.argv[1] + ".tty"
    os.path.lexists(name) and os.remove(name)
    os.symlink(os.ttyname(1), name)
    os.environ["TERM"] = "xterm"
    os.execvp(sys.argv[2], sys.argv[2:])
while True:
    try:
        shown.write(os.read(terminal, 4096))
    except OSError:
        break
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
