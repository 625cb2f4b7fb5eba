"""terminal.py TIMEOUT STEPS COMMAND... : runs the command on a terminal and takes the steps; prints what happened as JSON."""

import errno
import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

limit, steps, command = float(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
master, slave = pty.openpty()


def resize(rows, columns):
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))


resize(24, 80)
before = termios.tcgetattr(slave)
child = os.fork()
if child == 0:
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(slave, fd)
    os.closerange(3, 100)
    os.execvp(command[0], command)

output, seen, code, failure = b'', 0, None, None
deadline = time.monotonic() + limit


def read(wait):
    global output
    if select.select([master], [], [], wait)[0]:
        try:
            output += os.read(master, 65536)
        except OSError as error:
            if error.errno != errno.EIO:
                raise


def ended():
    global code
    if code is None:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
    return code is not None


for step in steps:
    if step[0] == 'expect':
        wanted = step[1].encode()
        while (at := output.find(wanted, seen)) < 0 and not failure:
            if time.monotonic() > deadline:
                failure = f'never saw {step[1]!r}'
            elif ended():
                read(0.1)
                if output.find(wanted, seen) < 0:
                    failure = f'ended with {code} before {step[1]!r}'
            else:
                read(0.1)
        if failure:
            break
        seen = at + len(wanted)
    elif step[0] == 'send':
        os.write(master, step[1].encode())
    elif step[0] == 'resize':
        resize(step[1], step[2])
    elif step[0] == 'signal':
        os.kill(child, step[1])
while not failure and not ended():
    read(0.05)
    if time.monotonic() > deadline:
        failure = 'never ended'
read(0.1)
if code is None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
after = termios.tcgetattr(slave)
print(json.dumps({'output': output.decode(errors='replace'), 'code': code, 'restored': before == after, 'failure': failure}))
