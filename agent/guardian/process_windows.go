package guardian

import "os"

// stacksAsker: no signal does it here; the order by the pipe may.
func stacksAsker(*os.Process) func() error { return nil }
