-- Which node of a cluster holds a command's claim, '': none, or there is no cluster.
ALTER TABLE commands ADD COLUMN owner TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX commands_owner ON commands (owner) WHERE owner <> '';

-- Several nodes may change a rollout: each change is of what was read.
ALTER TABLE rollouts ADD COLUMN rev BIGINT NOT NULL DEFAULT 1;

-- Each node writes by a connection of its own, and has a row; without a cluster there is one.
ALTER TABLE writer DROP COLUMN one;
DELETE FROM writer WHERE owner = '';
ALTER TABLE writer ADD PRIMARY KEY (owner);
ALTER TABLE writer ADD COLUMN since BIGINT NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

-- The nodes of a cluster that live: each renews its row. Times are the database's own.
CREATE TABLE nodes (
  id     TEXT COLLATE "C" PRIMARY KEY, -- of one lease: a node that lost it gets another
  name   TEXT COLLATE "C" NOT NULL, -- for people
  same   TEXT COLLATE "C" NOT NULL, -- what all nodes must agree in
  since  BIGINT NOT NULL,
  until  BIGINT NOT NULL -- its lease
);

-- The node that does what one alone must do.
CREATE TABLE leader (
  one  BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),
  node TEXT COLLATE "C" NOT NULL
);
INSERT INTO leader (node) VALUES ('');

CREATE SEQUENCE link_generation;

-- What a node sees of an agent: links, machines, signs of life. Gone with the node.
CREATE TABLE views (
  agent TEXT COLLATE "C" NOT NULL,
  node  TEXT COLLATE "C" NOT NULL,
  seen  TEXT COLLATE "C" NOT NULL, -- JSON, of package hub
  PRIMARY KEY (agent, node)
);
CREATE INDEX views_node ON views (node);

-- What was changed lately, for the nodes that did not hear of it: one row a transaction.
CREATE TABLE changes (
  seq    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  xid    BIGINT NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
  node   TEXT COLLATE "C" NOT NULL,
  at     BIGINT NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
  topics TEXT[] NOT NULL
);
CREATE INDEX changes_xid ON changes (xid);
CREATE INDEX changes_at ON changes (at);

-- Tokens of agents that were used, at whichever node, until they would be refused by their times.
CREATE TABLE used_tokens (
  agent TEXT COLLATE "C" NOT NULL,
  id    TEXT COLLATE "C" NOT NULL,
  until BIGINT NOT NULL,
  PRIMARY KEY (agent, id)
);
CREATE INDEX used_tokens_until ON used_tokens (until);
