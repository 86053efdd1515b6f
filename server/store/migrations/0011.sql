-- What changed about an agent, and why. n counts within the agent: the rows below the
-- newest ones that are kept are deleted by range, without being counted.
CREATE TABLE agent_events (
  seq    INTEGER PRIMARY KEY AUTOINCREMENT, -- never used again: followers go on from it
  agent  TEXT NOT NULL REFERENCES agents (id),
  n      INTEGER NOT NULL,
  at     INTEGER NOT NULL,
  kind   TEXT NOT NULL,
  was    TEXT NOT NULL,
  now    TEXT NOT NULL,
  reason TEXT NOT NULL,
  link   TEXT NOT NULL -- '': of none
);
CREATE UNIQUE INDEX agent_events_agent ON agent_events (agent, n);
CREATE INDEX agent_events_at ON agent_events (at);

-- The last value of each kind, so that a restart of the server is no change of an agent.
CREATE TABLE agent_state (
  agent TEXT NOT NULL REFERENCES agents (id),
  kind  TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (agent, kind)
) WITHOUT ROWID;
