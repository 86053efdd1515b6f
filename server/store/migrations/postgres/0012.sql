-- A PostgreSQL begins here, with the schema that SQLite has come to by its steps up to this
-- number; from here on both go on with the same numbers.
--
-- Times are microseconds since 1970, UTC. NULL is "never was". Text is compared byte by
-- byte (COLLATE "C"), whatever the database's own order is.

CREATE TABLE enroll_tokens (
  id         TEXT COLLATE "C" PRIMARY KEY,
  hash       BYTEA NOT NULL UNIQUE, -- SHA-256; the token itself is nowhere
  site       TEXT COLLATE "C" NOT NULL,
  uses_left  BIGINT NOT NULL CHECK (uses_left >= 0),
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  resolution TEXT COLLATE "C" NOT NULL DEFAULT '' -- that it was made for, '': none
);

CREATE TABLE operator_tokens (
  name       TEXT COLLATE "C" PRIMARY KEY,
  hash       BYTEA NOT NULL UNIQUE,
  created_at BIGINT NOT NULL,
  last_used  BIGINT
);

CREATE TABLE agents (
  id           TEXT COLLATE "C" PRIMARY KEY,
  public_key   BYTEA NOT NULL UNIQUE,
  name         TEXT COLLATE "C" NOT NULL,
  site         TEXT COLLATE "C" NOT NULL,
  platform     TEXT COLLATE "C" NOT NULL, -- JSON
  version      TEXT COLLATE "C" NOT NULL,
  fingerprint  TEXT COLLATE "C" NOT NULL,
  enrolled_at  BIGINT NOT NULL,
  enroll_token TEXT COLLATE "C" NOT NULL, -- id, kept after the token is deleted
  quarantined  BOOLEAN NOT NULL DEFAULT false,
  last_seen    BIGINT,
  last_via     TEXT COLLATE "C" NOT NULL DEFAULT '',
  metrics      TEXT COLLATE "C", -- JSON, the latest
  was          TEXT COLLATE "C" NOT NULL DEFAULT '', -- the identity that this machine had a copy of before
  removed_at   BIGINT,
  removed_by   TEXT COLLATE "C" NOT NULL DEFAULT '',
  purged       BIGINT NOT NULL DEFAULT 0 -- set: what was known of it is deleted
);
CREATE INDEX agents_name ON agents (lower(name));

