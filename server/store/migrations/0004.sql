-- Released programs. The bytes lie in files named by their hash.
CREATE TABLE builds (
  sha256       TEXT PRIMARY KEY, -- hex
  version      TEXT NOT NULL,
  os           TEXT NOT NULL,
  arch         TEXT NOT NULL,
  size         INTEGER NOT NULL, -- bytes
  signature    TEXT NOT NULL,    -- a minisign signature file
  published_by TEXT NOT NULL,
  published_at INTEGER NOT NULL,
  UNIQUE (version, os, arch)
);
