//! The control database: organisations, gateways and tokens come back as they were made; the audit log only grows.

use super::*;

const NOW: Millis = Millis::EPOCH;

async fn fresh() -> (tempfile::TempDir, Control) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let control = Control::create(&dir.path().join("control.db")).await.expect("a fresh database");
    (dir, control)
}

fn gateway(id: u64, org: OrgId, name: &str, fingerprint: u8) -> NewGateway<'_> {
    NewGateway {
        id: GatewayId::new(id).expect("an id"),
        org,
        name,
        fingerprint: [fingerprint; 32],
        expires: NOW.saturating_add(1_000),
    }
}

use storage_format::GatewayId;

#[tokio::test]
async fn orgs_have_one_name() {
    let (_dir, control) = fresh().await;
    let org = control.create_org("North", NOW).await.expect("made");
    assert_eq!(control.org("north").await.expect("names ignore case"), org);
    assert_eq!(control.create_org("NORTH", NOW).await.expect_err("taken").kind(), ErrorKind::Taken);
    assert_eq!(control.org("South").await.expect_err("none").kind(), ErrorKind::NotFound);
    for bad in ["", " a", "a ", "a/b", "a\nb", "--data-dir", &"x".repeat(65)] {
        let error = control.create_org(bad, NOW).await.expect_err(bad);
        assert_eq!((error.kind(), error.subject()), (ErrorKind::Invalid, &Subject::Org), "{bad:?}");
    }
    assert_eq!(control.orgs().await.expect("listed"), vec![org]);
}

#[tokio::test]
async fn every_change_makes_another_version_whoever_makes_it() {
    let (dir, control) = fresh().await;
    let mut seen = vec![control.version().await.expect("read")];
    let same = async |seen: &[u64]| assert_eq!(Some(&control.version().await.expect("read")), seen.last());
    same(&seen).await;
    let changed = async |seen: &mut Vec<u64>| {
        let now = control.version().await.expect("read");
        assert!(!seen.contains(&now), "{now} again");
        seen.push(now);
    };
    let org = control.create_org("north", NOW).await.expect("made");
    changed(&mut seen).await;
    control.add_gateway(gateway(7, org.id, "cellar", 1), NOW).await.expect("added");
    changed(&mut seen).await;
    same(&seen).await;
    // As a command beside the server does.
    let other = Control::open(&dir.path().join("control.db")).await.expect("opened");
    other.set_suspended("north", true, NOW).await.expect("suspended");
    changed(&mut seen).await;
    control.gateway_standing(&[1; 32]).await.expect("read");
    same(&seen).await;
    *control.watch.lock().await = (1, None);
    changed(&mut seen).await;
}

#[tokio::test]
async fn tokens_are_known_by_their_hash_only() {
    let (dir, control) = fresh().await;
    let org = control.create_org("north", NOW).await.expect("made");
    let (id, secret) = control.create_token(org.id, "reports", NOW).await.expect("made");
    let standing = async |text: &str| control.token_standing(text).await.expect("read");
    assert_eq!(standing(secret.expose()).await, Some(Standing::Good(org.id)));
    assert_eq!(standing("nonsense").await, None);
    assert_eq!(standing(&secret.expose().to_uppercase()).await, None);
    assert_eq!(standing(&id).await, None, "the id is no secret and opens nothing");
    control.set_suspended("north", true, NOW).await.expect("suspended");
    assert_eq!(standing(secret.expose()).await, Some(Standing::Suspended));
    control.set_suspended("north", false, NOW).await.expect("resumed");
    control.revoke_token(&id, NOW).await.expect("revoked");
    assert_eq!(standing(secret.expose()).await, Some(Standing::Revoked));
    let again = control.revoke_token(&id, NOW).await.expect_err("once is enough");
    assert_eq!((again.kind(), again.subject()), (ErrorKind::NotFound, &Subject::Token));
    assert!(!format!("{secret:?}").contains(secret.expose()));
    control.close().await;
    for file in std::fs::read_dir(dir.path()).expect("listed") {
        let bytes = std::fs::read(file.expect("an entry").path()).expect("read");
        let found = bytes.windows(secret.expose().len()).any(|window| window == secret.expose().as_bytes());
        assert!(!found, "the secret is on the disk");
    }
}

