package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// Build compiles the programs of the module that the working directory is in
// into dir, with extra arguments for go build ("-race", "-tags=faults").
func Build(ctx context.Context, dir string, args ...string) (Binaries, error) {
	args = append(append([]string{"build", "-o", dir + string(filepath.Separator)}, args...),
		"gururmm/cmd/gururmm", "gururmm/cmd/gururmm-agent")
	out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput()
	if err != nil {
		return Binaries{}, fmt.Errorf("go %v: %w\n%s", args, err, out)
	}
	return Find(dir)
}

// Find gives the programs in dir, or says which is missing.
func Find(dir string) (Binaries, error) { return find(dir, "make build", "--bin") }

// FindFaults gives those with the seams for faults in dir, or says which is missing.
func FindFaults(dir string) (Binaries, error) { return find(dir, "make faults", "--faults") }

func find(dir, made, flag string) (Binaries, error) {
	suffix := ""
	if runtime.GOOS == "windows" {
		suffix = ".exe"
	}
	b := Binaries{Server: filepath.Join(dir, "gururmm"+suffix), Agent: filepath.Join(dir, "gururmm-agent"+suffix)}
	for _, file := range []string{b.Server, b.Agent} {
		if _, err := os.Stat(file); err != nil {
			return Binaries{}, fmt.Errorf("%s is missing: build it with `%s`, or name the directory with %s", file, made, flag)
		}
	}
	return b, nil
}
