-- Imports of files by commands on this machine. Rows stay for ever: readings name them, in the column `gateway`, as where
-- they came from. An import without an end was interrupted, or is under way.
CREATE TABLE imports (
    id          TEXT PRIMARY KEY CHECK (length(id) = 16),
    org         TEXT NOT NULL REFERENCES orgs (id),
    -- The store of numbered frames that its readings were packed into.
    spool       TEXT NOT NULL CHECK (length(spool) = 16),
    -- What its frames depend on: the files as they were found, the options, the version of the packing.
    source      TEXT NOT NULL CHECK (json_valid(source)),
    -- The names of the files alone, for people.
    files       TEXT NOT NULL CHECK (json_valid(files)),
    time_min_ms INTEGER NOT NULL,
    time_max_ms INTEGER NOT NULL,
    started_by  TEXT NOT NULL,
    started_ms  INTEGER NOT NULL,
    ended_ms    INTEGER,
    outcome     TEXT CHECK (outcome IN ('done', 'failed')),
    readings    INTEGER,
    CHECK ((ended_ms IS NULL) = (outcome IS NULL))
) STRICT;

CREATE INDEX imports_open ON imports (org) WHERE ended_ms IS NULL;