#[tokio::test]
async fn gateways_are_known_by_fingerprint() {
    let (_dir, control) = fresh().await;
    let org = control.create_org("north", NOW).await.expect("made").id;
    let other = control.create_org("south", NOW).await.expect("made").id;
    control.add_gateway(gateway(1, org, "dock", 1), NOW).await.expect("added");
    assert_eq!(control.check_gateway_name(org, "Dock").await.expect_err("taken").kind(), ErrorKind::Taken);
    let taken = control.add_gateway(gateway(2, org, "DOCK", 2), NOW).await.expect_err("taken");
    assert_eq!((taken.kind(), taken.subject()), (ErrorKind::Taken, &Subject::Gateway));
    control.add_gateway(gateway(3, other, "dock", 3), NOW).await.expect("another org's names are its own");
    let (id, _, standing) = control.gateway_standing(&[1; 32]).await.expect("read").expect("known");
    assert_eq!((id.get(), standing), (1, Standing::Good(org)));
    assert_eq!(control.gateway_standing(&[9; 32]).await.expect("read"), None);
    assert!(control.gateways_shut_out().await.expect("read").is_empty());
    control.revoke_gateway(org, "dock", NOW).await.expect("revoked");
    let shut_out = control.gateways_shut_out().await.expect("read");
    assert_eq!(shut_out, vec![(id, Standing::Revoked)]);
    control.add_gateway(gateway(4, org, "dock", 4), NOW).await.expect("a revoked one's name is free again");
    assert_eq!(control.gateways().await.expect("listed").len(), 3);
    let orphan = gateway(5, OrgId::new(5).expect("an id"), "x", 5);
    assert!(control.add_gateway(orphan, NOW).await.is_err(), "foreign keys are on");
}

#[tokio::test]
async fn every_act_is_recorded_and_the_record_stays() {
    let (_dir, control) = fresh().await;
    let org = control.create_org("north", NOW).await.expect("made").id;
    let (id, secret) = control.create_token(org, "reports", NOW).await.expect("made");
    control.revoke_token(&id, NOW).await.expect("revoked");
    control.add_gateway(gateway(1, org, "dock", 1), NOW).await.expect("added");
    control.revoke_gateway(org, "dock", NOW).await.expect("revoked");
    let audit = control.audit().await.expect("read");
    let acts: Vec<_> = audit.iter().map(|entry| entry.act.as_str()).collect();
    assert_eq!(acts, ["org create", "token create", "token revoke", "gateway enroll", "gateway revoke"]);
    assert!(audit.iter().all(|entry| entry.org == Some(org) && !entry.detail.contains(secret.expose())));
    for sql in ["DELETE FROM audit", "UPDATE audit SET actor = 'nobody'"] {
        assert!(sqlx::query(sql).execute(&control.pool).await.is_err(), "{sql}");
    }
    assert_eq!(control.audit().await.expect("read").len(), 5);
}

#[tokio::test]
async fn opens_what_is_there_and_nothing_else() {
    let (dir, control) = fresh().await;
    let path = dir.path().join("control.db");
    control.set_meta("a", "b").await.expect("written");
    assert!(control.set_meta("a", "c").await.is_err());
    // A second process beside the first.
    let second = Control::open(&path).await.expect("opened beside");
    second.create_org("north", NOW).await.expect("made");
    assert_eq!(control.orgs().await.expect("listed").len(), 1);
    assert_eq!(second.meta("a").await.expect("read").as_deref(), Some("b"));
    assert!(Control::create(&path).await.is_err());
    let missing = Control::open(&dir.path().join("missing.db")).await.expect_err("missing");
    assert_eq!((missing.kind(), missing.subject()), (ErrorKind::NotFound, &Subject::Database));
    std::fs::write(dir.path().join("text.db"), "this is no database, but a text that is long enough to be one")
        .expect("written");
    assert_eq!(Control::open(&dir.path().join("text.db")).await.expect_err("a text").kind(), ErrorKind::Corrupt);
}
