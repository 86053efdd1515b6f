-- A command's trace becomes a part of its row: a line of JSON for each stage, in order of
-- arrival. A step of its life is one row written then, whatever it tells.
ALTER TABLE commands ADD COLUMN trace TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE commands SET trace = coalesce((SELECT string_agg(json_build_object('s', s.stage, 't', s.at, 'e', s.side, 'a', s.attempt, 'c', s.channel, 'l', s.link, 'n', s.note)::text
  || chr(10), '' ORDER BY s.seq) FROM stages s WHERE s.command = commands.id), '');
DROP TABLE stages;
