-- Words that operators group agents by.
CREATE TABLE agent_tags (
  agent TEXT NOT NULL REFERENCES agents (id),
  tag   TEXT NOT NULL,
  PRIMARY KEY (agent, tag)
);