CREATE TABLE commands (
  id           TEXT COLLATE "C" PRIMARY KEY, -- time-ordered
  agent        TEXT COLLATE "C" NOT NULL REFERENCES agents (id),
  shell        TEXT COLLATE "C" NOT NULL,
  script       TEXT COLLATE "C" NOT NULL,
  timeout_ms   BIGINT NOT NULL,
  max_output   BIGINT NOT NULL,
  created_at   BIGINT NOT NULL,
  created_by   TEXT COLLATE "C" NOT NULL,
  expires_at   BIGINT NOT NULL,
  idem_key     TEXT COLLATE "C",
  state        TEXT COLLATE "C" NOT NULL,
  reason       TEXT COLLATE "C" NOT NULL DEFAULT '',
  attempts     BIGINT NOT NULL DEFAULT 0,
  channel      TEXT COLLATE "C" NOT NULL DEFAULT '',
  acked_at     BIGINT,
  ended_at     BIGINT,
  exit_code    BIGINT,
  stdout_bytes BIGINT NOT NULL DEFAULT 0, -- held without a gap
  stderr_bytes BIGINT NOT NULL DEFAULT 0,
  stdout_lost  BIGINT NOT NULL DEFAULT 0,
  stderr_lost  BIGINT NOT NULL DEFAULT 0,
  cancel_at    BIGINT,
  cancel_by    TEXT COLLATE "C" NOT NULL DEFAULT '',
  rev          BIGINT NOT NULL DEFAULT 1,
  orphans      BOOLEAN NOT NULL DEFAULT false -- set: processes left behind still held its output when it ended
) WITH (fillfactor = 60); -- a row changes some times soon after it is made: room for that in its page
CREATE UNIQUE INDEX commands_idem ON commands (agent, idem_key) WHERE idem_key IS NOT NULL;
CREATE INDEX commands_agent ON commands (agent, created_at);
CREATE INDEX commands_created ON commands (created_at);
CREATE INDEX commands_active ON commands (agent, created_at) WHERE state IN ('pending', 'running');
CREATE INDEX commands_ended ON commands (agent, ended_at) WHERE acked_at IS NOT NULL;
CREATE INDEX commands_old ON commands (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE stages (
  seq     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  command TEXT COLLATE "C" NOT NULL REFERENCES commands (id),
  stage   TEXT COLLATE "C" NOT NULL,
  attempt BIGINT NOT NULL,
  side    TEXT COLLATE "C" NOT NULL, -- server or agent
  channel TEXT COLLATE "C" NOT NULL,
  link    TEXT COLLATE "C" NOT NULL,
  at      BIGINT NOT NULL,
  note    TEXT COLLATE "C" NOT NULL -- short enough for an index
);
CREATE UNIQUE INDEX stages_once ON stages (command, stage, attempt, side, channel, note);

CREATE TABLE outputs (
  command TEXT COLLATE "C" NOT NULL REFERENCES commands (id),
  stream  TEXT COLLATE "C" NOT NULL,
  start   BIGINT NOT NULL, -- byte offset
  data    BYTEA NOT NULL,
  PRIMARY KEY (command, stream, start)
);

CREATE TABLE directives (
  id           TEXT COLLATE "C" PRIMARY KEY,
  agent        TEXT COLLATE "C" NOT NULL REFERENCES agents (id),
  payload      TEXT COLLATE "C" NOT NULL, -- JSON, wire.Directive
  created_by   TEXT COLLATE "C" NOT NULL,
  created_at   BIGINT NOT NULL,
  expires_at   BIGINT NOT NULL,
  delivered_at BIGINT,
  accepted_at  BIGINT,
  ended_at     BIGINT,
  state        TEXT COLLATE "C" NOT NULL DEFAULT '', -- accepted, done or failed
  code         TEXT COLLATE "C" NOT NULL DEFAULT '', -- of a refusal
  detail       TEXT COLLATE "C" NOT NULL DEFAULT '',
  report       BYTEA -- JSON, gzip
);
CREATE INDEX directives_open ON directives (agent, expires_at) WHERE ended_at IS NULL;
CREATE INDEX directives_agent ON directives (agent, created_at);
CREATE INDEX directives_old ON directives (expires_at);

CREATE TABLE beacons (
  seq         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  report_id   TEXT COLLATE "C" NOT NULL UNIQUE,
  agent       TEXT COLLATE "C" NOT NULL REFERENCES agents (id),
  received_at BIGINT NOT NULL,
  verdict     TEXT COLLATE "C" NOT NULL,
  sentence    TEXT COLLATE "C" NOT NULL,
  report      BYTEA NOT NULL, -- JSON, gzip
  view        TEXT COLLATE "C", -- JSON, wire.ServerView
  addr        TEXT COLLATE "C" NOT NULL
);
CREATE INDEX beacons_agent ON beacons (agent, seq);

-- Released programs. The bytes lie in files named by their hash.
CREATE TABLE builds (
  sha256       TEXT COLLATE "C" PRIMARY KEY, -- hex
  version      TEXT COLLATE "C" NOT NULL,
  os           TEXT COLLATE "C" NOT NULL,
  arch         TEXT COLLATE "C" NOT NULL,
  size         BIGINT NOT NULL, -- bytes
  signature    TEXT COLLATE "C" NOT NULL, -- a minisign signature file
  published_by TEXT COLLATE "C" NOT NULL,
  published_at BIGINT NOT NULL,
  UNIQUE (version, os, arch)
);

-- An operator's word on which of several machines keeps an identity; one row for
-- each machine that is to take a new one.
CREATE TABLE resolutions (
  id         TEXT COLLATE "C" PRIMARY KEY,
  agent      TEXT COLLATE "C" NOT NULL REFERENCES agents (id),
  kept       TEXT COLLATE "C" NOT NULL, -- JSON, wire.Copy
  other      TEXT COLLATE "C" NOT NULL, -- JSON, wire.Copy
  created_by TEXT COLLATE "C" NOT NULL,
  created_at BIGINT NOT NULL,
  new_agent  TEXT COLLATE "C" NOT NULL DEFAULT '',
  done_at    BIGINT
);
CREATE INDEX resolutions_agent ON resolutions (agent, created_at);

-- Rollouts of a version, and each endpoint's part in one.
CREATE TABLE rollouts (
  id         TEXT COLLATE "C" PRIMARY KEY, -- time-ordered
  version    TEXT COLLATE "C" NOT NULL,
  plan       TEXT COLLATE "C" NOT NULL, -- JSON, operator.RolloutPlan
  state      TEXT COLLATE "C" NOT NULL, -- active, stopped or done
  reason     TEXT COLLATE "C" NOT NULL DEFAULT '',
  ring       BIGINT NOT NULL DEFAULT 0,
  soak_since BIGINT, -- the ring is through since then
  resumed_at BIGINT, -- failures before do not count
  created_by TEXT COLLATE "C" NOT NULL,
  created_at BIGINT NOT NULL,
  ended_at   BIGINT
);

CREATE TABLE rollout_agents (
  rollout    TEXT COLLATE "C" NOT NULL REFERENCES rollouts (id),
  agent      TEXT COLLATE "C" NOT NULL REFERENCES agents (id),
  ring       BIGINT NOT NULL,
  state      TEXT COLLATE "C" NOT NULL, -- waiting, ordered, running, done, failed or skipped
  directive  TEXT COLLATE "C" NOT NULL DEFAULT '',
  ordered_at BIGINT,
  ended_at   BIGINT,
  detail     TEXT COLLATE "C" NOT NULL DEFAULT '',
  attempts   BIGINT NOT NULL DEFAULT 0, -- one that puts an update off is ordered again, some times
  not_before BIGINT,
  PRIMARY KEY (rollout, agent)
);

-- Support bundles of endpoints. The bytes lie in files of their own.
CREATE TABLE bundles (
  id           TEXT COLLATE "C" PRIMARY KEY, -- given by the endpoint
  agent        TEXT COLLATE "C" NOT NULL REFERENCES agents (id),
  sha256       TEXT COLLATE "C" NOT NULL, -- hex, of the whole
  size         BIGINT NOT NULL, -- bytes, of the whole
  held         BIGINT NOT NULL DEFAULT 0, -- bytes durably there from the first on
  reason       TEXT COLLATE "C" NOT NULL,
  made_at      BIGINT, -- by the endpoint's clock
  began_at     BIGINT NOT NULL,
  completed_at BIGINT
);
CREATE INDEX bundles_agent ON bundles (agent, began_at);

-- What changed about an agent, and why. n counts within the agent: the rows below the
-- newest ones that are kept are deleted by range, without being counted.
CREATE TABLE agent_events (
  seq    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- never used again: followers go on from it
  agent  TEXT COLLATE "C" NOT NULL REFERENCES agents (id),
  n      BIGINT NOT NULL,
  at     BIGINT NOT NULL,
  kind   TEXT COLLATE "C" NOT NULL,
  was    TEXT COLLATE "C" NOT NULL,
  now    TEXT COLLATE "C" NOT NULL,
  reason TEXT COLLATE "C" NOT NULL,
  link   TEXT COLLATE "C" NOT NULL -- '': of none
);
CREATE UNIQUE INDEX agent_events_agent ON agent_events (agent, n);
CREATE INDEX agent_events_at ON agent_events (at);

-- The last value of each kind, so that a restart of the server is no change of an agent.
CREATE TABLE agent_state (
  agent TEXT COLLATE "C" NOT NULL REFERENCES agents (id),
  kind  TEXT COLLATE "C" NOT NULL,
  value TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (agent, kind)
);

-- Words that operators group agents by.
CREATE TABLE agent_tags (
  agent TEXT COLLATE "C" NOT NULL REFERENCES agents (id),
  tag   TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (agent, tag)
);

-- One script for many agents.
CREATE TABLE jobs (
  id          TEXT COLLATE "C" PRIMARY KEY, -- time-ordered
  pick        TEXT COLLATE "C" NOT NULL, -- JSON, operator.Pick
  shell       TEXT COLLATE "C" NOT NULL,
  script      TEXT COLLATE "C" NOT NULL,
  timeout_ms  BIGINT NOT NULL,
  max_output  BIGINT NOT NULL,
  at_once     BIGINT NOT NULL, -- 0: all
  stop_after  TEXT COLLATE "C" NOT NULL, -- failures, '': never
  idem_key    TEXT COLLATE "C",
  state       TEXT COLLATE "C" NOT NULL, -- running, stopping or done
  reason      TEXT COLLATE "C" NOT NULL DEFAULT '',
  cancelled   BIGINT NOT NULL DEFAULT 0, -- set: what has begun is stopped, too
  created_by  TEXT COLLATE "C" NOT NULL,
  created_at  BIGINT NOT NULL,
  expires_at  BIGINT NOT NULL,
  ended_at    BIGINT,
  members     BIGINT NOT NULL, -- how many agents were chosen
  deleting    BIGINT NOT NULL DEFAULT 0 -- set: it is gone, and its rows go in chunks
);
CREATE UNIQUE INDEX jobs_idem ON jobs (idem_key) WHERE idem_key IS NOT NULL;
CREATE INDEX jobs_created ON jobs (created_at);
CREATE INDEX jobs_open ON jobs (created_at) WHERE ended_at IS NULL;
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;

-- Whom a job has. The id of an agent's command is settled with the job, so that it is made
-- once; what became of it is the command's to tell.
CREATE TABLE job_agents (
  job     TEXT COLLATE "C" NOT NULL REFERENCES jobs (id),
  n       BIGINT NOT NULL, -- its place, from 1
  agent   TEXT COLLATE "C" NOT NULL REFERENCES agents (id),
  command TEXT COLLATE "C" NOT NULL,
  reason  TEXT COLLATE "C" NOT NULL DEFAULT '', -- why there is none, '': there is, or it waits
  PRIMARY KEY (job, n)
);
CREATE UNIQUE INDEX job_agents_command ON job_agents (command);
CREATE INDEX job_agents_agent ON job_agents (agent);

-- A request that was let in before an agent was removed may come to its end after it, even
-- after all of it was purged: it leaves nothing. The program knows GR001.
CREATE FUNCTION refuse_row_of_the_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM agents WHERE id = NEW.agent AND removed_at IS NOT NULL) THEN
    RAISE EXCEPTION 'the agent was removed' USING ERRCODE = 'GR001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER commands_of_the_removed BEFORE INSERT ON commands FOR EACH ROW EXECUTE FUNCTION refuse_row_of_the_removed();
