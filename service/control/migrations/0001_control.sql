-- The control database: who may send and who may ask. Readings are never in here.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE orgs (
    id           TEXT PRIMARY KEY CHECK (length(id) = 16),
    name         TEXT NOT NULL COLLATE NOCASE UNIQUE,
    created_ms   INTEGER NOT NULL,
    suspended_ms INTEGER
) STRICT;

-- One row per enrolment, that is, per certificate. Rows stay for ever: readings name them as where they came from.
CREATE TABLE gateways (
    id          TEXT PRIMARY KEY CHECK (length(id) = 16),
    org         TEXT NOT NULL REFERENCES orgs (id),
    name        TEXT NOT NULL COLLATE NOCASE,
    fingerprint BLOB NOT NULL UNIQUE CHECK (length(fingerprint) = 32),
    created_ms  INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL,
    revoked_ms  INTEGER
) STRICT;

-- A name can be used again once its former bearer is revoked.
CREATE UNIQUE INDEX gateways_name ON gateways (org, name) WHERE revoked_ms IS NULL;

CREATE TABLE tokens (
    id         TEXT PRIMARY KEY CHECK (length(id) = 16),
    org        TEXT NOT NULL REFERENCES orgs (id),
    name       TEXT NOT NULL,
    sha256     BLOB NOT NULL UNIQUE CHECK (length(sha256) = 32),
    last_four  TEXT NOT NULL CHECK (length(last_four) = 4),
    created_ms INTEGER NOT NULL,
    revoked_ms INTEGER
) STRICT;

CREATE INDEX tokens_org ON tokens (org);

-- Administrative acts, in the order in which they happened.
CREATE TABLE audit (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms  INTEGER NOT NULL,
    actor  TEXT NOT NULL,
    act    TEXT NOT NULL,
    org    TEXT,
    detail TEXT NOT NULL
) STRICT;

CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit table is append-only');
END;

CREATE TRIGGER audit_is_never_shortened BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit table is append-only');
END;
