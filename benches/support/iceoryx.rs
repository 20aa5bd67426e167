//! iceoryx2: its request-response between two processes, with default settings.
//!
//! The client is this process and the server is this program once more. Both poll, or both sleep until iceoryx2's events
//! wake them.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::process::Child;

use iceoryx2::port::client::Client;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::server::Server;
use iceoryx2::prelude::*;

use super::Setting;
use super::peers::{hear, reap, say, start};

/// What goes there and comes back: the size of [`echo`](super::echo).
type Bytes = [u8; 64];

/// The first byte of a round's last request. The server then waits for the next round and uses no processor.
const LAST: u8 = 0xff;

/// How both processes wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    Polling,
    Events,
}

impl Waiting {
    const ALL: [Waiting; 2] = [Waiting::Polling, Waiting::Events];
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Waiting::Polling => "polling",
            Waiting::Events => "events",
        })
    }
}

/// How a process waits for the other one, and wakes it.
enum Bell {
    Polling,
    Events { own: Listener<ipc::Service>, other: Notifier<ipc::Service> },
}

impl Bell {
    fn new(node: &Node<ipc::Service>, waiting: Waiting, own: &str, other: &str) -> Self {
        if waiting == Waiting::Polling {
            return Bell::Polling;
        }
        let event = |name: &str| {
            let name = name.try_into().expect("a name of a service");
            node.service_builder(&name).event().open_or_create().expect("an event service")
        };
        Bell::Events {
            own: event(own).listener_builder().create().expect("a listener"),
            other: event(other).notifier_builder().create().expect("a notifier"),
        }
    }

    fn wait(&self) {
        match self {
            Bell::Polling => std::hint::spin_loop(),
            Bell::Events { own, .. } => drop(own.blocking_wait(|_| {}).expect("a notification")),
        }
    }

    fn ring(&self) {
        if let Bell::Events { other, .. } = self {
            other.notify().expect("the other process is there");
        }
    }
}

/// The services of one peer, by the pid of the process that measures.
struct Names {
    calls: String,
    to_server: String,
    to_client: String,
}

impl Names {
    fn new(measurer: &str, waiting: Waiting) -> Self {
        let name = |what: &str| format!("forkpool-bench/{measurer}/{waiting}/{what}");
        Names { calls: name("calls"), to_server: name("to-server"), to_client: name("to-client") }
    }
}

fn node() -> Node<ipc::Service> {
    // Its handlers of signals would stand where this program's own are.
    NodeBuilder::new().signal_handling_mode(SignalHandlingMode::Disabled).create().expect("a node")
}

fn calls(
    node: &Node<ipc::Service>,
    names: &Names,
) -> iceoryx2::service::port_factory::request_response::PortFactory<ipc::Service, Bytes, (), Bytes, ()> {
    let name = names.calls.as_str().try_into().expect("a name of a service");
    node.service_builder(&name).request_response::<Bytes, Bytes>().open_or_create().expect("a service")
}

/// The part of this program that is the server: "polling" or "events", and the pid of the process that measures.
pub(super) fn play(part: &str, stream: &UnixStream) {
    let (waiting, measurer) = part.split_once(' ').expect("a way to wait and a pid");
    let waiting = Waiting::ALL.into_iter().find(|known| known.to_string() == waiting).expect("a way to wait");
    let (node, names) = (node(), Names::new(measurer, waiting));
    let server = calls(&node, &names).server_builder().create().expect("a server");
    let bell = Bell::new(&node, waiting, &names.to_server, &names.to_client);
    say(stream);
    while hear(stream) {
        serve_round(&server, &bell);
    }
}

fn serve_round(server: &Server<ipc::Service, Bytes, (), Bytes, ()>, bell: &Bell) {
    loop {
        let Some(request) = server.receive().expect("requests can be received") else {
            bell.wait();
            continue;
        };
        let bytes = *request.payload();
        request.send_copy(bytes).expect("the client is there");
        bell.ring();
        if bytes[0] == LAST {
            return;
        }
    }
}

/// A server process and the client of it in this process.
pub struct Iceoryx {
    process: Child,
    stream: UnixStream,
    client: Client<ipc::Service, Bytes, (), Bytes, ()>,
    bell: Bell,
    _node: Node<ipc::Service>,
}

impl Iceoryx {
    /// Starts the server where the placement wants its peers, and waits until it is there.
    pub fn start(setting: Setting, waiting: Waiting) -> Self {
        let measurer = std::process::id().to_string();
        let (node, names) = (node(), Names::new(&measurer, waiting));
        let bell = Bell::new(&node, waiting, &names.to_client, &names.to_server);
        let client = calls(&node, &names).client_builder().create().expect("a client");
        let (process, stream) = start(&format!("iceoryx2 {waiting} {measurer}"), None);
        setting.place(process.id());
        assert!(hear(&stream), "the process ended without a byte");
        Iceoryx { process, stream, client, bell, _node: node }
    }

    /// Seconds for each of so many calls, one after the other. The server polls only meanwhile.
    pub fn calls(&self, count: usize) -> f64 {
        say(&self.stream);
        // The server is awake by the time that the first call is measured.
        self.call(1);
        let took = super::repeat(count, || self.call(1));
        self.call(LAST);
        took
    }

    /// There and back, once.
    fn call(&self, byte: u8) {
        let bytes = [byte; 64];
        let pending = self.client.send_copy(bytes).expect("the server is there");
        self.bell.ring();
        let response = loop {
            match pending.receive().expect("responses can be received") {
                Some(response) => break response,
                None => self.bell.wait(),
            }
        };
        assert_eq!(*response.payload(), bytes, "what comes back is what was sent");
    }
}

impl Drop for Iceoryx {
    fn drop(&mut self) {
        // The server's wait for another round ends with our end of the stream.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        reap(&mut self.process);
    }
}
