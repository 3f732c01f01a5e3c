# Runs the state program twice from this one process, by itself and by runns-exec, after SETUP in the child.
# The reports are /tmp/state/direct and /tmp/state/inside.
import ctypes, os, resource, signal, sys

libc = ctypes.CDLL(None, use_errno=True)
PROGRAM = b"/usr/local/bin/runns-exec"
ARGUMENTS = [b"/usr/local/bin/state", b"/tmp/state/report"]
ENVIRONMENT = [b"PATH=/usr/local/bin:/usr/bin:/bin", b"HOME=/"]
ENTER = [b"runns-exec", b"vpn1", b"--"]


def execute(path, arguments, environment):
    argv = (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)
    envp = (ctypes.c_char_p * (len(environment) + 1))(*environment, None)
    libc.execve(path, argv, envp)
    os._exit(98)


def run(path, arguments):
    child = os.fork()
    if child == 0:
        setup()
        execute(path, arguments, ENVIRONMENT)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        sys.exit(f"{path}: {status}")


def setup():
    pass


# Python changed these itself.
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
#SETUP#
run(ARGUMENTS[0], ARGUMENTS)
os.rename("/tmp/state/report", "/tmp/state/direct")
run(PROGRAM, ENTER + ARGUMENTS)
os.rename("/tmp/state/report", "/tmp/state/inside")
