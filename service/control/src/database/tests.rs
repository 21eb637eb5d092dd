//! The control database: organisations, gateways and tokens come back as they were made; the audit log only grows; no
//! change is made beside it.

use serde_json::{Value, json};
use storage_format::GatewayId;

use super::doors::Entry;
use super::*;
use crate::Caller;
use crate::Keep;
use crate::caller::{Actor, ActorKind, Via, ViaKind};
use crate::enrolment::{Identity, NewGateway};

const NOW: Millis = Millis::EPOCH;

fn caller() -> Caller {
    Caller::command(1_000, "ann")
}

async fn fresh() -> (tempfile::TempDir, Control) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let control = Control::create(&dir.path().join("control.db")).await.expect("a fresh database");
    (dir, control)
}

async fn open(path: &Path) -> Result<Control> {
    Control::open(path, &Schema::current(), async || Ok(None)).await
}

/// Adds a gateway with this id and fingerprint, without a certificate.
async fn add(control: &Control, org: &str, name: &str, number: u8) -> Result<GatewayId> {
    let gateway = NewGateway { org, name, days: 1 };
    let issue = |org: &Org, gateway: &NewGateway<'_>| {
        Ok(Identity {
            gateway: GatewayId::new(u64::from(number)).expect("an id"),
            name: gateway.name.to_owned(),
            org: org.id,
            org_name: org.name.clone(),
            certificate_pem: String::new(),
            key_pem: String::new(),
            ca_pem: String::new(),
            expires: NOW.saturating_add(1_000),
            fingerprint: [number; 32],
        })
    };
    let mut added = control.add_gateways(&caller(), &[gateway], NOW, issue, |_| Ok(())).await?;
    Ok(added.pop().expect("one").gateway)
}

async fn entries(control: &Control) -> Vec<AuditEntry> {
    control.audit_page(None, 0, 1_000).await.expect("read")
}

#[tokio::test]
async fn orgs_have_one_name() {
    let (_dir, control) = fresh().await;
    let org = control.create_org(&caller(), "North", NOW).await.expect("made");
    assert_eq!(control.org("north").await.expect("names ignore case"), org);
    let taken = control.create_org(&caller(), "NORTH", NOW).await.expect_err("taken");
    assert_eq!((taken.kind(), taken.subject()), (ErrorKind::Taken, &Subject::Org));
    assert_eq!(control.org("South").await.expect_err("none").kind(), ErrorKind::NotFound);
    for bad in ["", " a", "a ", "a/b", "a\nb", "--data-dir", &"x".repeat(65)] {
        let error = control.create_org(&caller(), bad, NOW).await.expect_err(bad);
        assert_eq!((error.kind(), error.subject()), (ErrorKind::Invalid, &Subject::Org), "{bad:?}");
    }
    assert_eq!(control.orgs().await.expect("listed"), vec![org]);
    assert_eq!(entries(&control).await.len(), 1, "what failed has changed nothing");
}

#[tokio::test]
async fn a_suspension_lasts_from_its_first_time_on() {
    let (_dir, control) = fresh().await;
    control.create_org(&caller(), "north", NOW).await.expect("made");
    let later = NOW.saturating_add(1_000);
    let set = async |suspended, now| {
        control.set_suspended(&caller(), "north", suspended, now).await.expect("written").suspended
    };
    assert_eq!(set(true, NOW).await, Some(NOW));
    assert_eq!(set(true, later).await, Some(NOW), "it is suspended already");
    assert_eq!(set(false, later).await, None);
    assert_eq!(set(false, later).await, None);
    let (on, off) = (json!({"suspended": NOW.to_string()}), json!({"suspended": null}));
    let states: Vec<_> = entries(&control).await.into_iter().skip(1).map(|e| (e.action, e.before, e.after)).collect();
    let expected =
        [("org.suspend", &off, &on), ("org.suspend", &on, &on), ("org.resume", &on, &off), ("org.resume", &off, &off)]
            .map(|(action, before, after)| (action.to_owned(), Some(before.clone()), Some(after.clone())));
    assert_eq!(states, expected);
    let none = control.set_suspended(&caller(), "south", true, NOW).await.expect_err("none");
    assert_eq!((none.kind(), none.subject()), (ErrorKind::NotFound, &Subject::Org));
}

