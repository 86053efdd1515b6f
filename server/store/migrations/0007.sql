-- Support bundles of endpoints. The bytes lie in files of their own.
CREATE TABLE bundles (
  id           TEXT PRIMARY KEY, -- given by the endpoint
  agent        TEXT NOT NULL REFERENCES agents (id),
  sha256       TEXT NOT NULL,    -- hex, of the whole
  size         INTEGER NOT NULL, -- bytes, of the whole
  held         INTEGER NOT NULL DEFAULT 0, -- bytes durably there from the first on
  reason       TEXT NOT NULL,
  made_at      INTEGER, -- by the endpoint's clock
  began_at     INTEGER NOT NULL,
  completed_at INTEGER
);
CREATE INDEX bundles_agent ON bundles (agent, began_at);
