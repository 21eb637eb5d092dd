//! Repeats a request that is safe to repeat, when its connection was closed before a response began.
//!
//! A server closes a connection that was idle for a while, and can do so in the very moment in which a client uses it
//! again. The client then cannot know whether the request was carried out, so only requests that change nothing are
//! repeated.

use std::error::Error;
use std::io::{self, ErrorKind};

use reqwest::{Method, retry};

/// How often a request is sent again. The pool may have several connections that the server has closed.
const REPEATS_MAX: u32 = 2;

/// Paths whose `POST` only reads.
const READING_POSTS: [&str; 2] = ["/api/v1/sql", "/api/v1/export"];

/// Returns the policy that every client of a server's HTTP is built with.
pub fn repeat_when_closed() -> retry::Builder {
    retry::for_host(AnyHost).no_budget().max_retries_per_request(REPEATS_MAX).classify_fn(|attempt| {
        let is_closed = attempt.error().is_some_and(is_closed);
        if is_closed && is_safe_to_repeat(attempt.method(), attempt.uri().path()) {
            attempt.retryable()
        } else {
            attempt.success()
        }
    })
}

/// A client of one server has no need to tell hosts apart.
struct AnyHost;

impl PartialEq<&str> for AnyHost {
    fn eq(&self, _: &&str) -> bool {
        true
    }
}

/// Returns whether the server may carry out the request twice.
fn is_safe_to_repeat(method: &Method, path: &str) -> bool {
    method.is_safe() || (method == Method::POST && READING_POSTS.contains(&path))
}

/// Returns whether the error, of a request without a response, says that the peer closed the connection.
fn is_closed(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source()).any(|error| {
        let of_http = error.downcast_ref::<hyper::Error>();
        let of_socket = error.downcast_ref::<io::Error>().map(io::Error::kind);
        of_http.is_some_and(|error| error.is_incomplete_message() || error.is_canceled())
            || matches!(
                of_socket,
                Some(ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
            )
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::thread::JoinHandle;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::Api;

    /// What the server does with one request.
    #[derive(Clone, Copy)]
    enum Then {
        Respond,
        /// Closes the connection after it has read the request.
        Close,
        /// Closes it with bytes unread, which the client sees as a reset.
        Reset,
        /// Closes it in the middle of the response.
        Cut,
    }

    const WHOLE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nreadings\n42";

    /// A server with a script for each connection, one after the other. Ends with the number of requests.
    fn server(connections: Vec<Vec<Then>>) -> (SocketAddr, JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let addr = listener.local_addr().expect("an address");
        let serve = move || {
            let mut requests = 0;
            for script in connections {
                let Some(stream) = accept(&listener) else { break };
                let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
                for then in script {
                    requests += usize::from(answer(&mut reader, &stream, then));
                }
            }
            requests
        };
        (addr, std::thread::spawn(serve))
    }

    /// Accepts a connection, or gives up waiting for one.
    fn accept(listener: &TcpListener) -> Option<TcpStream> {
        listener.set_nonblocking(true).expect("set");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(false).expect("set");
                return Some(stream);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// Reads one request; whether there was one.
    fn answer(reader: &mut BufReader<TcpStream>, mut stream: &TcpStream, then: Then) -> bool {
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            if reader.read_line(&mut line).expect("readable") == 0 {
                return false;
            }
            match line.split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().expect("a number");
                }
                _ if line == "\r\n" => break,
                _ => {}
            }
        }
        // Bytes that the buffer has taken already do not count as unread for the kernel.
        if let Then::Reset = then {
            return true;
        }
        reader.read_exact(&mut vec![0; length]).expect("the body");
        match then {
            Then::Respond => stream.write_all(WHOLE.as_bytes()).expect("written"),
            Then::Cut => stream.write_all(&WHOLE.as_bytes()[..WHOLE.len() - 3]).expect("written"),
            Then::Close | Then::Reset => {}
        }
        true
    }

    fn count(addr: SocketAddr, times: usize) -> Vec<problem::Result<u64>> {
        let api = Api::new(&format!("http://{addr}"), "abc").expect("a client");
        (0..times).map(|_| api.count()).collect()
    }

    #[test]
    fn a_connection_that_is_closed_as_it_is_used_again_is_not_noticed() {
        let (addr, server) = server(vec![vec![Then::Respond, Then::Close], vec![Then::Respond]]);
        assert_eq!(count(addr, 2), [Ok(42), Ok(42)]);
        assert_eq!(server.join().expect("no panic"), 3, "the second request was sent twice");
    }

    #[test]
    fn a_reset_counts_as_closed() {
        let (addr, server) = server(vec![vec![Then::Respond, Then::Reset], vec![Then::Reset], vec![Then::Respond]]);
        let api = Api::new(&format!("http://{addr}"), "abc").expect("a client");
        assert_eq!(api.count(), Ok(42));
        // More than the server's buffer takes, so that some of it stays unread.
        let long = format!("SELECT '{}'", "x".repeat(1 << 20));
        assert!(api.sql(&long, "text/csv").is_ok());
        assert_eq!(server.join().expect("no panic"), 4);
    }

    #[test]
    fn it_gives_up() {
        let (addr, server) = server(vec![vec![Then::Close], vec![Then::Close], vec![Then::Close]]);
        let error = count(addr, 1).remove(0).expect_err("no response").to_string();
        assert!(error.contains("cannot be reached"), "{error}");
        assert_eq!(server.join().expect("no panic"), 3);
    }

    #[test]
    fn a_response_that_has_begun_is_not_asked_for_again() {
        let (addr, server) = server(vec![vec![Then::Cut]]);
        let error = count(addr, 1).remove(0).expect_err("cut off").to_string();
        assert!(error.contains("cut off"), "{error}");
        assert_eq!(server.join().expect("no panic"), 1);
    }

    #[test]
    fn what_may_change_something_is_not_repeated() {
        assert!(is_safe_to_repeat(&Method::GET, "/metrics") && is_safe_to_repeat(&Method::POST, "/api/v1/sql"));
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            assert!(!is_safe_to_repeat(&method, "/api/v1/sites"), "{method}");
        }
        assert!(!is_safe_to_repeat(&Method::DELETE, "/api/v1/sql"));
    }
}
