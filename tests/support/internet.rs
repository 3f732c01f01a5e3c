//! The network outside the host: network namespaces that act as other machines, and servers in
//! them.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace without processes; it lives as long as this value.
pub struct Net {
    file: Arc<File>,
}

impl Net {
    /// Creates one, with its loopback interface up.
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare the network namespace");
            File::open("/proc/thread-self/ns/net").expect("open the network namespace")
        });
        let net = Self {
            file: Arc::new(made.join().expect("make a network namespace")),
        };
        net.ip("link set lo up");
        net
    }

    /// The same one once more.
    pub fn clone_of(other: &Self) -> Self {
        Self {
            file: Arc::clone(&other.file),
        }
    }

    /// A path to it, for programs on this machine.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Opens it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs `ip ARGUMENTS` in it; returns what it printed.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        let mut words = vec![format!("--net={}", self.path()), "ip".to_string()];
        words.extend(arguments.split_whitespace().map(str::to_string));
        let output = std::process::Command::new("nsenter")
            .args(&words)
            .output()
            .expect("start nsenter");
        assert!(
            output.status.success(),
            "ip {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a web server at `address` (with port) that answers every request with `name` and the
    /// address from which the request came.
    pub fn serve(&self, address: &str, name: &str) -> WebServer {
        let file = Arc::clone(&self.file);
        let address: SocketAddr = address.parse().expect("an address with port");
        let listener = std::thread::spawn(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter the network namespace");
            TcpListener::bind(address).expect("bind the web server")
        });
        WebServer::start(
            listener.join().expect("start a web server"),
            name.to_string(),
        )
    }
}

impl Net {
    /// Answers every datagram at `address` (with port) with `name` and the address that it came
    /// from, until the tests end.
    pub fn answer_udp(&self, address: &str, name: &'static str) {
        let file = Arc::clone(&self.file);
        let address: SocketAddr = address.parse().expect("an address with port");
        let bound = std::thread::spawn(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter the network namespace");
            UdpSocket::bind(address).expect("bind a UDP socket")
        });
        let socket = bound.join().expect("bind a UDP socket");
        std::thread::spawn(move || {
            while let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
                let _ = socket.send_to(format!("{name} {}\n", peer.ip()).as_bytes(), peer);
            }
        });
    }
}

/// The other end of the host's uplink, 192.0.2.1.
pub struct Internet {
    /// Its network namespace.
    pub net: Net,
}

/// A web server, which answers as long as this value lives.
pub struct WebServer {
    requests: Arc<Mutex<Vec<String>>>,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl WebServer {
    fn start(listener: TcpListener, name: String) -> Self {
        let (end, stop) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("make a pipe");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let thread = std::thread::spawn(move || {
            loop {
                let mut events = [
                    PollFd::new(listener.as_fd(), PollFlags::POLLIN),
                    PollFd::new(end.as_fd(), PollFlags::empty()),
                ];
                poll(&mut events, PollTimeout::NONE).expect("poll");
                if events[1].any() == Some(true) {
                    return;
                }
                if let Ok((connection, peer)) = listener.accept() {
                    seen.lock().expect("web server").push(peer.ip().to_string());
                    let _ = answer(connection, &format!("{name} {}\n", peer.ip()));
                }
            }
        });
        Self {
            requests,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The source addresses of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("web server").clone()
    }
}

fn answer(connection: TcpStream, body: &str) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(&connection);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    write!(
        &connection,
        "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
