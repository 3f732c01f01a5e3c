//! The process itself: what it was started with, fork, exec, ids of other processes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CStr, c_char, c_int};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

use crate::check;

/// The exit status of a process that cannot go on at all (out of memory, a defect): 125 until a
/// subcommand that is not about entering sets another.
static FATAL_STATUS: AtomicI32 = AtomicI32::new(125);

/// Sets the exit status for failures that cannot be returned as an error.
pub fn set_fatal_status(status: u8) {
    FATAL_STATUS.store(status.into(), Ordering::Relaxed);
}

/// Ends the process at once: no destructors, no exit handlers.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Says `message` on stderr and ends the process with the fatal status. Allocates nothing.
pub fn die(message: &str) -> ! {
    // SAFETY: write reads `message.len()` bytes of `message`.
    unsafe { libc::write(2, message.as_ptr().cast(), message.len()) };
    exit_now(FATAL_STATUS.load(Ordering::Relaxed))
}

/// The system's allocator, but running out of memory ends the process with its own exit status
/// instead of SIGABRT.
pub struct Allocator;

// SAFETY: every call goes to `System` unchanged; the contract is System's.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps GlobalAlloc's contract.
        or_die(unsafe { System.alloc(layout) })
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps GlobalAlloc's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps GlobalAlloc's contract.
        or_die(unsafe { System.alloc_zeroed(layout) })
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps GlobalAlloc's contract.
        or_die(unsafe { System.realloc(pointer, layout, size) })
    }
}

fn or_die(pointer: *mut u8) -> *mut u8 {
    if pointer.is_null() {
        die("runns-exec: cannot allocate memory: out of memory\n");
    }
    pointer
}

/// What the process was started with, as it was started: the strings in the initial stack, which
/// the C library leaves alone when it takes variables like LD_LIBRARY_PATH out of a privileged
/// program's `environ`.
pub struct Invocation {
    /// The arguments, with the program's own name first (none if argc was 0).
    pub arguments: Vec<&'static CStr>,
    /// The environment's strings, in order: duplicates, empty ones and ones without `=` included.
    pub environment: Vec<&'static CStr>,
}

/// Reads the initial stack.
///
/// # Safety
/// `argc` and `argv` are those that `main` got from the C library, and nobody has written to the
/// strings.
pub unsafe fn invocation(argc: c_int, argv: *const *const c_char) -> Invocation {
    let mut arguments = Vec::with_capacity(argc.max(0) as usize);
    for index in 0..argc.max(0) as usize {
        // SAFETY: by the contract, argv has argc pointers to NUL-terminated strings that live as
        // long as the process.
        arguments.push(unsafe { CStr::from_ptr(*argv.add(index)) });
    }
    let mut environment = Vec::new();
    if let Some(last) = arguments.last() {
        // SAFETY: getauxval has no preconditions. AT_EXECFN is the address of the string that the
        // kernel puts right after the environment's (fs/exec.c: bprm_execve copies filename, envp,
        // argv downwards), or 0.
        let end = unsafe { libc::getauxval(libc::AT_EXECFN) } as usize;
        let mut at = last.as_ptr() as usize + last.to_bytes_with_nul().len();
        while at < end {
            // SAFETY: between the last argument and AT_EXECFN the stack holds NUL-terminated
            // strings only.
            let string = unsafe { CStr::from_ptr(at as *const c_char) };
            at += string.to_bytes_with_nul().len();
            environment.push(string);
        }
    }
    Invocation {
        arguments,
        environment,
    }
}

/// Becomes `path`. Returns only on failure. execve(2).
pub fn execute(path: &CStr, arguments: &[&CStr], environment: &[&CStr]) -> Errno {
    let pointers = |strings: &[&CStr]| {
        strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect::<Vec<*const c_char>>()
    };
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and point to NUL-terminated strings, which
    // outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Errno::last()
}

/// Which side of a fork this is.
pub enum Fork {
    /// The new process.
    Child,
    /// The old one, with the id of the new one.
    Parent(Pid),
}

