"""small_buffer.py PID PATH: gives the datagram socket of the process that is connected to PATH the smallest send buffer there is, from
outside: pidfd_getfd(2) shares the very socket. Prints the bytes of the buffer."""
import ctypes, os, socket, sys

PIDFD_GETFD = 438  # on every architecture
pid, path = int(sys.argv[1]), sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
process = os.pidfd_open(pid)
for fd in os.listdir(f"/proc/{pid}/fd"):
    try:
        if not os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:"):
            continue
    except FileNotFoundError:
        continue
    shared = libc.syscall(PIDFD_GETFD, process, int(fd), 0)
    if shared < 0:
        continue
    with socket.socket(fileno=shared) as s:
        try:
            found = s.family == socket.AF_UNIX and s.type & 0xF == socket.SOCK_DGRAM and s.getpeername() == path
        except OSError:  # not connected
            found = False
        if found:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            print(s.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
            sys.exit(0)
sys.exit(f"{pid} has no socket that is connected to {path}")
