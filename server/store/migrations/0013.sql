-- Which node of a cluster holds a command's claim, '': none, or there is no cluster.
ALTER TABLE commands ADD COLUMN owner TEXT NOT NULL DEFAULT '';

-- Several nodes may change a rollout: each change is of what was read.
ALTER TABLE rollouts ADD COLUMN rev INTEGER NOT NULL DEFAULT 1;