/// fork(2), for a process with one thread.
///
/// # Panics
/// Never; the caller must not have started threads, or the child may find a lock held for ever.
pub fn fork() -> Result<Fork, Errno> {
    // SAFETY: the process has one thread whenever this is called (the async runtime of build and
    // clean is single-threaded too), so every lock is free in the child.
    match check(unsafe { libc::fork() }.into())? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid::from_raw(pid as libc::pid_t))),
    }
}

/// A child that is about to execute a program.
///
/// It is made with no signal for its end, which makes it what wait(2) calls a clone child.
/// execve(2) sets that signal to SIGCHLD, once and for all and before it closes what is
/// close-on-exec. So the parent can tell, whatever has become of the child since, whether it ever
/// executed a program.
pub struct Starting {
    /// Its pid. It is its parent's to wait for, so nothing else has this pid meanwhile, unless
    /// SIGCHLD is ignored.
    pub pid: Pid,
    pidfd: OwnedFd,
}

/// fork(2) for a process with one thread, of which the child is about to execute a program; `None`
/// in the child.
pub fn fork_to_execute() -> Result<Option<Starting>, Errno> {
    let mut pidfd: c_int = -1;
    let (flags, none) = (libc::CLONE_PIDFD, std::ptr::null_mut::<c_int>());
    // SAFETY: the process has one thread whenever this is called, so every lock is free in the
    // child; without CLONE_VM the child has memory of its own and needs no stack. The kernel writes
    // the descriptor to `pidfd` in the parent.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone, flags, none, &raw mut pidfd, none, none) })?;
    Ok((pid != 0).then(|| {
        // SAFETY: the descriptor is new.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Starting {
            pid: Pid::from_raw(pid as libc::pid_t),
            pidfd,
        }
    }))
}

impl Starting {
    /// Whether it has executed a program. Where it may yet do so, the answer may come too early.
    pub fn has_executed(&self) -> Result<bool, Errno> {
        match wait_for(self.pid, libc::WEXITED | libc::WNOWAIT | libc::__WCLONE) {
            Ok(_) => Ok(false),
            Err(Errno::ECHILD) => Ok(true),
            Err(errno) => Err(errno),
        }
    }

    /// What has happened to it and was not told yet, if anything; does not wait. Its end is told
    /// only if it has executed a program before.
    pub fn change(&self) -> Result<Option<Change>, Errno> {
        match self.has_executed()? {
            true => wait_for(self.pid, libc::WEXITED | libc::WSTOPPED),
            // Of either kind, for it may execute a program right now.
            false => match wait_for(self.pid, libc::WSTOPPED | libc::__WALL) {
                Err(Errno::ECHILD) => Ok(None),
                change => change,
            },
        }
    }

    /// Ends it and its process group, and waits until it has ended. EPERM if it has become another
    /// user.
    pub fn end(&self) -> Result<(), Errno> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use nix::sys::signal::Signal::SIGKILL;
        // It has none of its own if it did not get as far as that.
        let _ = signal(Pid::from_raw(-self.pid.as_raw()), SIGKILL as c_int);
        match pidfd_signal(&self.pidfd, SIGKILL) {
            Err(Errno::ESRCH) => return Ok(()),
            signalled => signalled?,
        }
        while poll(
            &mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)],
            PollTimeout::NONE,
        ) == Err(Errno::EINTR)
        {}
        Ok(())
    }
}

/// A descriptor that stands for process `pid` (pidfd_open(2)); it is close-on-exec.
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes numbers; the descriptor it returns is new.
    check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// Signals the process that `pidfd` stands for, and no other (pidfd_send_signal(2)).
pub fn pidfd_signal(
    pidfd: impl std::os::fd::AsFd,
    signal: nix::sys::signal::Signal,
) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let (fd, none) = (
        pidfd.as_fd().as_raw_fd(),
        std::ptr::null::<libc::siginfo_t>(),
    );
    // SAFETY: a null siginfo lets the kernel fill in what kill(2) would.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as c_int, none, 0) })
        .map(drop)
}

