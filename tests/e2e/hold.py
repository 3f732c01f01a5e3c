"""hold.py FILE GO: whoever opens FILE, to execute it as well, waits in the kernel until GO exists (fcntl(2), F_SETLEASE).

Prints a line when that holds, and another one when somebody waits.
"""
import fcntl, os, signal, sys, time

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
file = os.open(sys.argv[1], os.O_RDONLY)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("ready", flush=True)
signal.sigwait({signal.SIGIO})
print("waits", flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
