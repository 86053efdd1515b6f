package atomicfile

import "os"

// chmod does nothing: on Windows it could only set the read-only bit, which
// would make the next replacement fail.
func chmod(*os.File, os.FileMode) error { return nil }

// SyncDir does nothing: NTFS journals the rename.
func SyncDir(string) error { return nil }