/// Clock ticks a second, the unit of times in /proc/PID/stat (sysconf(3)).
pub fn clock_ticks() -> u64 {
    // SAFETY: sysconf has no preconditions.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) })
        .unwrap_or(100)
        .max(1)
}

/// Children that lose their parent become children of this process (PR_SET_CHILD_SUBREAPER), or no
/// longer.
pub fn set_child_subreaper(on: bool) -> Result<(), Errno> {
    // SAFETY: prctl with PR_SET_CHILD_SUBREAPER takes a number.
    check(
        unsafe {
            libc::prctl(
                libc::PR_SET_CHILD_SUBREAPER,
                libc::c_ulong::from(on),
                0,
                0,
                0,
            )
        }
        .into(),
    )
    .map(drop)
}

/// Has the program that `command` will start begin without blocked signals, whatever the thread that
/// starts it blocks; with `bound`, it is killed when that thread ends (PR_SET_PDEATHSIG, prctl(2)).
pub fn prepare(command: &mut std::process::Command, bound: bool) {
    use nix::sys::signal::{SigSet, Signal};
    use std::os::unix::process::CommandExt;
    let parent = nix::unistd::getpid();
    let in_child = move || {
        SigSet::empty().thread_set_mask()?;
        if bound {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // It may have ended before.
            if nix::unistd::getppid() != parent {
                return Err(Errno::ESRCH.into());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec, the child makes system calls only. It allocates nothing.
    unsafe { command.pre_exec(in_child) };
}

/// What a signal of this process does now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// SIG_DFL
    Default,
    /// SIG_IGN
    Ignore,
}

/// Sets the disposition of `signal`.
pub fn set_disposition(signal: nix::sys::signal::Signal, to: Disposition) -> Result<(), Errno> {
    use nix::sys::signal::{SigHandler, signal as set};
    let handler = if to == Disposition::Ignore {
        SigHandler::SigIgn
    } else {
        SigHandler::SigDfl
    };
    // SAFETY: neither SIG_IGN nor SIG_DFL runs any code of ours.
    unsafe { set(signal, handler) }.map(drop)
}

/// Whether `signal` is ignored now.
pub fn is_ignored(signal: nix::sys::signal::Signal) -> Result<bool, Errno> {
    // SAFETY: a null new action only asks; an all-zero sigaction is a valid value to be
    // overwritten.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        check(libc::sigaction(signal as c_int, std::ptr::null(), &mut old).into())?;
        Ok(old.sa_sigaction == libc::SIG_IGN)
    }
}

/// Whether the file at `path` has file capabilities, whatever they are (xattr(7),
/// security.capability).
pub fn has_file_capabilities(path: &CStr) -> bool {
    // SAFETY: both strings are NUL-terminated; with size 0 nothing is written.
    unsafe {
        libc::getxattr(
            path.as_ptr(),
            c"security.capability".as_ptr(),
            std::ptr::null_mut(),
            0,
        ) > 0
    }
}

/// Whether any capability is in the effective, permitted or inheritable set of this thread, read in
/// one go (capget(2)). Without any in the last two, none can be in the ambient set (capabilities(7)).
pub fn has_capabilities() -> Result<bool, Errno> {
    /// _LINUX_CAPABILITY_VERSION_3, include/uapi/linux/capability.h.
    const VERSION_3: u32 = 0x2008_0522;
    // The version, and 0 for this thread.
    let mut header = [VERSION_3, 0];
    let mut sets = [u32::MAX; 6];
    // SAFETY: header and sets have the layout of __user_cap_header_struct and of the two
    // __user_cap_data_struct that version 3 writes.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) })?;
    Ok(sets != [0; 6])
}

/// Makes the process non-dumpable (PR_SET_DUMPABLE, prctl(2)).
pub fn make_undumpable() -> Result<(), Errno> {
    nix::sys::prctl::set_dumpable(false)
}

/// Gives the process a new, empty session keyring. Without one of its own, it could read the keys
/// in that of the process that started it, whatever its user (session-keyring(7)). A kernel without
/// keyrings has nothing to hide.
pub fn leave_session_keyring() -> Result<(), Errno> {
    /// include/uapi/linux/keyctl.h
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_ulong = 1;
    // SAFETY: without a name, which is a null pointer, keyctl touches no memory of ours.
    match check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<c_char>(),
        )
    }) {
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// From now on, in this process and in what it executes, ioctl(2) with SIOCSIFMTU does nothing and
/// succeeds. Needs no_new_privs or CAP_SYS_ADMIN. seccomp(2).
pub fn pretend_to_set_mtu() -> Result<(), Errno> {
    const RETURN_ZERO: u32 = libc::SECCOMP_RET_ERRNO;
    let load = |offset: usize| {
        (
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            0,
            0,
            offset as u32,
        )
    };
    let unless =
        |value: u32, skip: u8| (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value);
    let request = std::mem::offset_of!(libc::seccomp_data, args) + size_of::<u64>();
    // The kernel looks only at the lower half of an ioctl's request.
    let request = if cfg!(target_endian = "big") {
        request + 4
    } else {
        request
    };
    let filter = [
        load(std::mem::offset_of!(libc::seccomp_data, nr)),
        unless(libc::SYS_ioctl as u32, 3),
        load(request),
        unless(libc::SIOCSIFMTU as u32, 1),
        (libc::BPF_RET | libc::BPF_K, 0, 0, RETURN_ZERO),
        (libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
    .map(|(code, jt, jf, k)| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    });
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program, `len` instructions at `filter`, and does not write to
    // it.
    check(
        unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        }
        .into(),
    )
    .map(drop)
}

/// Whether one of the signals that ask to stop has come since [`catch_interrupts`].
static INTERRUPTED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

extern "C" fn note_interrupt(_signal: c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP are only noted, so that what was begun can be undone.
/// Programs that are executed get the default back.
pub fn catch_interrupts() -> Result<(), Errno> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let action = SigAction::new(
        SigHandler::Handler(note_interrupt),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe
        // (signal-safety(7)).
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Forgets the signals that have come.
pub fn forget_interrupts() {
    INTERRUPTED.store(false, Ordering::Relaxed);
}

/// Whether a signal asked to stop.
pub fn was_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Replaces the environment by PATH alone, for the tools that are run.
///
/// Must be called while the process has one thread.
pub fn clear_environment(path: &CStr) {
    // SAFETY: one thread, by the contract; nobody else reads the environment meanwhile.
    unsafe {
        libc::clearenv();
        libc::setenv(c"PATH".as_ptr(), path.as_ptr(), 1);
    }
}

/// A set of blocked signals as the kernel has it, with the two that the C library keeps for itself.
pub type SignalMask = u64;

/// Blocks every signal that can be blocked; returns what was blocked before (sigprocmask(2)).
pub fn block_signals() -> Result<SignalMask, Errno> {
    change_signal_mask(SignalMask::MAX)
}

/// Blocks the signals of `mask`, and no others.
pub fn set_signal_mask(mask: SignalMask) -> Result<(), Errno> {
    change_signal_mask(mask).map(drop)
}

fn change_signal_mask(mask: SignalMask) -> Result<SignalMask, Errno> {
    let (mut old, size) = (0, size_of::<SignalMask>());
    let (how, new, before) = (libc::SIG_SETMASK, &raw const mask, &raw mut old);
    // SAFETY: the kernel reads and writes `size` bytes; the C library's function would leave two
    // signals out.
    check(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, new, before, size) })?;
    Ok(old)
}

/// Sends signal `number` (a real-time one too) to `pid`; a negative one is a process group
/// (kill(2)).
pub fn signal(pid: Pid, number: c_int) -> Result<(), Errno> {
    // SAFETY: kill takes numbers.
    check(unsafe { libc::kill(pid.as_raw(), number) }.into()).map(drop)
}

/// What happened to a child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It ended with this status.
    Exited(i32),
    /// It was ended by this signal.
    Signaled(i32),
    /// It was stopped by this signal.
    Stopped(i32),
}

