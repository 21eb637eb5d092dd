//! Standings follow the database, whoever changes it; strangers cost it little; without it they end.

use storage_format::Millis;

use super::*;
use crate::data_dir::DataDir;
use crate::{Caller, Enrolment, NewGateway};

const SOON: Duration = Duration::from_secs(10);

fn now() -> Millis {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

fn caller() -> Caller {
    Caller::command(1_000, "ann")
}

struct House {
    _dir: tempfile::TempDir,
    data: DataDir,
    /// The server's.
    control: Control,
    /// As a command beside the server has it.
    beside: Control,
}

async fn house() -> House {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = DataDir::new(dir.path().join("data"));
    data.init("# settings\n", now()).await.expect("made");
    let control = data.open_control().await.expect("opened");
    let beside = data.open_control().await.expect("opened");
    House { _dir: dir, data, control, beside }
}

impl House {
    /// A gateway of an organisation, enrolled beside the server.
    async fn enroll(&self, org: &str, name: &str) -> [u8; 32] {
        let enrolment = Enrolment::open(&self.beside, &self.data).expect("an authority");
        let gateway = NewGateway { org, name, days: 1 };
        enrolment.enroll(&caller(), &gateway, now(), |_| Ok(())).await.expect("enrolled").fingerprint
    }
}

/// Waits until this is what the snapshot says without a look of its own.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < SOON, "not soon: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn snapshot(standings: &Standings) -> Arc<Snapshot> {
    standings.0.snapshot.load_full()
}

#[tokio::test]
async fn what_a_command_adds_is_known_at_once() {
    let house = house().await;
    // So seldom that only a miss can find it.
    let pace = Pace { poll: Duration::from_secs(3_600), wait_max: SOON, ..Pace::DEFAULT };
    let standings = Standings::with_pace(&house.control, pace).await.expect("read");
    let org = house.beside.create_org(&caller(), "north", now()).await.expect("made").id;
    let fingerprint = house.enroll("north", "dock").await;
    let found = standings.gateway(&fingerprint).await.expect("read").expect("known");
    assert_eq!((found.standing, found.expires), (Standing::Good(org), now().saturating_add(86_400_000)));
    let (id, secret) = house.beside.create_token(&caller(), org, "x", now()).await.expect("made");
    assert_eq!(standings.token(secret.expose()).await.expect("read"), Some(Standing::Good(org)));
    for wrong in [id.as_str(), "nonsense", &secret.expose().to_uppercase(), "ice_0"] {
        assert_eq!(standings.token(wrong).await.expect("read"), None, "{wrong}");
    }
    assert_eq!(standings.gateway(&[9; 32]).await.expect("read"), None);
    // Changes of this process are seen without a question.
    house.control.set_suspended(&caller(), "north", true, now()).await.expect("suspended");
    until("suspended", || snapshot(&standings).token(&sha256(secret.expose())) == Some(Standing::Suspended)).await;
    // A suspension that a command has lifted is lifted at once.
    house.beside.set_suspended(&caller(), "north", false, now()).await.expect("resumed");
    assert_eq!(standings.token(secret.expose()).await.expect("read"), Some(Standing::Good(org)));
}

#[tokio::test]
async fn what_a_command_revokes_is_known_soon_and_versions_tell() {
    let house = house().await;
    let org = house.control.create_org(&caller(), "north", now()).await.expect("made").id;
    let fingerprint = house.enroll("north", "dock").await;
    let (id, secret) = house.beside.create_token(&caller(), org, "x", now()).await.expect("made");
    let standings = Standings::start(&house.control).await.expect("read");
    let hash = sha256(secret.expose());
    let mut versions = vec![standings.version().expect("fresh")];
    let mut another = async |what: &str| {
        until(what, || standings.version().is_some_and(|version| !versions.contains(&version))).await;
        versions.push(standings.version().expect("fresh"));
    };
    house.beside.revoke_gateway(&caller(), org, "dock", now()).await.expect("revoked");
    another("a gateway revoked").await;
    assert_eq!(snapshot(&standings).gateway(&fingerprint).map(|found| found.standing), Some(Standing::Revoked));
    house.beside.revoke_token(&caller(), &id, now()).await.expect("revoked");
    another("a token revoked").await;
    assert_eq!(standings.token(secret.expose()).await.expect("read"), Some(Standing::Revoked));
    house.beside.set_suspended(&caller(), "north", true, now()).await.expect("suspended");
    another("an organisation suspended").await;
    // By somebody's own hand, beside the audit log.
    let mut hand = house.beside.watch().await.expect("a connection");
    for sql in ["PRAGMA query_only = OFF", "UPDATE tokens SET revoked_ms = NULL"] {
        sqlx::query(sql).execute(&mut hand).await.expect(sql);
    }
    another("by hand").await;
    assert_eq!(snapshot(&standings).token(&hash), Some(Standing::Suspended));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(standings.version(), versions.last().copied(), "nothing has changed since");
}

