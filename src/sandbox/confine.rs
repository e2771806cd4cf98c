//! Confines a child with rlimits and seccomp before it reads the first byte of a photo. This can't be undone.

use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};
use std::collections::BTreeMap;
use std::io;

/// The three standard streams and one photo; the rest is for the files of a test harness.
const OPEN_FILES: u64 = 32;

/// The system calls of a decoder: memory, its socket and open files, clocks, exit.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Confines the calling process: it is killed when its parent dies, has limited memory, can't create files or core
/// dumps, and may use only the system calls in [`ALLOWED`].
pub fn confine(memory_bytes: u64) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    for (resource, limit) in
        [(Resource::As, memory_bytes), (Resource::Fsize, 0), (Resource::Core, 0), (Resource::Nofile, OPEN_FILES)]
    {
        let limit = getrlimit(resource).maximum.map_or(limit, |hard| hard.min(limit));
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    let filter = filter().map_err(io::Error::other)?;
    // This also sets no_new_privs.
    apply_filter_all_threads(&filter).map_err(io::Error::other)
}

/// Allows so many more seconds of CPU time, after which the kernel sends SIGXCPU.
pub fn allow_cpu(seconds: u64) -> io::Result<()> {
    let used = u64::try_from(clock_gettime(ClockId::ProcessCPUTime).tv_sec).unwrap_or(0);
    let maximum = getrlimit(Resource::Cpu).maximum;
    // The kernel counts whole seconds, so the current second is added.
    let current = (used + 1).saturating_add(seconds);
    setrlimit(Resource::Cpu, Rlimit { current: Some(maximum.map_or(current, |hard| hard.min(current))), maximum })?;
    Ok(())
}

/// The seccomp filter. Other system calls fail with EPERM rather than kill the process, because a C library makes
/// harmless calls that depend on its version (the number of processors, a kernel file) and continues without an answer.
fn filter() -> Result<BpfProgram, Box<dyn std::error::Error + Send + Sync>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    // No executable memory.
    let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
    let not_executable = |argument| {
        let mask = SeccompCmpOp::MaskedEq(executable);
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, mask, 0)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    rules.insert(libc::SYS_mmap, vec![not_executable(2)?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable(2)?]);
    // Only RLIMIT_CPU of the process itself, which is set for each photo.
    let equal = |argument, value| SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value);
    let resource = |value| SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    let cpu_time = SeccompRule::new(vec![equal(0, 0)?, resource(u64::from(libc::RLIMIT_CPU))?])?;
    rules.insert(libc::SYS_prlimit64, vec![cpu_time]);
    // Signals only to the process itself, for abort().
    let own = u64::from(std::process::id());
    let to_itself = SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, own)?])?;
    rules.insert(libc::SYS_tgkill, vec![to_itself]);
    let otherwise = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter =
        SeccompFilter::new(rules, otherwise, SeccompAction::Allow, TargetArch::try_from(std::env::consts::ARCH)?)?;
    Ok(filter.try_into()?)
}
