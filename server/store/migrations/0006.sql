-- Rollouts of a version, and each endpoint's part in one.
CREATE TABLE rollouts (
  id         TEXT PRIMARY KEY, -- time-ordered
  version    TEXT NOT NULL,
  plan       TEXT NOT NULL, -- JSON, operator.RolloutPlan
  state      TEXT NOT NULL, -- active, stopped or done
  reason     TEXT NOT NULL DEFAULT '',
  ring       INTEGER NOT NULL DEFAULT 0,
  soak_since INTEGER, -- the ring is through since then
  resumed_at INTEGER, -- failures before do not count
  created_by TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  ended_at   INTEGER
);

CREATE TABLE rollout_agents (
  rollout    TEXT NOT NULL REFERENCES rollouts (id),
  agent      TEXT NOT NULL REFERENCES agents (id),
  ring       INTEGER NOT NULL,
  state      TEXT NOT NULL, -- waiting, ordered, running, done, failed or skipped
  directive  TEXT NOT NULL DEFAULT '',
  ordered_at INTEGER,
  ended_at   INTEGER,
  detail     TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (rollout, agent)
);
