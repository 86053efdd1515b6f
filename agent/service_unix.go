//go:build unix

package agent

import "context"

// RunService runs run as the service manager wants it: here as any program. A
// failed run ends the process with a code other than 0, and it is started again.
func (s *Setup) RunService(ctx context.Context, run func(context.Context) error) error {
	return run(ctx)
}

// StartPackaged is what to type to start the service that a package brought; "": none did.
func StartPackaged() string { return startPackaged("/") }
