-- What the change of a link proves, or what a step of the agent's own is taken for: the code
-- of a verdict, '': none.
ALTER TABLE agent_events ADD COLUMN verdict TEXT COLLATE "C" NOT NULL DEFAULT '';
-- When the step was taken by the agent's own clock, which names it; 0: it is none.
ALTER TABLE agent_events ADD COLUMN told BIGINT NOT NULL DEFAULT 0;
