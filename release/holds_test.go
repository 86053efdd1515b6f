package release

import (
	"bytes"
	"testing"
)

func TestAVersionIsFoundWhereverItLies(t *testing.T) {
	const part = 256 << 10
	for _, at := range []int{0, 1000, part - 3, part, 2*part - 9, 3*part - 7} {
		program := make([]byte, 3*part)
		for i := range program {
			program[i] = 'x'
		}
		copy(program[at:], "v1.2.3\x00")
		held, err := HoldsVersion(bytes.NewReader(program), "v1.2.3")
		if err != nil || !held {
			t.Errorf("at %d: %v, %v", at, held, err)
		}
	}
	for _, program := range []string{"", "v1.2.3", "v1.2.30\x00", "v1.2.3\t"} { // the last as a module's in the build information
		if held, err := HoldsVersion(bytes.NewReader([]byte(program)), "v1.2.3"); err != nil || held {
			t.Errorf("%q: %v, %v", program, held, err)
		}
	}
}
