-- An endpoint that puts an update off is ordered again, some times.
ALTER TABLE rollout_agents ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollout_agents ADD COLUMN not_before INTEGER;
