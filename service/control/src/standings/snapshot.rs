//! All gateways and tokens with their standing, as they were at one instant. Immutable: a change makes the next one, which
//! shares with it all but the parts that have changed.

use std::collections::HashMap;
use std::sync::Arc;

use storage_format::{GatewayId, Millis, OrgId};

use super::{GatewayStanding, Standing};

/// In how many parts a table is, by a hash's first byte: with 100,000 gateways a change copies 400 of them.
const PARTS: usize = 256;

/// A gateway as the database has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GatewayRow {
    pub(super) id: GatewayId,
    pub(super) org: OrgId,
    pub(super) expires: Millis,
    pub(super) revoked: bool,
}

/// A token as the database has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TokenRow {
    pub(super) org: OrgId,
    pub(super) revoked: bool,
}

/// Rows by a SHA-256.
#[derive(Debug, Clone)]
struct ByHash<T>(Vec<Arc<HashMap<[u8; 32], T>>>);

impl<T> Default for ByHash<T> {
    fn default() -> Self {
        Self((0..PARTS).map(|_| Arc::default()).collect())
    }
}

impl<T: Copy> ByHash<T> {
    fn get(&self, hash: &[u8; 32]) -> Option<T> {
        self.0[usize::from(hash[0])].get(hash).copied()
    }

    fn set(&mut self, hash: [u8; 32], row: T) {
        Arc::make_mut(&mut self.0[usize::from(hash[0])]).insert(hash, row);
    }
}

/// Everything, at one instant.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    version: u64,
    /// The last entry of the audit log that is in it.
    pub(super) audited: i64,
    /// Whether each organisation is suspended.
    orgs: Arc<HashMap<OrgId, bool>>,
    gateways: ByHash<GatewayRow>,
    tokens: ByHash<TokenRow>,
}

impl Snapshot {
    /// The beginning of the one that comes after this one.
    pub(super) fn next(&self) -> Self {
        Self { version: self.version + 1, ..self.clone() }
    }

    /// The beginning of the one that comes after this one, with nothing in it.
    pub(super) fn next_empty(&self) -> Self {
        Self { version: self.version + 1, ..Self::default() }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn set_org(&mut self, org: OrgId, suspended: bool) {
        Arc::make_mut(&mut self.orgs).insert(org, suspended);
    }

    pub(super) fn set_gateway(&mut self, fingerprint: [u8; 32], row: GatewayRow) {
        self.gateways.set(fingerprint, row);
    }

    pub(super) fn set_token(&mut self, hash: [u8; 32], row: TokenRow) {
        self.tokens.set(hash, row);
    }

    pub(super) fn gateway(&self, fingerprint: &[u8; 32]) -> Option<GatewayStanding> {
        let GatewayRow { id, org, expires, revoked } = self.gateways.get(fingerprint)?;
        Some(GatewayStanding { id, expires, standing: self.standing(org, revoked)? })
    }

    pub(super) fn token(&self, hash: &[u8; 32]) -> Option<Standing> {
        let TokenRow { org, revoked } = self.tokens.get(hash)?;
        self.standing(org, revoked)
    }

    fn standing(&self, org: OrgId, revoked: bool) -> Option<Standing> {
        Some(match (revoked, self.orgs.get(&org)?) {
            (true, _) => Standing::Revoked,
            (false, true) => Standing::Suspended,
            (false, false) => Standing::Good(org),
        })
    }
}