#[tokio::test]
async fn strangers_share_few_looks() {
    let house = house().await;
    let pace = Pace { gap: Duration::from_millis(50), wait_max: SOON, ..Pace::DEFAULT };
    let standings = Standings::with_pace(&house.control, pace).await.expect("read");
    let looks = || standings.0.begun.load(Ordering::Acquire);
    let (begun, before) = (Instant::now(), looks());
    for round in 0..5_u8 {
        let strangers = (0..200_u8).map(|index| {
            let standings = standings.clone();
            async move { standings.gateway(&[round.wrapping_mul(7) ^ index; 32]).await }
        });
        for answer in futures::future::join_all(strangers).await {
            assert_eq!(answer.expect("read"), None);
        }
    }
    let most = begun.elapsed().as_millis() / pace.gap.as_millis() + 2;
    assert!(u128::from(looks() - before) <= most, "{} looks, at most {most} expected", looks() - before);
    assert!(looks() - before <= 15, "1,000 strangers made {} looks", looks() - before);
}

#[tokio::test]
async fn without_the_database_answers_end_after_a_while() {
    let house = house().await;
    let org = house.control.create_org(&caller(), "north", now()).await.expect("made").id;
    let (_, secret) = house.control.create_token(&caller(), org, "x", now()).await.expect("made");
    let pace = Pace { poll: Duration::from_millis(20), stale_max: Duration::from_millis(1_500), ..Pace::DEFAULT };
    let standings = Standings::with_pace(&house.control, pace).await.expect("read");
    let mut hand = house.beside.watch().await.expect("a connection");
    sqlx::query("PRAGMA query_only = OFF").execute(&mut hand).await.expect("writable");
    let failing = || standings.0.ended.borrow().failed.is_some();
    sqlx::query("ALTER TABLE tokens RENAME TO gone").execute(&mut hand).await.expect("gone");
    until("looks fail", failing).await;
    // Those who are known stay so for a while; of others nobody knows.
    assert_eq!(standings.token(secret.expose()).await, Ok(Some(Standing::Good(org))));
    assert_eq!(standings.token("ice_other").await.expect_err("nobody knows").kind(), ErrorKind::Unavailable);
    assert!(standings.version().is_some());
    until("too old", || standings.version().is_none()).await;
    assert_eq!(standings.token(secret.expose()).await.expect_err("too old").kind(), ErrorKind::Unavailable);
    sqlx::query("ALTER TABLE gone RENAME TO tokens").execute(&mut hand).await.expect("back");
    until("looks succeed", || !failing()).await;
    assert_eq!(standings.token(secret.expose()).await, Ok(Some(Standing::Good(org))));
}

#[tokio::test]
async fn a_server_that_was_stopped_for_long_looks_before_it_answers() {
    let house = house().await;
    let org = house.control.create_org(&caller(), "north", now()).await.expect("made").id;
    let (id, secret) = house.control.create_token(&caller(), org, "x", now()).await.expect("made");
    let pace = Pace { poll: Duration::from_secs(3_600), stale_max: Duration::from_millis(200), ..Pace::DEFAULT };
    let standings = Standings::with_pace(&house.control, pace).await.expect("read");
    house.beside.revoke_token(&caller(), &id, now()).await.expect("revoked");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(standings.token(secret.expose()).await, Ok(Some(Standing::Revoked)));
}

/// Not a test of speed: it prints what a change costs among many gateways (`--ignored --nocapture`).
#[tokio::test]
#[ignore = "measures"]
async fn what_a_change_costs_among_many() {
    let house = house().await;
    house.control.create_org(&caller(), "north", now()).await.expect("made");
    let mut hand = house.beside.watch().await.expect("a connection");
    let many = "INSERT INTO gateways SELECT printf('%016x', value), (SELECT id FROM orgs), 'gw ' || value,
        randomblob(32), 0, 1, NULL FROM (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n
        WHERE value < 100000) SELECT value FROM n)";
    for sql in ["PRAGMA query_only = OFF", many] {
        sqlx::query(sql).execute(&mut hand).await.expect(sql);
    }
    let mut loader = Loader::new(house.control.clone());
    let begun = Instant::now();
    let all = loader.look(&Snapshot::default()).await.expect("read").expect("everything");
    println!("100,000 gateways read: {:?}", begun.elapsed());
    house.enroll("north", "one more").await;
    let begun = Instant::now();
    let next = loader.look(&all).await.expect("read").expect("one more");
    println!("one more: {:?}", begun.elapsed());
    let begun = Instant::now();
    assert!(loader.look(&next).await.expect("read").is_none());
    println!("nothing new: {:?}", begun.elapsed());
}