#[tokio::test]
async fn tokens_are_kept_as_their_hash_only() {
    let (dir, control) = fresh().await;
    let org = control.create_org(&caller(), "north", NOW).await.expect("made");
    let (id, secret) = control.create_token(&caller(), org.id, "reports", NOW).await.expect("made");
    control.revoke_token(&caller(), &id, NOW).await.expect("revoked");
    let again = control.revoke_token(&caller(), &id, NOW).await.expect_err("once is enough");
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
async fn a_gateways_name_is_free_again_once_it_is_revoked() {
    let (_dir, control) = fresh().await;
    let org = control.create_org(&caller(), "north", NOW).await.expect("made").id;
    control.create_org(&caller(), "south", NOW).await.expect("made");
    let id = add(&control, "north", "dock", 1).await.expect("added");
    let taken = add(&control, "north", "DOCK", 2).await.expect_err("taken");
    assert_eq!((taken.kind(), taken.subject()), (ErrorKind::Taken, &Subject::Gateway));
    add(&control, "south", "dock", 3).await.expect("another org's names are its own");
    assert_eq!(control.revoke_gateway(&caller(), org, "dock", NOW).await.expect("revoked"), id);
    assert_eq!(
        control.revoke_gateway(&caller(), org, "dock", NOW).await.expect_err("none").kind(),
        ErrorKind::NotFound
    );
    add(&control, "north", "dock", 4).await.expect("a revoked one's name is free again");
    assert_eq!(control.gateways().await.expect("listed").len(), 3);
    assert_eq!(add(&control, "west", "x", 5).await.expect_err("none").subject(), &Subject::Org);
}

#[tokio::test]
async fn readings_are_kept_for_ever_until_a_policy_says_less() {
    let (_dir, control) = fresh().await;
    let org = control.create_org(&caller(), "north", NOW).await.expect("made").id;
    control.create_org(&caller(), "south", NOW).await.expect("made");
    assert_eq!(control.retention(org).await.expect("read"), Keep::ForEver);
    let set = async |keep: &str| {
        let keep = keep.parse().expect("a policy");
        control.set_retention(&caller(), "North", keep, NOW).await.expect("set").1.to_string()
    };
    assert_eq!(set("3y").await, "for ever");
    assert_eq!(set("30mo").await, "3y");
    assert_eq!(control.retention(org).await.expect("read"), Keep::Months(30));
    assert_eq!(control.retentions().await.expect("read"), [(org, Keep::Months(30))]);
    assert_eq!(set("for ever").await, "30mo");
    assert_eq!(control.retentions().await.expect("read"), []);
    let none = control.set_retention(&caller(), "west", Keep::Years(3), NOW).await.expect_err("none");
    assert_eq!((none.kind(), none.subject()), (ErrorKind::NotFound, &Subject::Org));
    // A value that did not come through the parser meets the database's own rule, and leaves nothing behind.
    let before = entries(&control).await.len();
    assert!(control.set_retention(&caller(), "north", Keep::Months(23), NOW).await.is_err());
    assert_eq!(control.retention(org).await.expect("read"), Keep::ForEver);
    let audit = entries(&control).await;
    assert_eq!(audit.len(), before);
    let last = audit.last().expect("entries");
    assert_eq!((last.action.as_str(), &last.before), ("retention.set", &Some(json!({"keep": "30mo"}))));
}

#[tokio::test]
async fn a_drop_is_recorded_before_and_after() {
    let (_dir, control) = fresh().await;
    let org = control.create_org(&caller(), "north", NOW).await.expect("made").id;
    let other = control.create_org(&caller(), "south", NOW).await.expect("made").id;
    let plan = json!({"segments": ["000102030405060708090a0b0c0d0e0f"], "version": 7});
    let begin = async |keep| control.begin_drop(&caller(), org, keep, &plan, NOW).await;
    // Only under the policy that is in force, which for ever never is.
    assert_eq!(begin(Keep::ForEver).await.expect_err("no policy").kind(), ErrorKind::Forbidden);
    control.set_retention(&caller(), "north", Keep::Years(2), NOW).await.expect("set");
    assert_eq!(begin(Keep::Years(3)).await.expect_err("another policy").kind(), ErrorKind::Forbidden);
    let first = begin(Keep::Years(2)).await.expect("begun");
    let second = begin(Keep::Years(2)).await.expect("begun");
    assert_ne!(first, second);
    let open = async |org| control.open_drops(org).await.expect("read");
    assert_eq!(open(org).await, [first, second].map(|id| OpenDrop { id, plan: plan.clone() }));
    assert_eq!(open(other).await, []);
    let end = async |id, outcome| control.end_drop(&caller(), id, outcome, NOW).await;
    // What is open is looked at under any policy.
    let set = async |keep| control.set_retention(&caller(), "north", keep, NOW).await.expect("set");
    assert_eq!(control.retentions().await.expect("read"), [(org, Keep::Years(2))]);
    set(Keep::ForEver).await;
    assert_eq!(control.retentions().await.expect("read"), [(org, Keep::ForEver)]);
    end(first, DropOutcome::Dropped).await.expect("ended");
    end(second, DropOutcome::Void).await.expect("ended");
    let audit = entries(&control).await;
    end(first, DropOutcome::Void).await.expect("stays as it is");
    assert_eq!(entries(&control).await, audit);
    assert_eq!(open(org).await, []);
    assert_eq!(control.retentions().await.expect("read"), []);
    assert_eq!(end(99, DropOutcome::Void).await.expect_err("none").kind(), ErrorKind::NotFound);
    let actions: Vec<_> = audit.iter().skip(3).map(|entry| (entry.action.as_str(), entry.org)).collect();
    let expected = ["retention.drop", "retention.drop", "retention.set", "retention.dropped", "retention.void"];
    assert_eq!(actions, expected.map(|action| (action, Some(org))));
    assert_eq!(audit[3].before.as_ref(), Some(&plan), "for ever");
    assert_eq!(audit[6].target, json!({"org": org.to_string(), "drop": first}));
}

#[tokio::test]
async fn every_act_is_recorded_and_the_record_stays() {
    let (_dir, control) = fresh().await;
    let org = control.create_org(&caller(), "north", NOW).await.expect("made").id;
    let other = control.create_org(&caller(), "south", NOW).await.expect("made").id;
    let (id, secret) = control.create_token(&caller(), org, "reports", NOW).await.expect("made");
    control.revoke_token(&caller(), &id, NOW).await.expect("revoked");
    add(&control, "north", "dock", 1).await.expect("added");
    let person = Caller {
        actor: Actor { kind: ActorKind::User, id: Some("u1".into()), name: "Bea".into() },
        via: Via { kind: ViaKind::Session, id: Some("s1".into()) },
        from: Some("192.0.2.1".into()),
        request_id: Some("r1".into()),
    };
    control.revoke_gateway(&person, org, "dock", NOW).await.expect("revoked");
    let audit = entries(&control).await;
    let actions: Vec<_> = audit.iter().map(|entry| entry.action.as_str()).collect();
    let expected = ["org.create", "org.create", "token.create", "token.revoke", "gateway.enroll", "gateway.revoke"];
    assert_eq!(actions, expected);
    assert!(audit.iter().all(|entry| !entry.to_json().to_string().contains(secret.expose())));
    assert_eq!((&audit[0].actor, &audit[0].via), (&caller().actor, &caller().via));
    assert_eq!(
        audit[5].to_json(),
        json!({
            "id": 6, "at": "1970-01-01T00:00:00.000Z", "actor": {"kind": "user", "id": "u1", "name": "Bea"},
            "action": "gateway.revoke", "target": {"gateway": "0000000000000001"}, "org": org.to_string(),
            "from": "192.0.2.1", "via": {"kind": "session", "id": "s1"}, "result": "ok",
            "before": {"revoked": null}, "after": {"revoked": "1970-01-01T00:00:00.000Z"}, "request_id": "r1",
        })
    );
    // By organisation, and page by page.
    let ids = async |org, after, limit| -> Vec<i64> {
        control.audit_page(org, after, limit).await.expect("read").iter().map(|entry| entry.id).collect()
    };
    assert_eq!(ids(Some(other), 0, 10).await, [2]);
    assert_eq!(ids(Some(org), 0, 2).await, [1, 3]);
    assert_eq!(ids(Some(org), 3, 2).await, [4, 5]);
    assert_eq!(ids(None, 6, 2).await, [0; 0]);
    let replace = "REPLACE INTO audit (id, at_ms, actor_kind, actor_name, action, target, via_kind, result)
        VALUES (1, 1, 'command', 'nobody', 'a.b', '{}', 'command', 'ok')";
    for sql in ["DELETE FROM audit", "UPDATE audit SET actor_name = 'nobody'", replace] {
        let error = sqlx::query(sql).execute(control.doors.schema()).await.expect_err(sql);
        assert!(error.to_string().contains("append-only"), "{sql}: {error}");
    }
    assert_eq!(entries(&control).await, audit);
}

#[tokio::test]
async fn there_is_no_way_to_write_beside_the_audit_log() {
    let (_dir, control) = fresh().await;
    control.create_org(&caller(), "north", NOW).await.expect("made");
    let insert = "INSERT INTO orgs (id, name, created_ms) VALUES ('0000000000000001', 'x', 0)";
    let error = sqlx::query(insert).execute(control.doors.readers()).await.expect_err("only for reading");
    assert!(error.to_string().contains("readonly"), "{error}");
    let caller = caller();
    let mut act = control.doors.act(&caller, NOW).await.expect("begun");
    assert!(act.look_up(sqlx::query(insert)).await.is_err(), "nor within an act");
    act.commit().await.expect("nothing to commit");
    // An act that fails, or is given up, leaves nothing and is in nobody's way.
    let mut act = control.doors.act(&caller, NOW).await.expect("begun");
    let entry = || Entry { action: "org.create", target: json!({}), org: None, before: None, after: None };
    act.change(sqlx::query(insert), entry()).await.expect("changed");
    act.look_up(sqlx::query("SELECT 1")).await.expect("read");
    drop(act);
    let mut act = control.doors.act(&caller, NOW).await.expect("begun");
    // The entry cannot be written, so the change cannot be committed either.
    let unnamed = Entry { action: "create", ..entry() };
    assert!(act.change(sqlx::query(insert), unnamed).await.is_err());
    drop(act);
    assert_eq!(control.orgs().await.expect("listed").len(), 1);
    control.create_org(&caller, "x", NOW).await.expect("the name is free");
}

#[tokio::test]
async fn the_log_of_the_first_version_is_carried_over() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("control.db");
    let doors = Doors::open(&path, true).await.expect("made");
    Schema::first(1).apply(doors.schema()).await.expect("the old tables");
    let org = "00000000000000aa";
    for sql in [
        "INSERT INTO orgs VALUES ('00000000000000aa', 'north', 0, NULL)",
        "INSERT INTO gateways VALUES ('00000000000000bb', '00000000000000aa', 'dock', zeroblob(32), 1, 2, NULL)",
        "INSERT INTO audit VALUES (3, 1000, 'ann', 'org create', '00000000000000aa', '')",
        "INSERT INTO audit VALUES (4, 2000, 'bea', 'gateway enroll', '00000000000000aa', 'gateway 00000000000000bb')",
        "INSERT INTO audit VALUES (9, 3000, 'ann', 'token revoke', '00000000000000aa', 'token 00000000000000cc')",
    ] {
        sqlx::query(sql).execute(doors.schema()).await.expect(sql);
    }
    doors.close().await;

    let control = open(&path).await.expect("opened");
    let entry = |id: i64, at: &str, name: &str, action: &str, target: Value| {
        json!({
            "id": id, "at": at, "actor": {"kind": "command", "id": null, "name": name}, "action": action,
            "target": target, "org": org, "from": null, "via": {"kind": "command", "id": null}, "result": "ok",
            "before": null, "after": null, "request_id": null,
        })
    };
    let audit: Vec<_> = entries(&control).await.iter().map(AuditEntry::to_json).collect();
    assert_eq!(
        audit,
        [
            entry(3, "1970-01-01T00:00:01.000Z", "ann", "org.create", json!({"org": org})),
            entry(4, "1970-01-01T00:00:02.000Z", "bea", "gateway.enroll", json!({"gateway": "00000000000000bb"})),
            entry(9, "1970-01-01T00:00:03.000Z", "ann", "token.revoke", json!({"token": "00000000000000cc"})),
        ]
    );
    assert!(sqlx::query("DELETE FROM audit").execute(control.doors.schema()).await.is_err(), "still append-only");
    control.set_suspended(&caller(), "north", true, NOW).await.expect("suspended");
    assert_eq!(entries(&control).await.last().expect("one more").id, 10);
    assert_eq!(control.gateways().await.expect("listed")[0].name, "dock");
}

#[tokio::test]
async fn opens_what_is_there_and_nothing_else() {
    let (dir, control) = fresh().await;
    let path = dir.path().join("control.db");
    control.set_meta("a", "b").await.expect("written");
    assert!(control.set_meta("a", "c").await.is_err());
    // A second process beside the first.
    let second = open(&path).await.expect("opened beside");
    second.create_org(&caller(), "north", NOW).await.expect("made");
    assert_eq!(control.orgs().await.expect("listed").len(), 1);
    assert_eq!(second.meta("a").await.expect("read").as_deref(), Some("b"));
    assert_eq!(Control::create(&path).await.expect_err("there is one").kind(), ErrorKind::Taken);
    let missing = open(&dir.path().join("missing.db")).await.expect_err("missing");
    assert_eq!((missing.kind(), missing.subject()), (ErrorKind::NotFound, &Subject::Database));
    std::fs::write(dir.path().join("text.db"), "this is no database, but a text that is long enough to be one")
        .expect("written");
    assert_eq!(open(&dir.path().join("text.db")).await.expect_err("a text").kind(), ErrorKind::Corrupt);
}
