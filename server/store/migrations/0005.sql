-- An operator's word on which of several machines keeps an identity; one row for
-- each machine that is to take a new one.
CREATE TABLE resolutions (
  id         TEXT PRIMARY KEY,
  agent      TEXT NOT NULL REFERENCES agents (id),
  kept       TEXT NOT NULL, -- JSON, wire.Copy
  other      TEXT NOT NULL, -- JSON, wire.Copy
  created_by TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  new_agent  TEXT NOT NULL DEFAULT '',
  done_at    INTEGER
);
CREATE INDEX resolutions_agent ON resolutions (agent, created_at);

-- The resolution that a token was made for, '': none.
ALTER TABLE enroll_tokens ADD COLUMN resolution TEXT NOT NULL DEFAULT '';
-- The identity that this machine had a copy of before, '': none.
ALTER TABLE agents ADD COLUMN was TEXT NOT NULL DEFAULT '';
