-- What became of a directive: its receipt and its outcome, as the agent told them.
ALTER TABLE directives ADD COLUMN accepted_at INTEGER;
ALTER TABLE directives ADD COLUMN ended_at INTEGER;
ALTER TABLE directives ADD COLUMN state TEXT NOT NULL DEFAULT ''; -- accepted, done or failed
ALTER TABLE directives ADD COLUMN code TEXT NOT NULL DEFAULT '';  -- of a refusal
ALTER TABLE directives ADD COLUMN detail TEXT NOT NULL DEFAULT '';
ALTER TABLE directives ADD COLUMN report BLOB; -- JSON, gzip
DROP INDEX directives_pending;
CREATE INDEX directives_open ON directives (agent, expires_at) WHERE ended_at IS NULL;
CREATE INDEX directives_agent ON directives (agent, created_at);
