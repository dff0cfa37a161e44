//! systemd: inherited listening sockets and state notifications.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use test_support::browser::Browser;
use test_support::gateway::{Setup, configuration, prepare_directory, session_route};
use test_support::upstream::Upstream;

use crate::program::Program;

/// `RESTARTS=100` for the long form.
fn restarts() -> usize {
    std::env::var("RESTARTS").map_or(3, |text| text.parse().expect("a number"))
}

/// A socket as systemd opens it, and its address.
fn unit_socket() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

fn inherited(socket: &TcpListener) -> OwnedFd {
    socket.try_clone().expect("a descriptor").into()
}

fn configured(upstream: &Upstream, directory: &TempDir, https: SocketAddr) -> String {
    let setup = Setup {
        routes: session_route(upstream.address),
        store: format!("embedded:{}", directory.path().join("state").display()),
        extra: "[log]\nformat = \"json\"\n".to_owned(),
        ..Setup::default()
    };
    let text = configuration(&setup, directory);
    text.replace("https = [\"127.0.0.1:0\"]", &format!("https = [\"{https}\"]"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_with_an_inherited_socket_refuses_no_request() {
    let upstream = Upstream::start().await;
    let (socket, address) = unit_socket();
    let directory = prepare_directory();
    let text = configured(&upstream, &directory, address);
    let start = || Program::with_socket(&text, Arc::clone(&directory), inherited(&socket));
    let mut program = start();
    program.address();
    let mut browser = Browser::at_address(address, &program.path("ca.pem"));
    browser.log_in("alice").await;
    let (stop, response_count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = (0..4).map(|_| {
        let (stop, response_count) = (Arc::clone(&stop), Arc::clone(&response_count));
        let token = browser.token();
        let ca = program.path("ca.pem");
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // A new connection for each request, as after the old process closed it.
                let mut browser = Browser::at_address(address, &ca).with_token(&token);
                let response = browser.fetch("/").await;
                assert_eq!(response.status, 200, "{}", response.text());
                response_count.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let load: Vec<_> = load.collect();
    for _ in 0..restarts() {
        let before = response_count.load(Ordering::Relaxed);
        program.wait_for("requests", || {
            (response_count.load(Ordering::Relaxed) > before + 20).then_some(())
        });
        assert_eq!(program.stop(), Some(0), "{}", program.log());
        program = start();
    }
    let before = response_count.load(Ordering::Relaxed);
    program.wait_for("requests", || {
        (response_count.load(Ordering::Relaxed) > before + 20).then_some(())
    });
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.expect("every request has a response");
    }
}

#[tokio::test]
async fn an_unconfigured_inherited_socket_stops_the_start() {
    let upstream = Upstream::start().await;
    let (socket, address) = unit_socket();
    let directory = prepare_directory();
    let text = configured(&upstream, &directory, "127.0.0.1:0".parse().expect("an address"));
    let mut program = Program::with_socket(&text, directory, inherited(&socket));
    assert_eq!(program.wait_for_exit(), Some(1));
    let expected = format!("the socket unit listens on {address}, and the configuration does not");
    assert!(program.log().contains(&expected), "{}", program.log());
}

/// Returns the next message to the service manager.
fn next_state(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 1024];
    let length = manager.recv(&mut buffer).expect("a notification in time");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn notification_socket(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).expect("bound");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    socket
}

#[tokio::test]
async fn systemd_is_notified_of_start_reload_and_stop() {
    let upstream = Upstream::start().await;
    let directory = prepare_directory();
    let path = directory.path().join("notify.sock");
    let manager = notification_socket(&path);
    let text = configured(&upstream, &directory, "127.0.0.1:0".parse().expect("an address"));
    let mut program = Program::notifying(&text, directory, &path);
    assert_eq!(next_state(&manager), "READY=1\n");
    // The gateway serves from this message on.
    let mut browser = Browser::at_address(program.address(), &program.path("ca.pem"));
    assert_eq!(browser.navigate("/.doorward/login").await.status, 200);
    program.signal("-HUP");
    let reloading = next_state(&manager);
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(next_state(&manager), "READY=1\n");
    assert_eq!(program.stop(), Some(0));
    assert_eq!(next_state(&manager), "STOPPING=1\n");
}
