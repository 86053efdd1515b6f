package oob_test

import (
	"os/exec"
	"strings"
	"testing"
)

// The second door must not share the path it repairs. Whatever it imports, directly
// or not, is listed by the go command itself, for each platform.
func TestImportsNothingOfTheLink(t *testing.T) {
	forbidden := map[string]string{
		"github.com/gorilla/websocket": "the link's library",
		"gururmm/session":              "the link's session",
		"gururmm/agent/link":           "the link's dialer",
		"gururmm/agent/worker":         "the process that holds the link",
	}
	for _, goos := range []string{"linux", "windows", "darwin"} {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", ".")
		cmd.Env = append(cmd.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list for %s: %v", goos, err)
		}
		deps := strings.Fields(string(out))
		if len(deps) < 50 {
			t.Fatalf("go list for %s gave only %v", goos, deps)
		}
		for _, dep := range deps {
			if why, bad := forbidden[dep]; bad {
				t.Errorf("on %s package oob imports %s, %s", goos, dep, why)
			}
		}
	}
}