/// What has happened to child `pid`, if anything; does not wait. Unlike nix's it knows real-time
/// signals. waitid(2).
fn wait_for(pid: Pid, what: c_int) -> Result<Option<Change>, Errno> {
    // SAFETY: an all-zero siginfo_t is a valid value, which waitid may write to. What it says of a
    // child is in it if si_pid is not 0.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        check(
            libc::waitid(
                libc::P_PID,
                pid.as_raw() as libc::id_t,
                &mut info,
                what | libc::WNOHANG,
            )
            .into(),
        )?;
        Ok((info.si_pid() != 0).then(|| match info.si_code {
            libc::CLD_EXITED => Change::Exited(info.si_status()),
            libc::CLD_KILLED | libc::CLD_DUMPED => Change::Signaled(info.si_status()),
            _ => Change::Stopped(info.si_status()),
        }))
    }
}

/// Ends the process by signal `number` as if nothing had been in its way, or, where the kernel
/// spares it (pid 1 of a namespace), with status 128 + `number`. Leaves no core: it would be that
/// of the wrong program.
pub fn end_by_signal(number: c_int) -> ! {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: setrlimit reads an rlimit; SIG_DFL runs no code of ours; getpid has no preconditions.
    let own = unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        libc::signal(number, libc::SIG_DFL);
        libc::getpid()
    };
    let _ = signal(Pid::from_raw(own), number);
    let _ = set_signal_mask(0);
    exit_now(128 + number)
}

