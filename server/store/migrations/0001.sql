-- Times are microseconds since 1970, UTC. NULL is "never was".

CREATE TABLE enroll_tokens (
  id         TEXT PRIMARY KEY,
  hash       BLOB NOT NULL UNIQUE, -- SHA-256; the token itself is nowhere
  site       TEXT NOT NULL,
  uses_left  INTEGER NOT NULL CHECK (uses_left >= 0),
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
);

CREATE TABLE operator_tokens (
  name       TEXT PRIMARY KEY,
  hash       BLOB NOT NULL UNIQUE,
  created_at INTEGER NOT NULL,
  last_used  INTEGER
);

CREATE TABLE agents (
  id           TEXT PRIMARY KEY,
  public_key   BLOB NOT NULL UNIQUE,
  name         TEXT NOT NULL,
  site         TEXT NOT NULL,
  platform     TEXT NOT NULL, -- JSON
  version      TEXT NOT NULL,
  fingerprint  TEXT NOT NULL,
  enrolled_at  INTEGER NOT NULL,
  enroll_token TEXT NOT NULL, -- id, kept after the token is deleted
  quarantined  INTEGER NOT NULL DEFAULT 0,
  last_seen    INTEGER,
  last_via     TEXT NOT NULL DEFAULT '',
  metrics      TEXT -- JSON, the latest
);
CREATE INDEX agents_name ON agents (lower(name));

CREATE TABLE commands (
  id           TEXT PRIMARY KEY, -- time-ordered
  agent        TEXT NOT NULL REFERENCES agents (id),
  shell        TEXT NOT NULL,
  script       TEXT NOT NULL,
  timeout_ms   INTEGER NOT NULL,
  max_output   INTEGER NOT NULL,
  created_at   INTEGER NOT NULL,
  created_by   TEXT NOT NULL,
  expires_at   INTEGER NOT NULL,
  idem_key     TEXT,
  state        TEXT NOT NULL,
  reason       TEXT NOT NULL DEFAULT '',
  attempts     INTEGER NOT NULL DEFAULT 0,
  channel      TEXT NOT NULL DEFAULT '',
  acked_at     INTEGER,
  ended_at     INTEGER,
  exit_code    INTEGER,
  stdout_bytes INTEGER NOT NULL DEFAULT 0, -- held without a gap
  stderr_bytes INTEGER NOT NULL DEFAULT 0,
  stdout_lost  INTEGER NOT NULL DEFAULT 0,
  stderr_lost  INTEGER NOT NULL DEFAULT 0,
  cancel_at    INTEGER,
  cancel_by    TEXT NOT NULL DEFAULT '',
  rev          INTEGER NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX commands_idem ON commands (agent, idem_key) WHERE idem_key IS NOT NULL;
CREATE INDEX commands_agent ON commands (agent, created_at);
CREATE INDEX commands_created ON commands (created_at);
CREATE INDEX commands_active ON commands (agent, created_at) WHERE state IN ('pending', 'running');
CREATE INDEX commands_ended ON commands (agent, ended_at) WHERE acked_at IS NOT NULL;

CREATE TABLE stages (
  seq     INTEGER PRIMARY KEY AUTOINCREMENT,
  command TEXT NOT NULL REFERENCES commands (id),
  stage   TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  side    TEXT NOT NULL, -- server or agent
  channel TEXT NOT NULL,
  link    TEXT NOT NULL,
  at      INTEGER NOT NULL,
  note    TEXT NOT NULL
);
CREATE UNIQUE INDEX stages_once ON stages (command, stage, attempt, side, channel, note);

CREATE TABLE outputs (
  command TEXT NOT NULL REFERENCES commands (id),
  stream  TEXT NOT NULL,
  start   INTEGER NOT NULL, -- byte offset
  data    BLOB NOT NULL,
  PRIMARY KEY (command, stream, start)
);

CREATE TABLE directives (
  id           TEXT PRIMARY KEY,
  agent        TEXT NOT NULL REFERENCES agents (id),
  payload      TEXT NOT NULL, -- JSON, wire.Directive
  created_by   TEXT NOT NULL,
  created_at   INTEGER NOT NULL,
  expires_at   INTEGER NOT NULL,
  delivered_at INTEGER
);
CREATE INDEX directives_pending ON directives (agent, created_at) WHERE delivered_at IS NULL;

CREATE TABLE beacons (
  seq         INTEGER PRIMARY KEY AUTOINCREMENT,
  report_id   TEXT NOT NULL UNIQUE,
  agent       TEXT NOT NULL REFERENCES agents (id),
  received_at INTEGER NOT NULL,
  verdict     TEXT NOT NULL,
  sentence    TEXT NOT NULL,
  report      BLOB NOT NULL, -- JSON, gzip
  view        TEXT, -- JSON, wire.ServerView
  addr        TEXT NOT NULL
);
CREATE INDEX beacons_agent ON beacons (agent, seq);
