//! Child processes of this program that never outlive it.
//!
//! The parent keeps the other end of the child's stdin. It closes when the parent ends, however that
//! happens, and the child ends then.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Child;
use std::sync::mpsc;
use std::time::Duration;

/// In the child: does something, on a thread, when the parent has ended.
///
/// # Errors
/// No thread could be started.
pub(crate) fn when_parent_ends(act: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name("lifeline".into()).spawn(move || {
        // A read error is an end, too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        act();
    })?;
    Ok(())
}

/// In the parent: ends a child by closing its stdin, and with a signal if there is one; kills it if it
/// takes longer than `most`.
pub(crate) fn end(mut child: Child, signal: Option<Signal>, most: Duration) {
    drop(child.stdin.take());
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    // Fails if the process has already ended, which is fine.
    signal.into_iter().for_each(|signal| _ = kill(pid, signal));
    let (ended, end) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let _ = child.wait();
        let _ = ended.send(());
    });
    if end.recv_timeout(most).is_err() {
        let _ = kill(pid, Signal::SIGKILL);
    }
    let _ = waiter.join();
}
