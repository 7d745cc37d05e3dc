//! A wire that can be cut: TCP between a client and a server, in either direction.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Carries connections to one server. Everything passes until it is told otherwise.
pub struct Proxy {
    address: SocketAddr,
    wire: Arc<Wire>,
}

struct Wire {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes from clients wait.
    requests_held: bool,
    /// Bytes from the server wait.
    answers_held: bool,
    /// New connections are closed at once.
    refusing: bool,
    /// Grows with every cut: what belongs to an older one is closed.
    cuts: u64,
    connections: Vec<TcpStream>,
    over: bool,
}

impl Proxy {
    /// Listens on a free port and connects to `port`, both of the loopback.
    pub fn start(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let wire = Arc::new(Wire { state: Mutex::default(), changed: Condvar::new() });
        let accepting = Arc::clone(&wire);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !accepting.accept(client, port) {
                    return;
                }
            }
        });
        Self { address, wire }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Holds back what clients send, until [`Proxy::pass`] or [`Proxy::cut`].
    pub fn hold_requests(&self) {
        self.wire.state().requests_held = true;
    }

    /// Holds back what the server sends, until [`Proxy::pass`] or [`Proxy::cut`].
    pub fn hold_answers(&self) {
        self.wire.state().answers_held = true;
    }

    /// Closes every connection; what was held back is lost.
    pub fn cut(&self) {
        let mut state = self.wire.state();
        state.cuts += 1;
        for connection in state.connections.drain(..) {
            // It may be closed already.
            let _ = connection.shutdown(Shutdown::Both);
        }
        self.wire.changed.notify_all();
    }

    /// Closes every connection and accepts no others.
    pub fn refuse(&self) {
        self.wire.state().refusing = true;
        self.cut();
    }

    /// Lets everything pass again, first of all what was held back.
    pub fn pass(&self) {
        let mut state = self.wire.state();
        (state.requests_held, state.answers_held, state.refusing) = (false, false, false);
        self.wire.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.wire.state().over = true;
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Requests,
    Answers,
}

impl Wire {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether more are accepted.
    fn accept(self: &Arc<Self>, client: TcpStream, port: u16) -> bool {
        let mut state = self.state();
        if state.over {
            return false;
        }
        if state.refusing {
            return true;
        }
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return true };
        let cuts = state.cuts;
        let clone = |stream: &TcpStream| stream.try_clone().expect("a socket can be used twice");
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("it is connected");
            state.connections.push(clone(stream));
        }
        for (from, to, direction) in
            [(clone(&client), clone(&server), Direction::Requests), (server, client, Direction::Answers)]
        {
            let wire = Arc::clone(self);
            thread::spawn(move || wire.carry(from, to, direction, cuts));
        }
        true
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream, direction: Direction, cuts: u64) {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let held = |state: &mut State| {
                state.cuts == cuts
                    && match direction {
                        Direction::Requests => state.requests_held,
                        Direction::Answers => state.answers_held,
                    }
            };
            let state = self.changed.wait_while(self.state(), held).unwrap_or_else(PoisonError::into_inner);
            if state.cuts != cuts {
                break;
            }
            drop(state);
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
