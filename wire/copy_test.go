package wire

import "testing"

func TestWhichCopy(t *testing.T) {
	copyOf := func(instance, boot, fingerprint string, before ...string) Copy {
		return Copy{Instance: instance, BootID: boot, Fingerprint: fingerprint, Before: before}
	}
	kept, other := copyOf("a1", "b1", "f1"), copyOf("c1", "b2", "f2", "a1")
	twin := copyOf("c1", "b2", "f1", "a1") // a clone whose machine can't be told by its fingerprint
	for _, c := range []struct {
		name  string
		who   Copy
		other Copy
		want  int
	}{
		{"the kept instance", kept, other, 1},
		{"the other instance", other, other, 2},
		{"the kept machine after a reboot", copyOf("a2", "b9", "f1", "a1"), other, 1},
		{"the other machine after a reboot", copyOf("c2", "b9", "f2", "c1", "a1"), other, 2},
		{"a third machine", copyOf("x1", "b9", "f9", "a1"), other, 0},
		{"twins: the kept one after a restart", copyOf("a2", "b1", "f1", "a1"), twin, 1},
		{"twins: the other one after a restart", copyOf("c2", "b2", "f1", "c1", "a1"), twin, 2},
		{"twins: the kept one after a reboot", copyOf("a2", "b7", "f1", "a1"), twin, 1},
		{"twins: the other one after a reboot", copyOf("c2", "b8", "f1", "c1", "a1"), twin, 2},
		{"twins: a third one from an older image", copyOf("x1", "b9", "f1", "a0"), twin, 0},
		{"twins: nothing known of its past", copyOf("x1", "b9", "f1"), twin, 0},
	} {
		if got := c.who.Which(kept, c.other); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	if (Copy{}).Valid() || !kept.Valid() || (Copy{Instance: "i", Before: make([]string, MaxBefore+1)}).Valid() {
		t.Error("bounds of a copy")
	}
}
