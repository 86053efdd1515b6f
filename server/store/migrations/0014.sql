-- A command's trace becomes a part of its row: a line of JSON for each stage, in order of
-- arrival. A step of its life is one row written then, whatever it tells.
ALTER TABLE commands ADD COLUMN trace TEXT NOT NULL DEFAULT '';
UPDATE commands SET trace = coalesce((SELECT group_concat(json_object('s', s.stage, 't', s.at, 'e', s.side, 'a', s.attempt, 'c', s.channel, 'l', s.link, 'n', s.note)
  || char(10), '') FROM (SELECT * FROM stages WHERE command = commands.id ORDER BY seq) s), '');
DROP TABLE stages;
