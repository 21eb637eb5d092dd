//! A proxy before an HTTP server that is slow, refuses, loses answers and cuts connections, as told.
//!
//! One request to a connection: the server closes each after its response, and so does the proxy. Requests are forwarded
//! byte for byte, so that signatures hold.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The response comes late.
    Slow(Duration),
    /// The request is answered with this status and does not reach the server.
    Status(u16),
    /// The server does what was asked; the client is told "500".
    Applied500,
    /// The server does what was asked; the client is told nothing.
    AppliedCut,
    /// The connection ends in the middle of what the client sends.
    CutUpload,
    /// The connection ends in the middle of what the server sends.
    CutDownload,
    /// Nothing comes any more in the middle of what the server sends, until the client gives up.
    HungDownload,
}

/// Requests that a fault is for.
#[derive(Debug, Clone)]
pub struct Matching {
    /// The method; any if empty.
    pub method: &'static str,
    /// What the target must contain; anything if empty.
    pub target_contains: String,
}

/// A request that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
}

#[derive(Debug, Default)]
struct State {
    away: bool,
    /// Answers everything so while it is set.
    always: Option<u16>,
    planned: VecDeque<(Matching, Fault)>,
    /// Of a thousand requests so many go wrong, drawn from here.
    random: Option<(u64, u64)>,
    asked: Vec<Asked>,
    faults: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    upstream: SocketAddr,
    ended: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl FaultProxy {
    /// Starts a proxy before this server.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { state: Mutex::default(), upstream, ended: AtomicBool::new(false) });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if serving.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), shared) = (client, Arc::clone(&serving)) else { continue };
                std::thread::spawn(move || {
                    // A connection that fails is what this is for.
                    let _over = serve(&client, &shared);
                    let _closed = client.shutdown(Shutdown::Both);
                });
            }
        });
        Self { addr, shared }
    }

    /// `http://host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// While it is away, every connection is closed at once.
    pub fn away(&self, away: bool) {
        self.shared.state().away = away;
    }

    /// Answers every request with this status, until told otherwise.
    pub fn always(&self, status: Option<u16>) {
        self.shared.state().always = status;
    }

    /// The next requests of this kind go wrong, `times` of them.
    pub fn next(&self, matching: &Matching, fault: Fault, times: usize) {
        let mut state = self.shared.state();
        state.planned.extend(std::iter::repeat_n((matching.clone(), fault), times));
    }

    /// From now on, of a thousand requests so many go wrong, drawn from a seed; 0 ends it.
    pub fn random(&self, seed: u64, per_thousand: u64) {
        self.shared.state().random = (per_thousand > 0).then_some((seed, per_thousand));
    }

    /// What was asked since the last call.
    #[must_use]
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.state().asked)
    }

    /// Number of requests that went wrong so far.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.shared.state().faults
    }

    /// Forgets what is planned.
    pub fn clear(&self) {
        self.shared.state().planned.clear();
    }

    /// Faults that are planned and have not happened.
    #[must_use]
    pub fn planned(&self) -> usize {
        self.shared.state().planned.len()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let _woken = TcpStream::connect(self.addr);
    }
}

/// SplitMix64.
fn roll(state: &mut u64, sides: u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)) % sides
}

impl State {
    fn fault(&mut self, asked: &Asked) -> Option<Fault> {
        self.asked.push(asked.clone());
        if let Some(status) = self.always {
            return Some(Fault::Status(status));
        }
        let fits = |(matching, _): &(Matching, Fault)| {
            (matching.method.is_empty() || asked.method == matching.method)
                && asked.target.contains(&matching.target_contains)
        };
        if let Some(index) = self.planned.iter().position(fits) {
            return self.planned.remove(index).map(|(_, fault)| fault);
        }
        let (seed, per_thousand) = self.random.as_mut()?;
        if roll(seed, 1000) >= *per_thousand {
            return None;
        }
        // Refusals are not among them: nobody tries those again by himself, and a start reads hundreds of objects.
        Some(match roll(seed, 8) {
            0 => Fault::Slow(Duration::from_millis(roll(seed, 500))),
            1 => Fault::Status(503),
            2 => Fault::Status(500),
            3 | 4 => Fault::Applied500,
            5 => Fault::AppliedCut,
            6 => Fault::CutUpload,
            _ => Fault::CutDownload,
        })
    }
}

