//! The simulated machine: implements the engine's two traits over a shared [`World`].

use super::net::World;
use crate::system::resolve::Query;
use crate::system::{Message, Readiness, Route, Socket, System, Wait};
use plimsoll_measure::Nanos;
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;

/// The machine as seen by the worker.
#[derive(Clone)]
pub(super) struct SimSystem(pub(super) Rc<RefCell<World>>);

impl System for SimSystem {
    type Socket = SimSocket;

    fn now(&self) -> Nanos {
        self.0.borrow_mut().now()
    }

    fn started_at_unix(&self) -> Nanos {
        super::STARTED_AT_UNIX
    }

    fn connect(&mut self, route: Route, token: usize) -> io::Result<SimSocket> {
        let id = self.0.borrow_mut().connect(route.to, token)?;
        Ok(SimSocket { world: self.0.clone(), id })
    }

    fn wait(&mut self, wait: Wait, ready: &mut Vec<(usize, Readiness)>) -> io::Result<()> {
        ready.clear();
        self.0.borrow_mut().wait(wait, ready);
        Ok(())
    }

    fn message(&mut self) -> Option<Message> {
        self.0.borrow_mut().message()
    }

    fn resolve(&mut self, query: Query) {
        self.0.borrow_mut().resolve(query);
    }

    /// Nothing that is simulated is lost when a socket is closed.
    fn linger(&mut self, _: SimSocket) -> bool {
        true
    }

    fn finish_lingering(&mut self) {}
}

/// A simulated socket; dropping it closes the socket.
pub(super) struct SimSocket {
    world: Rc<RefCell<World>>,
    id: usize,
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.world.borrow_mut().close(self.id);
    }
}

impl Read for SimSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.world.borrow_mut().read(self.id, buffer).map(|(n, _)| n)
    }
}

impl Write for SimSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.world.borrow_mut().write(self.id, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for SimSocket {
    fn is_connected(&self) -> io::Result<bool> {
        self.world.borrow_mut().is_connected(self.id)
    }

    fn read_stamped(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<Nanos>)> {
        self.world.borrow_mut().read(self.id, buffer)
    }
}
