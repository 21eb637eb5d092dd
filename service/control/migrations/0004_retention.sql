-- How long readings are kept, and what was dropped when they were kept long enough.

-- Organisations without a row keep their readings for ever. Two years are the least, whoever writes here.
CREATE TABLE retention (
    org         TEXT PRIMARY KEY REFERENCES orgs (id),
    keep        TEXT NOT NULL,
    keep_months INTEGER NOT NULL CHECK (keep_months >= 24),
    set_ms      INTEGER NOT NULL
) STRICT;

-- One row per drop, written before the readings go. `plan` says what is to go; `outcome` is missing until it is known
-- whether they went. Rows stay for ever.
CREATE TABLE retention_drops (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    org      TEXT NOT NULL REFERENCES orgs (id),
    plan     TEXT NOT NULL CHECK (json_valid(plan)),
    begun_ms INTEGER NOT NULL,
    ended_ms INTEGER,
    outcome  TEXT CHECK (outcome IS NULL OR outcome IN ('dropped', 'void'))
) STRICT;

CREATE INDEX retention_drops_open ON retention_drops (org) WHERE outcome IS NULL;