/// A request's head, and what of its body came with it.
struct Head {
    bytes: Vec<u8>,
    head_length: usize,
    body_length: usize,
    asked: Asked,
}

fn read_head(mut client: &TcpStream) -> std::io::Result<Head> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    let head_length = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        match client.read(&mut chunk)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head_length]).into_owned();
    let mut words = text.split(' ').map(str::to_owned);
    let asked = Asked { method: words.next().unwrap_or_default(), target: words.next().unwrap_or_default() };
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Ok(Head { bytes, head_length, body_length: length.unwrap_or(0), asked })
}

fn serve(mut client: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    if shared.state().away {
        return Ok(());
    }
    let mut head = read_head(client)?;
    let fault = {
        let mut state = shared.state();
        let fault = state.fault(&head.asked);
        state.faults += u64::from(fault.is_some());
        fault
    };
    let total = head.head_length + head.body_length;
    let upload = if fault == Some(Fault::CutUpload) { head.head_length + head.body_length / 2 } else { total };
    let mut chunk = vec![0; 64 * 1024];
    while head.bytes.len() < upload {
        match client.read(&mut chunk)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => head.bytes.extend_from_slice(&chunk[..read]),
        }
    }
    match fault {
        Some(Fault::Status(status)) => return answer(client, status),
        Some(Fault::Slow(time)) => std::thread::sleep(time),
        _ => {}
    }
    let mut server = TcpStream::connect(shared.upstream)?;
    server.write_all(&head.bytes[..head.bytes.len().min(upload)])?;
    if fault == Some(Fault::CutUpload) {
        return server.shutdown(Shutdown::Both);
    }
    let mut response = Vec::new();
    // The server may have asked the client to close, or close by itself: both end the response.
    server.set_read_timeout(Some(Duration::from_secs(60)))?;
    read_response(&mut server, &mut response, head.asked.method == "HEAD")?;
    match fault {
        Some(Fault::Applied500) => answer(client, 500),
        Some(Fault::AppliedCut) => Ok(()),
        Some(Fault::CutDownload) => {
            let response = closing(response);
            client.write_all(&response[..response.len() / 2])
        }
        Some(Fault::HungDownload) => {
            let response = closing(response);
            client.write_all(&response[..response.len() / 2])?;
            client.read(&mut chunk).map(drop)
        }
        _ => client.write_all(&closing(response)),
    }
}

/// A response that says that the connection ends with it.
fn closing(mut response: Vec<u8>) -> Vec<u8> {
    if let Some(at) = response.windows(2).position(|window| window == b"\r\n") {
        response.splice(at..at, *b"\r\nConnection: close");
    }
    response
}

/// Reads a response to its end: by its length, or until the server closes.
fn read_response(server: &mut TcpStream, response: &mut Vec<u8>, no_body: bool) -> std::io::Result<()> {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        if let Some(at) = response.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&response[..at]).to_ascii_lowercase();
            let length =
                text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            if no_body || length.is_some_and(|length| response.len() >= at + 4 + length) {
                return Ok(());
            }
            if length.is_some() {
                // The head need not be searched again.
                let wanted = at + 4 + length.unwrap_or(0);
                while response.len() < wanted {
                    match server.read(&mut chunk)? {
                        0 => return Ok(()),
                        read => response.extend_from_slice(&chunk[..read]),
                    }
                }
                return Ok(());
            }
        }
        match server.read(&mut chunk)? {
            0 => return Ok(()),
            read => response.extend_from_slice(&chunk[..read]),
        }
    }
}

fn answer(mut client: &TcpStream, status: u16) -> std::io::Result<()> {
    let body = format!("<Error><Code>Injected{status}</Code></Error>");
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Injected\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    client.write_all(head.as_bytes())?;
    client.write_all(body.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_that_may_be_drawn_is_drawn() {
        let mut state = State { random: Some((1, 1000)), ..State::default() };
        let asked = Asked { method: "GET".to_owned(), target: "/".to_owned() };
        let drawn: Vec<_> = (0..1_000).filter_map(|_| state.fault(&asked)).collect();
        let others = [Fault::Applied500, Fault::AppliedCut, Fault::CutUpload, Fault::CutDownload];
        for fault in [Fault::Status(503), Fault::Status(500)].into_iter().chain(others) {
            assert!(drawn.contains(&fault), "{fault:?}");
        }
        assert!(drawn.iter().any(|fault| matches!(fault, Fault::Slow(_))));
    }
}
