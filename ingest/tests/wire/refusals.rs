//! Frames that are refused, each with its code and sequence number, without ending the stream.

use ingest::RefusalCode;
use ingest::protocol::{ClientEvent, Message};

use crate::harness::{Harness, START_MS, altered, reading_at, readings, sequence, spool, wait_until, within};
use crate::raw;
use crate::sink::Mode;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_frames_do_not_stop_the_stream() {
    let mut harness = Harness::new();
    harness.limits.frame_bytes_max = 20_000;
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let mut client = harness.client(server.addr(), &gateway).await;
    let id = client.spool();
    let mut expected = Vec::new();

    within(client.send(&mut readings(1, 0, 5))).await.expect("sent");
    // One bit flipped in the body; an unknown channel; a time too early; a time too far ahead; a frame too large.
    let good = readings(1, 5, 5).encode(id, sequence(2));
    let mut damaged = good.to_vec();
    damaged[60] ^= 4;
    within(client.send_encoded(damaged.into())).await.expect("accepted");
    expected.push((2, RefusalCode::Malformed));
    let unknown = altered(&readings(1, 5, 5).encode(id, sequence(3)), |bytes| bytes[36..38].copy_from_slice(&[231, 3]));
    within(client.send_encoded(unknown)).await.expect("accepted");
    expected.push((3, RefusalCode::UnknownChannel));
    within(client.send(&mut reading_at(946_684_799_999))).await.expect("sent");
    expected.push((4, RefusalCode::TimeOutOfRange));
    within(client.send(&mut reading_at(START_MS + DAY_MS + 1))).await.expect("sent");
    expected.push((5, RefusalCode::TimeOutOfRange));
    let mut noise = readings(1, 0, 1);
    for index in 0..10_000_u64 {
        let time =
            storage_format::Millis::new(START_MS - 1_000_000 - i64::try_from(index * index % 977).expect("small"));
        let channel = storage_format::ChannelCode::new(2).expect("humidity");
        let logger = storage_format::LoggerId::new(1000 + index).expect("not zero");
        noise.push(logger, time.expect("a time"), &[(channel, index as f64 / 7.0)]).expect("a reading");
    }
    within(client.send(&mut noise)).await.expect("sent");
    expected.push((6, RefusalCode::TooLarge));
    within(client.send(&mut reading_at(START_MS + DAY_MS))).await.expect("sent");
    within(client.send(&mut readings(1, 10, 5))).await.expect("sent");

    let summary = within(client.finish()).await.expect("all frames have a response");
    let refused: Vec<_> = summary.refused.iter().map(|r| (r.sequence.get(), r.code)).collect();
    assert_eq!(refused, expected);
    assert_eq!((summary.acknowledged_frames, summary.refused_frames, summary.reconnects), (3, 5, 0));
    assert_eq!(harness.disk.sequences(id), [1, 7, 8]);
    let detail = &summary.refused[3].detail;
    assert!(detail.contains("2023-11-15T22:13:20.001Z"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_must_match_its_message() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let raw = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
    let mut stream = raw.open_stream(spool(1)).await;
    let frames = [
        bytes::Bytes::new(),
        bytes::Bytes::from_static(b"not a frame"),
        readings(1, 0, 1).encode(spool(2), sequence(3)),
        readings(1, 0, 1).encode(spool(1), sequence(3)),
    ];
    for (number, frame) in (1..).zip(frames) {
        stream.write(&Message::Frame { sequence: sequence(number), frame }).await;
        match stream.next_event().await {
            Some(ClientEvent::Refused { sequence: refused, code: RefusalCode::Malformed, .. }) => {
                assert_eq!(refused, sequence(number));
            }
            other => panic!("{other:?}"),
        }
    }
    let frame = readings(1, 0, 1).encode(spool(1), sequence(5));
    stream.write(&Message::Frame { sequence: sequence(5), frame }).await;
    assert_eq!(stream.next_event().await, Some(ClientEvent::Acknowledged { up_to: sequence(5) }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permanent_failure_of_the_sink_refuses_the_frame_and_all_after_it() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let sink = harness.sink(10, Mode::Manual);
    let server = harness.serve(&sink);
    let raw = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
    let mut stream = raw.open_stream(spool(1)).await;
    for number in 1..=2 {
        let frame = readings(1, usize::try_from(number).expect("small"), 1).encode(spool(1), sequence(number));
        stream.write(&Message::Frame { sequence: sequence(number), frame }).await;
    }
    wait_until("both are submitted", || sink.waiting() == 2).await;
    sink.commit(1);
    sink.fail(Some(RefusalCode::NotKept));
    sink.set(Mode::Immediate);
    let frame = readings(1, 3, 1).encode(spool(1), sequence(3));
    stream.write(&Message::Frame { sequence: sequence(3), frame }).await;
    let mut refused = Vec::new();
    while refused.len() < 2 {
        match stream.next_event().await {
            Some(ClientEvent::Acknowledged { up_to }) => assert_eq!(up_to, sequence(1)),
            Some(ClientEvent::Refused { sequence, code, .. }) => refused.push((sequence.get(), code)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, [(2, RefusalCode::NotKept), (3, RefusalCode::NotKept)]);
    // A new stream submits to the sink again.
    let mut stream = raw.open_stream(spool(1)).await;
    let frame = readings(1, 3, 1).encode(spool(1), sequence(3));
    stream.write(&Message::Frame { sequence: sequence(3), frame }).await;
    assert_eq!(stream.next_event().await, Some(ClientEvent::Acknowledged { up_to: sequence(3) }));
}
