//! Somebody logs into the router, as with SSH, while its workers have too much to do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use xdpfrag::lab::Lab;

/// The router, where the appliance sees it.
pub(super) const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
/// How long a person waits for a prompt: a lost SYN comes again after one second, and after three.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two logins.
const PAUSE: Duration = Duration::from_millis(50);
/// What a command prints, bytes: a few full segments.
const SCREEN: usize = 8000;

/// Logs in so often from the appliance, one time after the other, and returns how long each took.
pub(super) fn logins(lab: &Lab, count: usize) -> Vec<Result<Duration>> {
    let listener = lab.gateway.run(|| Ok(TcpListener::bind((ROUTER, 22))?)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                match listener.accept() {
                    // What fails here the client sees.
                    Ok((client, _)) => drop(serve(client)),
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        let login = |_| {
            thread::sleep(PAUSE);
            lab.appliance.run(login)
        };
        let logins = (0..count).map(login).collect();
        over.store(true, Ordering::Release);
        logins
    })
}

/// Greets, takes a line, answers.
fn serve(mut client: TcpStream) -> Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.write_all(b"SSH-2.0-lab\r\n")?;
    BufReader::new(&client).read_line(&mut String::new())?;
    client.write_all(&[b'x'; SCREEN])?;
    Ok(())
}

fn login() -> Result<Duration> {
    let start = Instant::now();
    let mut router = TcpStream::connect_timeout(&SocketAddr::from((ROUTER, 22)), PATIENCE)?;
    router.set_read_timeout(Some(PATIENCE))?;
    let (mut greeting, mut screen) = (String::new(), Vec::new());
    let mut answers = BufReader::new(router.try_clone()?);
    answers.read_line(&mut greeting)?;
    router.write_all(b"xdpfrag stats\n")?;
    answers.read_to_end(&mut screen)?;
    ensure!(greeting.starts_with("SSH-") && screen.len() == SCREEN, "{greeting:?}, {} bytes", screen.len());
    Ok(start.elapsed())
}
