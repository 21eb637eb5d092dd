//! The server's certificate, replaced while gateways are connected.

use ingest::ServerTls;
use ingest::protocol::{ClientEvent, Message};

use crate::harness::{Harness, readings, sequence, spool, within};
use crate::raw;
use crate::sink::Mode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_for_new_connections_and_the_others_go_on() {
    let harness = Harness::new();
    let [one, two, three] = [1, 2, 3].map(|number| harness.enrolled(number));
    let sink = harness.sink(100, Mode::Manual);
    let server = harness.serve(&sink);
    let mut client = harness.client(server.addr(), &one).await;
    let mut progress = client.progress();
    let before = raw::connect_enrolled(server.addr(), &harness.ca, &two).await;
    let mut stream = before.open_stream(spool(7)).await;
    assert_eq!(before.server_certificate(), harness.server.der());
    for index in 0..10 {
        within(client.send(&mut readings(1, index, 1))).await.expect("sent");
    }

    // Some frames wait for their acknowledgement meanwhile.
    let renewed = harness.ca.server();
    server.certificate().replace(&harness.ca.server_tls(&renewed)).expect("usable");

    sink.set(Mode::Immediate);
    for index in 10..20 {
        within(client.send(&mut readings(1, index, 1))).await.expect("sent");
    }
    within(progress.wait_for(|p| p.acknowledged_frames == 20)).await.expect("told");
    let frame = readings(2, 0, 1).encode(spool(7), sequence(1));
    stream.write(&Message::Frame { sequence: sequence(1), frame }).await;
    let answer = stream.next_event().await;
    assert!(matches!(answer, Some(ClientEvent::Acknowledged { up_to }) if up_to == sequence(1)), "{answer:?}");

    // It verifies what it is shown against the same CA.
    let after = raw::connect_enrolled(server.addr(), &harness.ca, &three).await;
    assert_eq!(after.server_certificate(), renewed.der());
    assert_ne!(renewed.der(), harness.server.der());
    let other = harness.client(server.addr(), &three).await;
    within(other.finish()).await.expect("nothing to do");

    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!((summary.acknowledged_frames, summary.reconnects), (20, 0));
    assert!(before.connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_key_changes_nothing() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let (certificate, key) = (harness.ca.server(), harness.ca.server());
    let mixed = ServerTls::from_pem(certificate.pem.as_bytes(), key.key_pem.as_bytes(), harness.ca.pem.as_bytes());
    let error = server.certificate().replace(&mixed.expect("two good halves")).expect_err("they do not fit");
    assert_eq!(error.what, "server certificate and key");
    let connected = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
    assert_eq!(connected.server_certificate(), harness.server.der());
}
