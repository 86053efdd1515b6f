-- Words that operators group agents by.
CREATE TABLE agent_tags (
  agent TEXT NOT NULL REFERENCES agents (id),
  tag   TEXT NOT NULL,
  PRIMARY KEY (agent, tag)
);

-- One script for many agents.
CREATE TABLE jobs (
  id          TEXT PRIMARY KEY, -- time-ordered
  pick        TEXT NOT NULL, -- JSON, operator.Pick
  shell       TEXT NOT NULL,
  script      TEXT NOT NULL,
  timeout_ms  INTEGER NOT NULL,
  max_output  INTEGER NOT NULL,
  at_once     INTEGER NOT NULL, -- 0: all
  stop_after  TEXT NOT NULL, -- failures, '': never
  idem_key    TEXT,
  state       TEXT NOT NULL, -- running, stopping or done
  reason      TEXT NOT NULL DEFAULT '',
  cancelled   INTEGER NOT NULL DEFAULT 0, -- set: what has begun is stopped, too
  created_by  TEXT NOT NULL,
  created_at  INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL,
  ended_at    INTEGER,
  members     INTEGER NOT NULL, -- how many agents were chosen
  deleting    INTEGER NOT NULL DEFAULT 0 -- set: it is gone, and its rows go in chunks
);
CREATE UNIQUE INDEX jobs_idem ON jobs (idem_key) WHERE idem_key IS NOT NULL;
CREATE INDEX jobs_created ON jobs (created_at);
CREATE INDEX jobs_open ON jobs (created_at) WHERE ended_at IS NULL;
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;

-- Whom a job has. The id of an agent's command is settled with the job, so that it is made
-- once; what became of it is the command's to tell.
CREATE TABLE job_agents (
  job     TEXT NOT NULL REFERENCES jobs (id),
  n       INTEGER NOT NULL, -- its place, from 1
  agent   TEXT NOT NULL REFERENCES agents (id),
  command TEXT NOT NULL,
  reason  TEXT NOT NULL DEFAULT '', -- why there is none, '': there is, or it waits
  PRIMARY KEY (job, n)
);
CREATE UNIQUE INDEX job_agents_command ON job_agents (command);
CREATE INDEX job_agents_agent ON job_agents (agent);

CREATE INDEX commands_old ON commands (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX directives_old ON directives (expires_at);
