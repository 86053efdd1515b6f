package footprint

import (
	"strings"
	"testing"
)

// The program must go on as before: code, constants and type data come back.
func TestProgramGoesOnWithoutItsPages(t *testing.T) {
	for range 3 {
		dropProgramPages()
		if got := strings.ToUpper(strings.Repeat("still here ", 2)); got != "STILL HERE STILL HERE " {
			t.Fatal(got)
		}
	}
}
