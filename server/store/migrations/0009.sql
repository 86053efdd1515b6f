-- An agent that an operator removed: its key is no identity any more. The row stays, so
-- that the endpoint can be told, and so that nobody enrolls with that key again.
ALTER TABLE agents ADD COLUMN removed_at INTEGER;
ALTER TABLE agents ADD COLUMN removed_by TEXT NOT NULL DEFAULT '';
-- Set: what was known of it is deleted.
ALTER TABLE agents ADD COLUMN purged INTEGER NOT NULL DEFAULT 0;