/// Has the calling process run before all that are not of this kind (SCHED_FIFO, sched(7)).
pub fn run_first() -> Result<(), Errno> {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: sched_setscheduler reads a sched_param.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &priority) }.into()).map(drop)
}

/// Opens those of descriptors 0, 1 and 2 that the caller left closed, so that nothing else gets
/// their numbers: as the C library does it for programs with privileges, such that reading 0 and
/// writing 1 and 2 fail. It has done so already unless the caller is root.
pub fn open_standard_descriptors() -> Result<(), Errno> {
    // SAFETY: getauxval has no preconditions.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return Ok(());
    }
    for (number, path, flags) in [
        (0, c"/dev/full", libc::O_WRONLY),
        (1, c"/dev/null", libc::O_RDONLY),
        (2, c"/dev/null", libc::O_RDONLY),
    ] {
        // SAFETY: F_GETFD only asks; the path is NUL-terminated. open takes the lowest free number:
        // this one.
        unsafe {
            if libc::fcntl(number, libc::F_GETFD) < 0 {
                check(libc::open(path.as_ptr(), flags).into())?;
            }
        }
    }
    Ok(())
}

/// Has all descriptors above 2, whoever opened them, closed when this process executes a program.
/// close_range(2).
pub fn let_nothing_be_inherited() -> Result<(), Errno> {
    // SAFETY: close_range takes numbers; with this flag it closes nothing now.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}

/// In a child that executes nothing: closes all descriptors, standard ones included. What still owns
/// one there must not be dropped. close_range(2).
pub fn close_all() -> Result<(), Errno> {
    // SAFETY: close_range takes numbers; the parent's descriptors stay open.
    check(unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) }).map(drop)
}

/// Closes the descriptors above 2 that the caller left open for the command. Ours, all
/// close-on-exec, stay.
pub fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<c_int>().ok());
    for number in numbers.filter(|number| *number > 2).collect::<Vec<_>>() {
        // SAFETY: what is not close-on-exec was open before this program started: no OwnedFd has
        // it.
        unsafe {
            if libc::fcntl(number, libc::F_GETFD) == 0 {
                libc::close(number);
            }
        }
    }
}

/// Descriptors 0, 1 and 2. Nothing closes them, once [`open_standard_descriptors`] has seen to it
/// that they are open.
pub const STANDARD: [BorrowedFd<'static>; 3] = {
    // SAFETY: they stay open as long as the process lives.
    unsafe {
        [
            BorrowedFd::borrow_raw(0),
            BorrowedFd::borrow_raw(1),
            BorrowedFd::borrow_raw(2),
        ]
    }
};
