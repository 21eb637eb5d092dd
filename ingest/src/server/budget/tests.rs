//! One gateway and one organisation get their part and no more, waiting tasks are served, and all bytes are released.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use storage_format::GatewayId;

use super::*;

const MIB: usize = 1 << 20;

fn limits() -> IngestLimits {
    IngestLimits { frame_bytes_max: 65_536, frame_memory_bytes: 64 * MIB, ..IngestLimits::default() }
}

fn gateway(org: u64, gateway: u64) -> Option<GatewayIdentity> {
    let (org, gateway) = (OrgId::new(org).expect("not zero"), GatewayId::new(gateway).expect("not zero"));
    Some(GatewayIdentity { org, gateway })
}

/// Reserves items until the share gets no more.
fn reserve_all(share: &Share, stage: Stage, bytes: usize) -> Vec<Reservation> {
    std::iter::from_fn(|| share.try_reserve(stage, bytes)).collect()
}

fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_gateway_gets_a_sixteenth_and_an_organisation_half() {
    let budget = Budget::new(&limits());
    let item = limits().incomplete_frame_bytes_max();
    let first = budget.share(gateway(1, 1));
    let held = reserve_all(&first, Stage::Receiving, item);
    assert_eq!(held.len(), MIB / item, "a sixteenth of a quarter of 64 MiB");
    // Another connection of the same gateway uses the same permits; another stage has bytes of its own.
    let again = budget.share(gateway(1, 1));
    assert!(again.try_reserve(Stage::Receiving, item).is_none());
    assert!(again.try_reserve(Stage::Decoded, item).is_some());

    let others: Vec<Share> = (2..=32).map(|number| budget.share(gateway(1, number))).collect();
    let theirs: Vec<Reservation> = others.iter().flat_map(|share| reserve_all(share, Stage::Receiving, item)).collect();
    let org = (held.len() + theirs.len()) * item;
    assert!(org <= 8 * MIB && org > 7 * MIB, "{org}");
    assert_eq!(budget.held(Stage::Receiving), org);

    let stranger = budget.share(gateway(2, 1));
    assert_eq!(reserve_all(&stranger, Stage::Receiving, item).len(), MIB / item, "another organisation has its own");
    // All refused connections use the same permits.
    let (refused, refused_too) = (budget.share(None), budget.share(None));
    let some = reserve_all(&refused, Stage::Receiving, item);
    assert_eq!(some.len(), MIB / item);
    assert!(refused_too.try_reserve(Stage::Receiving, item).is_none());
}

#[test]
fn all_gateways_together_get_the_whole_stage() {
    let budget = Budget::new(&limits());
    let item = limits().incomplete_frame_bytes_max();
    let shares: Vec<Share> = (1..=40).map(|number| budget.share(gateway(number, number))).collect();
    let held: Vec<Reservation> = shares.iter().flat_map(|share| reserve_all(share, Stage::Receiving, item)).collect();
    let all = held.len() * item;
    assert!(all <= 16 * MIB && all > 15 * MIB, "{all}");
}

#[test]
fn the_largest_item_fits_the_smallest_memory() {
    let mut limits = IngestLimits { frame_memory_bytes: 64 * MIB, ..IngestLimits::default() };
    while limits.check().is_ok() {
        limits.frame_memory_bytes -= MIB / 2;
    }
    limits.frame_memory_bytes += MIB / 2;
    let budget = Budget::new(&limits);
    let share = budget.share(gateway(1, 1));
    for (stage, bytes) in [
        (Stage::Windows, limits.extra_window_bytes() as usize),
        (Stage::Receiving, limits.incomplete_frame_bytes_max()),
        (Stage::Decoded, limits.decoded_frame_bytes_max()),
    ] {
        assert!(share.try_reserve(stage, bytes).is_some(), "{stage:?}");
    }
}

#[test]
fn waiting_tasks_are_served_in_order_and_no_bytes_are_lost() {
    let budget = Budget::new(&limits());
    let item = limits().incomplete_frame_bytes_max();
    let share = budget.share(gateway(1, 1));
    let mut held = reserve_all(&share, Stage::Receiving, item);
    {
        let mut waits = pin!(share.reserve(Stage::Receiving, item));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        held.pop();
        // The waiting task is first.
        assert!(share.try_reserve(Stage::Receiving, item).is_none());
        assert!(waits.as_mut().poll(&mut context).is_ready());
    }
    // A task that gave up waiting holds nothing.
    held.push(share.try_reserve(Stage::Receiving, item).expect("released"));
    assert!(poll(share.reserve(Stage::Receiving, item)).is_pending());
    drop(held);
    assert_eq!(budget.held(Stage::Receiving), 0);
    drop(share);
    assert!(lock(&budget.orgs).is_empty() && lock(&budget.gateways).is_empty());
}
