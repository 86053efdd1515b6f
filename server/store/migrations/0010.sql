-- A request that was let in before an agent was removed may come to its end after it, even
-- after all of it was purged: it leaves nothing. The program knows no other trigger.
CREATE TRIGGER commands_of_the_removed BEFORE INSERT ON commands WHEN (SELECT removed_at FROM agents WHERE id = NEW.agent) IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'the agent was removed'); END;
CREATE TRIGGER directives_of_the_removed BEFORE INSERT ON directives WHEN (SELECT removed_at FROM agents WHERE id = NEW.agent) IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'the agent was removed'); END;
CREATE TRIGGER beacons_of_the_removed BEFORE INSERT ON beacons WHEN (SELECT removed_at FROM agents WHERE id = NEW.agent) IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'the agent was removed'); END;
CREATE TRIGGER bundles_of_the_removed BEFORE INSERT ON bundles WHEN (SELECT removed_at FROM agents WHERE id = NEW.agent) IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'the agent was removed'); END;
CREATE TRIGGER resolutions_of_the_removed BEFORE INSERT ON resolutions WHEN (SELECT removed_at FROM agents WHERE id = NEW.agent) IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'the agent was removed'); END;