CREATE TRIGGER directives_of_the_removed BEFORE INSERT ON directives FOR EACH ROW EXECUTE FUNCTION refuse_row_of_the_removed();
CREATE TRIGGER beacons_of_the_removed BEFORE INSERT ON beacons FOR EACH ROW EXECUTE FUNCTION refuse_row_of_the_removed();
CREATE TRIGGER bundles_of_the_removed BEFORE INSERT ON bundles FOR EACH ROW EXECUTE FUNCTION refuse_row_of_the_removed();
CREATE TRIGGER resolutions_of_the_removed BEFORE INSERT ON resolutions FOR EACH ROW EXECUTE FUNCTION refuse_row_of_the_removed();

-- Which server writes here, and the number of its last transaction: so a server whose
-- connection broke while it committed finds out whether the transaction is stored.
CREATE TABLE writer (
  one   BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),
  owner TEXT COLLATE "C" NOT NULL,
  n     BIGINT NOT NULL
);
INSERT INTO writer (owner, n) VALUES ('', 0);

-- A transaction of a server that is the writer no more must not be stored.
CREATE FUNCTION note_transaction(by TEXT, number BIGINT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE writer SET n = number WHERE owner = by;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'another server has become the writer of this database' USING ERRCODE = 'GR002';
  END IF;
END $$;
