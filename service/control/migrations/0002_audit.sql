-- The audit log says who acted, through what, upon what, and what it was before and after. Old entries are carried over.

DROP TRIGGER audit_is_never_changed;
DROP TRIGGER audit_is_never_shortened;
ALTER TABLE audit RENAME TO audit_1;

-- Every change of the tables above, but for `meta`, in the order in which they happened. `target`, `before` and `after`
-- are JSON objects; a target names each thing by its kind: {"token": "0123456789abcdef"}. No secret is ever in here.
CREATE TABLE audit (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms      INTEGER NOT NULL,
    actor_kind TEXT NOT NULL CHECK (actor_kind IN ('user', 'token', 'gateway', 'support', 'admin', 'command')),
    actor_id   TEXT,
    actor_name TEXT NOT NULL,
    action     TEXT NOT NULL CHECK (action GLOB '[a-z]*.[a-z]*'),
    target     TEXT NOT NULL CHECK (json_valid(target)),
    org        TEXT,
    "from"     TEXT,
    via_kind   TEXT NOT NULL CHECK (via_kind IN ('session', 'token', 'link', 'command')),
    via_id     TEXT,
    result     TEXT NOT NULL CHECK (result IN ('ok', 'refused')),
    before     TEXT CHECK (before IS NULL OR json_valid(before)),
    after      TEXT CHECK (after IS NULL OR json_valid(after)),
    request_id TEXT
) STRICT;

-- The old log had `noun verb`, and the id in a text such as `token 0123456789abcdef`; only commands wrote it.
INSERT INTO audit (id, at_ms, actor_kind, actor_name, action, target, org, via_kind, result)
SELECT
    id,
    at_ms,
    'command',
    actor,
    replace(act, ' ', '.'),
    CASE
        WHEN detail LIKE 'token %' THEN json_object('token', substr(detail, 7))
        WHEN detail LIKE 'gateway %' THEN json_object('gateway', substr(detail, 9))
        WHEN detail <> '' THEN json_object('detail', detail)
        ELSE json_object('org', org)
    END,
    org,
    'command',
    'ok'
FROM audit_1
ORDER BY id;

DROP TABLE audit_1;

CREATE INDEX audit_org ON audit (org, id);

CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit table is append-only');
END;

CREATE TRIGGER audit_is_never_shortened BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit table is append-only');
END;

-- SQLite fires no DELETE trigger for what REPLACE removes.
CREATE TRIGGER audit_is_never_replaced BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'the audit table is append-only');
END;
