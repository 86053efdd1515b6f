-- Set: processes that the command left behind still held its output when it ended.
ALTER TABLE commands ADD COLUMN orphans INTEGER NOT NULL DEFAULT 0;
