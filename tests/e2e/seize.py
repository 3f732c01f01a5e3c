"""seize.py PID: traces PID so that it does not end when it is killed (PTRACE_SEIZE, PTRACE_O_TRACEEXIT: ptrace(2)).

Prints 0 when that holds. PID goes on as long as nobody signals it.
"""
import ctypes, signal, sys

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
print(libc.ptrace(0x4206, int(sys.argv[1]), 0, 0x40), flush=True)
signal.pause()
